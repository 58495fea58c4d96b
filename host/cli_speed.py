"""Commands that say how fast a model runs, and why."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
from host.cli_options import Config, Json, Model, notes
from host.session import read_image
from host.slot_rows import slot_rows
from host.soft_core import SoftCoreRun
from host.timeline import draw, idle_table, token_timeline, unit_table


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


def bench(
    model: Model = None,
    config: Annotated[list[str] | None, typer.Option("--config", show_default="all that the model fits",
                                                     help="Configuration; may be given more than once.")] = None,
    report: Annotated[list[Path] | None, typer.Option(help="report.json of a build, for routed clocks and LUTs.")
                      ] = None,
    soft_core: Annotated[Path | None, typer.Option(help="Result of scripts/softcore, for the CPU alone.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for a roofline plot.")] = None,
    as_json: Json = False,
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
