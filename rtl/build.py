"""The command ``python -m rtl.build``: makes a bitstream, and puts it on a board."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from boards import BOARDS, Board
from host.checkpoint import Shape, synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.image import Image
from host.session import read_image
from rtl.build_flow import LOG, REPORT, Build
from rtl.config import CONFIGS, Config
from rtl.firmware_build import FirmwareError
from rtl.soc import Soc

DEFAULT_CONFIG = "resident"
# There is no trained model of this size: the tiny configuration is for simulations and for the smallest FPGA.
RANDOM_MODELS = {
    "tiny": Shape(hidden=24, feed_forward=48, layers=2, heads=2, kv_heads=2, head_dim=4, vocab=512, context=64)}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def choose(what: str, name: str, choices: dict[str, object]) -> object:
    """The choice of that name.

    Raises
    ------
    TritloomError: there is none.
    """
    if name not in choices:
        raise TritloomError(f"there is no {what} {name!r}; choose {', '.join(choices)}")
    return choices[name]


def image_for(config: Config, model: Path | None) -> Image:
    """The image of the named model, or of the configuration's own.

    Raises
    ------
    TritloomError: the model is missing, damaged, or does not fit the configuration.
    """
    if model is None and config.name in RANDOM_MODELS:
        return compile_checkpoint(synthetic_checkpoint(RANDOM_MODELS[config.name]), config)
    return read_image(model, config.name)


def flash(board: Board, bitstream: Path, *, persist: bool) -> None:
    """Load a bitstream into the FPGA over USB, or into the flash it starts from.

    Raises
    ------
    TritloomError: openFPGALoader could not; the message says what it said.
    """
    command = [sys.executable, "-m", "openfpgaloader", "-b", board.name, *(["-f"] if persist else []), str(bitstream)]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = (result.stdout + result.stderr).strip().splitlines() or [f"exit status {result.returncode}"]
        if "libusb" in lines[-1] and "shared" in lines[-1]:
            raise TritloomError("openFPGALoader needs libusb; on Debian: sudo apt-get install libusb-1.0-0")
        raise TritloomError(f"{board.name} not programmed: {lines[-1]} (is it connected? may you use its USB port?)")
    print(f"{board.name}: {bitstream} loaded into {'its flash' if persist else 'the FPGA, until it loses power'}")


@app.command()
def build(
    board: Annotated[str, typer.Option(help="Board: " + ", ".join(BOARDS) + ".")],
    device: Annotated[str | None, typer.Option(help="FPGA of the board, such as 85F.")] = None,
    config: Annotated[str, typer.Option(help="Configuration: " + ", ".join(CONFIGS) + ".")] = DEFAULT_CONFIG,
    model: Annotated[Path | None, typer.Option(show_default="the configuration's own",
                                               help="Model directory or image.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the placement.")] = 1,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder of the results.")] = None,
    flash_it: Annotated[bool, typer.Option("--flash", help="Load the bitstream into the FPGA.")] = False,
    persist: Annotated[bool, typer.Option(help="With --flash: into the flash, to survive power-off.")] = False,
) -> None:
    """Make a bitstream: firmware, image, export, synthesis, place and route; fail when a clock is too slow."""
    chosen = choose("board", board, BOARDS)
    geometry = choose("configuration", config, CONFIGS)
    if config not in chosen.clocks:
        raise TritloomError(f"{board} has no clocks for configuration {config!r}; choose {', '.join(chosen.clocks)}")
    name = device or chosen.default_devices.get(config, chosen.default_device)
    choose("device", name, chosen.devices)
    if persist and not flash_it:
        raise TritloomError("--persist needs --flash")
    folder = output or Path("build") / f"{board}-{name}-{config}"
    job = Build(board=chosen, device=name, config=geometry, read_image=partial(image_for, geometry, model),
                make_soc=Soc, seed=seed, folder=folder)
    bitstream = job.run()
    print(f"bitstream {bitstream}, report {folder / REPORT}, log {folder / LOG}")
    if flash_it:
        flash(chosen, bitstream, persist=persist)


def main() -> None:
    """Run the command; what the user can mend is one line on the error stream and exit status 1."""
    try:
        app()
    except (TritloomError, FirmwareError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
