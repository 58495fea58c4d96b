"""The same model on the soft core alone: cycles per token beside the accelerator's. See docs/performance.md."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from boards import BOARDS
from host.bench import BOARD
from host.errors import TritloomError
from host.image import Image
from host.session import DEFAULT_CONFIG, DEFAULT_MODEL, read_image, tokenizer_of
from host.soft_core import SoftCoreRun
from sim.softcore.run import BUILD, simulate

TOKENS = 64     # about two minutes on one core
PROMPT = "Once upon a time"
RESULT = BUILD / "result.json"


def main(
    model: Annotated[Path, typer.Option(help="Model directory, or an image file.")] = DEFAULT_MODEL,
    config: Annotated[str, typer.Option(help="Configuration whose token program runs.")] = DEFAULT_CONFIG,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = PROMPT,
    count: Annotated[int, typer.Option("-n", min=1, help="Positions to simulate, from 0.")] = TOKENS,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file for tritloom bench.")] = RESULT,
) -> None:
    """Simulate the soft core with the token program in C, and print its cycles per token."""
    notes = Console(stderr=True)
    try:
        image = read_image(model, config)
        run = simulate(image, tokenizer_of(image).encode(prompt), count,
                       command=shlex.join(["scripts/softcore", *sys.argv[1:]]), progress=lambda text: notes.print(text))
        run.save(output)
    except TritloomError as error:
        raise SystemExit(f"softcore: {error}") from error
    Console().print(comparison(run, image))
    notes.print(f"{count} tokens and the state after each equal the golden model; simulated at "
                f"{run.simulation_hz / 1e6:.1f} million cycles per second; {output} written")


def comparison(run: SoftCoreRun, image: Image) -> Table:
    """Soft core (simulated) beside accelerator (predicted), both at the board's target clocks."""
    clocks = BOARDS[BOARD].clocks[run.config]
    table = Table(title=f"{run.model} on {run.core} at {clocks.cpu_hz / 1e6:g} MHz (cycles simulated)\n"
                        f"and on {run.config} at {clocks.sync_hz / 1e6:g} MHz (cycles predicted)")
    for heading in ("position", "cycles", "tokens/s", "accelerator", "tokens/s", "cycles, times", "time, times"):
        table.add_column(heading, justify="right")
    accelerator = [image.predicted_cycles(position) for position in range(len(run.cycles))]
    last = len(run.cycles) - 1
    shown = [(str(position), float(run.cycles[position]), float(accelerator[position]))
             for position in sorted({0, last // 4, last // 2, last})]
    for name, slow, fast in [*shown, (f"mean of {last + 1}", run.mean, sum(accelerator) / (last + 1))]:
        slow_rate, fast_rate = clocks.cpu_hz / slow, clocks.sync_hz / fast
        table.add_row(name, f"{slow:,.0f}", f"{slow_rate:.2f}", f"{fast:,.0f}", f"{fast_rate:,.0f}",
                      f"{slow / fast:,.0f}", f"{fast_rate / slow_rate:,.0f}")
    return table


if __name__ == "__main__":
    typer.run(main)
