"""The command ``tritloom``."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from host.bench import (
    clock_of,
    image_rows,
    images,
    markdown,
    peer_rows,
    read_report,
    soft_core_rows,
    workload,
)
from host.compiler import compile_checkpoint
from host.device import Device
from host.errors import TritloomError
from host.image import Image
from host.importer import import_checkpoint
from host.integrity import Integrity, check_weights
from host.model_files import open_model
from host.planes import DEFAULT_ERROR, MOST_PLANES, PlaneBudget
from host.report import first_difference, summary, table
from host.selftest import check_device, check_host, check_link, check_memory
from host.session import Generation, Target, check_prompt, configuration_for, read_image, tokenizer_of
from host.slot_rows import slot_rows
from host.soft_core import SoftCoreRun
from host.swap import map_of, swap
from host.timeline import draw, idle_table, token_timeline, unit_table
from host.tokenizer import TextStream
from rtl.config import SIMULATED_CONFIGS
from rtl.csr_map import Speculation

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Runs ternary language models on Tritloom, simulated or on a board.")
notes = Console(stderr=True)

Model = Annotated[Path | None, typer.Option("--model", show_default="the configuration's own",
                                            help="Model directory, or an image file.")]
Config = Annotated[str | None, typer.Option("--config", show_default="the smallest for the model, or resident",
                                            help=f"Configuration: {', '.join(SIMULATED_CONFIGS)}.")]
Sim = Annotated[bool, typer.Option("--sim", help="Run on the simulated chip.")]
Speculate = Annotated[Literal["off", "lookup", "draft"], typer.Option(
    help="Who proposes tokens for idle slots: the text so far, or that and the draft model. The text stays the same.")]
Port = Annotated[str | None, typer.Option("--port", metavar="DEV", help="Serial port of a board.")]


@contextmanager
def opened(target: Target, image: Image, *, blank: bool = False) -> Iterator[Device]:
    """The device, with what it takes to get there shown on a status line."""
    with notes.status("") as status:
        with target.open(image, status.update, blank=blank) as device:
            status.stop()
            yield device


def load_image(device: Device, image: Image) -> bool:
    """Load the image unless the device holds it; shows a bar."""
    columns = (TextColumn("loading"), BarColumn(), MofNCompleteColumn(), TextColumn("words"), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task("load")
        return device.load(image, progress=lambda done, total: bar.update(task, completed=done, total=total))


@app.command()
def run(
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    count: Annotated[int, typer.Option("-n", min=1, help="Tokens to generate.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=0xFFFFFFFF, help="Of sampling.")] = 0,
    sim: Sim = False,
    port: Port = None,
    model: Model = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text and table.")] = False,
    speculate: Speculate = "off",
    slide: Annotated[bool, typer.Option("--slide", help="Go on when the context is full.")] = False,
    trace: Annotated[Path | None, typer.Option(help="Waveform file (VCD) of the simulated chip.")] = None,
    max_cycles: Annotated[int | None, typer.Option(min=1, help="End the simulation after so many cycles.")] = None,
) -> None:
    """Continue a text, token by token."""
    target = Target(sim, port, trace, max_cycles)
    image = read_image(model, config)
    tokenizer = tokenizer_of(image)
    tokens = tokenizer.encode(prompt)
    check_prompt(tokens, image)
    text, stream = "", TextStream(tokenizer)
    with opened(target, image) as device:
        load_image(device, image)
        generation = Generation(device, image, temperature=temperature, seed=seed, slide=slide,
                                speculation=Speculation[speculate.upper()])
        text += show("".join(stream.feed(token) for token in tokens), quiet=as_json)
        try:
            for done in generation.run(tokens, count):
                if done.generated:
                    text += show(stream.feed(done.token), quiet=as_json)
        except KeyboardInterrupt:
            generation.stopped = "interrupted"
        text += show(stream.finish(), quiet=as_json)
        clock_hz = device.hello.clock_hz
    result = summary(generation, text=text, clock_hz=clock_hz, provenance=target.provenance)
    if as_json:
        print(json.dumps(result))
    else:
        print("\n")
        Console().print(table(result))
        if generation.stopped:
            notes.print(f"stopped: {generation.stopped}", style="yellow")
    if wrong := first_difference(generation):
        raise TritloomError(f"position {wrong.position}: the device sampled token {wrong.token}, the golden model "
                            f"{wrong.golden}; run `tritloom selftest`")


def show(text: str, *, quiet: bool) -> str:
    """Print text at once unless quiet; returns it."""
    if not quiet:
        print(text, end="", flush=True)
    return text


@app.command()
def load(sim: Sim = False, port: Port = None, model: Model = None, config: Config = None) -> None:
    """Load a model into a device; a simulated one starts empty, to rehearse the transfer."""
    target = Target(sim, port)
    image = read_image(model, config)
    with opened(target, image, blank=True) as device:
        loaded = load_image(device, image)
        print(f"image {image.image_id:08x} {'loaded and verified' if loaded else 'is already there'}")


@app.command()
def info(sim: Sim = False, port: Port = None, model: Model = None, config: Config = None) -> None:
    """Say what a device is and what it holds."""
    target = Target(sim, port)
    image = read_image(model, config)
    with opened(target, image) as device:
        hello = device.hello
    print(f"firmware   {hello.firmware_version}")
    known = next((name for name, known in SIMULATED_CONFIGS.items() if known.geometry == hello.geometry), "unknown")
    print(f"geometry   {hello.geometry:08x} ({known})")
    print(f"weights    {'streamed from SDRAM' if hello.streams else 'resident'}")
    print(f"image      {f'{hello.image_id:08x}' if hello.image_id else 'none'}")
    print(f"context    {hello.context} positions, {hello.vocab} tokens")
    print(f"clock      {hello.clock_hz / 1e6:g} MHz")
    print(f"link       {hello.undecodable} undecodable frames, {hello.overruns} receive overruns")


@app.command()
def selftest(
    sim: Sim = False,
    port: Port = None,
    model: Model = None,
    config: Config = None,
    memory_words: Annotated[int, typer.Option(min=0, help="SDRAM words to test first; the image is then loaded again.")
                            ] = 0,
) -> None:
    """Check host, link and device in turn, and say which one is at fault."""
    target = Target(sim, port)
    image = read_image(model, config)
    print(f"host    ok: {check_host(image)}")
    with opened(target, image) as device:
        print(f"link    ok: {check_link(device)}")
        if memory_words:
            print(f"memory  ok: {check_memory(device, memory_words)}")
        load_image(device, image)
        print(f"device  ok: {check_device(device, image)}")


@app.command("compile")
def compile_model(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Image file to write.")],
    config: Config = None,
) -> None:
    """Compile a model into an image file."""
    if not model.is_dir():
        raise TritloomError(f"{model}: no such model directory")
    image = read_image(model, config)
    image.save(output)
    print(f"{output}: image {image.image_id:08x} for {image.config.name}, {len(image.program)} operations, "
          f"{image.predicted_cycles(0)} to {image.predicted_cycles(image.context - 1)} cycles per token")


@app.command("swap")
def swap_model(
    bitstream: Annotated[Path, typer.Argument(help="Bitstream of a build, with its map beside it.")],
    image: Annotated[Path, typer.Argument(help="Image file, or a model directory.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", show_default="the bitstream itself",
                                                help="Bitstream to write; its map goes beside it.")] = None,
) -> None:
    """Put another model into a routed bitstream, without place and route."""
    target = output or bitstream
    held, blocks = swap(bitstream, image, target)
    print(f"{target}: image {held.image_id:08x} for {held.config.name} in {blocks} block RAMs, map {map_of(target)}")


@app.command("list")
def list_program(
    image: Annotated[Path, typer.Argument(help="Image file, or a model directory.")],
    config: Config = None,
) -> None:
    """Print the token program with predicted cycles."""
    print(read_image(image, config).listing())


@app.command()
def fit(
    model: Annotated[Path, typer.Argument(help="Model directory, or a GGUF file.")],
    board: Annotated[str, typer.Option(help="Board to size it for.")] = "ulx3s",
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Say from a model's headers alone whether a board can hold it, and how fast it may run."""
    from host.fit import fit as size_model  # boards bring the hardware description language, slow to import
    from host.fit_report import conclusion, fit_summary, limit_table, tensor_table

    files = open_model(model)
    found = size_model(files, board, config)
    if as_json:
        print(json.dumps(fit_summary(files, found)))
    else:
        out = Console(markup=False)     # a foreign file names its tensors as it likes
        out.print(tensor_table(files, found))
        out.print(limit_table(found))
        print("\n".join(conclusion(found)))
    if not found.fits:
        raise TritloomError(f"{files.name} does not run on {found.board} {found.config}: {found.refusal}")


