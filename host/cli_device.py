"""Commands that work with a device: a simulated chip or a board."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from host.cli_options import Config, Json, Model, notes
from host.device import Device
from host.errors import TritloomError
from host.image import Image
from host.report import first_difference, summary, table
from host.selftest import check_device, check_host, check_link, check_memory
from host.session import Generation, Target, check_prompt, read_image, tokenizer_of
from host.tokenizer import TextStream
from rtl.config import SIMULATED_CONFIGS
from rtl.csr_map import Speculation

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


def run(
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "",
    count: Annotated[int, typer.Option("-n", min=1, help="Tokens to generate.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=0xFFFFFFFF, help="Of sampling.")] = 0,
    sim: Sim = False,
    port: Port = None,
    model: Model = None,
    config: Config = None,
    as_json: Json = False,
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


def load(sim: Sim = False, port: Port = None, model: Model = None, config: Config = None) -> None:
    """Load a model into a device; a simulated one starts empty, to rehearse the transfer."""
    target = Target(sim, port)
    image = read_image(model, config)
    with opened(target, image, blank=True) as device:
        loaded = load_image(device, image)
        print(f"image {image.image_id:08x} {'loaded and verified' if loaded else 'is already there'}")


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
