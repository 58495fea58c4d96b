"""Commands that work with models and images: checking, sizing, compiling, putting them into bitstreams."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from host.cli_options import Config, Force, Json, notes
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.importer import import_checkpoint
from host.integrity import Integrity, check_weights
from host.model_files import open_model
from host.planes import DEFAULT_ERROR, MOST_PLANES, PlaneBudget
from host.session import configuration_for, read_image
from host.swap import map_of, swap
from rtl.config import CONFIGS


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


def list_program(
    image: Annotated[Path, typer.Argument(help="Image file, or a model directory.")],
    config: Config = None,
) -> None:
    """Print the token program with predicted cycles."""
    print(read_image(image, config).listing())


def fit(
    model: Annotated[Path, typer.Argument(help="Model directory, or a GGUF file.")],
    board: Annotated[str, typer.Option(help="Board to size it for.")] = "ulx3s",
    config: Annotated[str | None, typer.Option("--config", show_default="the smallest that holds it, else the largest",
                                               help=f"Configuration: {', '.join(CONFIGS)}.")] = None,
    as_json: Json = False,
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


def import_model(
    model: Annotated[Path, typer.Argument(help="Model directory, or a GGUF or llama2.c file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Image file to write.")],
    config: Config = None,
    force: Force = False,
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


def check(
    model: Annotated[Path, typer.Argument(help="Model directory, or a GGUF file.")],
    force: Force = False,
    as_json: Json = False,
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