@app.command("timeline")
def show_timeline(
    model: Annotated[Path, typer.Argument(help="Model directory, or an image file.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Picture to write: SVG, PNG or PDF.")] = None,
    config: Config = None,
    position: Annotated[int | None, typer.Option(min=0, show_default="half of the context", help="Of the token.")
                        ] = None,
) -> None:
    """Show which unit is busy when during a token, and what the engine waits for, as predicted."""
    image = read_image(model, config)
    shown = token_timeline(image, image.context // 2 if position is None else position)
    console = Console()
    console.print(unit_table(shown))
    console.print(idle_table(shown))
    if output is not None:
        draw(shown, output)
        print(f"{output}: written")


@app.command()
def bench(
    model: Model = None,
    config: Annotated[list[str] | None, typer.Option("--config", show_default="all that the model fits",
                                                     help="Configuration; may be given more than once.")] = None,
    report: Annotated[list[Path] | None, typer.Option(help="report.json of a build, for routed clocks and LUTs.")
                      ] = None,
    soft_core: Annotated[Path | None, typer.Option(help="Result of scripts/softcore, for the CPU alone.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for a roofline plot.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Tabulate speed and utilisation of a model, with limits, provenance and published peers."""
    reports = [read_report(path) for path in report or ()]
    for late in (late for late in reports if late.clock_hz is None):
        notes.print(f"{late.path}: a clock missed its frequency, so its speed is not used", style="yellow")
    works = [workload(image) for image in images(model, config or ())]
    clocks = [clock_of(work.image.config.name, reports) for work in works]
    baseline = [] if soft_core is None else list(soft_core_rows(SoftCoreRun.load(soft_core), works, reports))
    rows = [row for work in works for rows in (image_rows, slot_rows) for row in rows(work, reports)]
    rows += baseline + list(peer_rows())
    print(json.dumps({"rows": [asdict(row) for row in rows]}) if as_json else markdown(rows))
    if output is not None:
        from host.roofline_plot import save  # importing matplotlib takes longer than every other command

        for path in save([(work, *clock[:2]) for work, clock in zip(works, clocks, strict=True)], output):
            notes.print(f"{path}: written")


@app.command("import")
def import_model(
    model: Annotated[Path, typer.Argument(help="Model directory, or a GGUF or llama2.c file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Image file to write.")],
    config: Config = None,
    force: Annotated[bool, typer.Option("--force", help="Let tensors pass that are all zero or hold one value.")
                     ] = False,
    planes: Annotated[int | None, typer.Option(min=1, max=MOST_PLANES, help="Trit planes of every matrix of floats.")
                      ] = None,
    error: Annotated[float | None, typer.Option(min=0.0, show_default=f"{DEFAULT_ERROR} if the planes suffice",
                                                help="Relative error allowed to a matrix of floats, which decides its "
                                                     "planes.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(show_default="tokenizer.bin beside the weights",
                                                   help="Tokenizer file in the layout of llama2.c.")] = None,
) -> None:
    """Check a model, compile it into an image file, and record its hash there."""
    chosen = configuration_for(model, config)
    if planes is not None and error is not None:
        raise TritloomError("give --planes or --error, not both: an error decides the planes")
    checkpoint, integrity = import_checkpoint(
        model, force=force, config=chosen, budget=PlaneBudget(planes, error), tokenizer=tokenizer)
    compiled = compile_checkpoint(checkpoint, chosen)
    replace(compiled, model=compiled.model | {"integrity": integrity.record}).save(output)
    show_suspects(integrity)
    if quantised := checkpoint.quantised:
        counts = sorted({entry["planes"] for entry in quantised.values()})
        worst = max(quantised, key=lambda key: quantised[key]["error"])
        notes.print(f"quantised {len(quantised)} matrices of floats to {', '.join(map(str, counts))} trit planes; the "
                    f"largest relative error is {quantised[worst]['error']:.3f}, of {worst}")
    print(f"{output}: image {compiled.image_id:08x} for {chosen.name}, "
          f"{checkpoint.ternary_parameters:,} weights of projections, model sha256 {integrity.sha256}")


def show_suspects(integrity: Integrity) -> None:
    """Say what ``--force`` let pass."""
    for name in integrity.suspects:
        notes.print(f"let pass: tensor {name} holds one value", style="yellow")


@app.command()
def check(
    model: Annotated[Path, typer.Argument(help="Model directory, or a GGUF file.")],
    force: Annotated[bool, typer.Option("--force", help="Let tensors pass that are all zero or hold one value.")
                     ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Decode every projection of a model and look for damage; prints the model's hash."""
    files = open_model(model)
    with notes.status("") as status:
        found = check_weights(files, force=force,
                              progress=lambda done, total: status.update(f"projection {done + 1} of {total}"))
    if as_json:
        print(json.dumps(found.record))
        return
    show_suspects(found)
    fractions = found.nonzero.values()
    print(f"{files.name}: {len(fractions)} projections, {min(fractions):.1%} to {max(fractions):.1%} of their "
          f"weights are not zero")
    print(f"sha256 {found.sha256}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; a `TritloomError` becomes one line on the error stream and exit status 1."""
    try:
        app(arguments)
    except TritloomError as error:
        print(f"tritloom: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
