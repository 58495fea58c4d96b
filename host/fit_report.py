"""Shows how a model fits: one JSON object, or tables."""

import re
from dataclasses import asdict

from rich.table import Table

from host.fit import Fit, Placed
from host.model_files import ModelFiles

LAYER_NUMBER = re.compile(r"\.\d+\.")


def fit_summary(model: ModelFiles, fit: Fit) -> dict[str, object]:
    """Everything that is known, for ``--json``; sizes in bytes."""
    placements: dict[str, int] = {}
    for tensor in fit.placed:
        placements[tensor.placement] = placements.get(tensor.placement, 0) + tensor.size_bytes
    rate = fit.tokens_per_second
    return {
        "model": model.name, "container": model.container, "architecture": model.architecture.name,
        "shape": asdict(model.architecture.shape), "board": fit.board, "configuration": fit.config,
        "tensors": [asdict(tensor) for tensor in fit.placed], "placements_bytes": placements,
        "stream_bytes_per_token": fit.stream_bytes,
        "sdram_peak_bytes_per_second": fit.peak_bytes_s or None,
        "tokens_per_second": None if rate is None else {"value": rate, "provenance": "estimated"},
        "limits": [asdict(limit) | {"missing_bytes": limit.missing_bytes} for limit in fit.limits],
        "objections": list(fit.objections), "fits": fit.fits, "smallest": fit.smallest,
    }


def tensor_table(model: ModelFiles, fit: Fit) -> Table:
    """Tensors, those of all layers in one line, with what they take together."""
    rows: dict[tuple[object, ...], list[Placed]] = {}
    for tensor in fit.placed:
        name = LAYER_NUMBER.sub(".*.", tensor.name).removeprefix("model.").replace(".weight", "")
        key = name, tensor.dtype, tensor.shape, tensor.placement
        rows.setdefault(key, []).append(tensor)
    table = Table(title=f"{model.name} ({model.architecture.name}) on {fit.board} {fit.config}", title_justify="left")
    table.add_column("tensor", overflow="fold")
    for column in ("stored", "shape", "placement"):
        table.add_column(column, overflow="fold")
    for column in ("count", "bytes", "per token"):
        table.add_column(column, justify="right", no_wrap=True)
    for (name, dtype, shape, placement), tensors in rows.items():
        sizes = sum(tensor.size_bytes for tensor in tensors), sum(tensor.token_bytes for tensor in tensors)
        table.add_row(name, dtype, " x ".join(map(str, shape)), placement, str(len(tensors)), f"{sizes[0]:,}",
                      f"{sizes[1]:,}")
    table.add_section()
    total = (sum(sizes) for sizes in zip(*((each.size_bytes, each.token_bytes) for each in fit.placed), strict=True))
    table.add_row("total", "", "", "", str(len(fit.placed)), *(f"{size:,}" for size in total))
    return table


def limit_table(fit: Fit) -> Table:
    """Memories, what the model needs of each, and the rate it may reach."""
    table = Table()
    table.add_column("memory")
    for column in ("needed bytes", "available bytes", "missing bytes"):
        table.add_column(column, justify="right")
    for limit in fit.limits:
        style = "red" if limit.missing_bytes else ""
        table.add_row(limit.what, f"{limit.needed_bytes:,}", f"{limit.available_bytes:,}",
                      f"{limit.missing_bytes:,}" if limit.missing_bytes else "-", style=style)
    return table


def conclusion(fit: Fit) -> list[str]:
    """What follows from the tables, line by line."""
    lines = [f"weights read per token: {fit.stream_bytes:,} bytes"]
    if fit.tokens_per_second is not None:
        rate = f"{fit.tokens_per_second:,.0f}" if fit.tokens_per_second >= 100 else f"{fit.tokens_per_second:.3g}"
        lines.append(f"at most {rate} tokens/s, estimated from the SDRAM's peak of "
                     f"{fit.peak_bytes_s / 1e6:.0f} MB/s")
    lines += [f"cannot run: {objection}" for objection in fit.objections]
    lines.append(f"smallest that holds it: {fit.smallest or 'none'}")
    return lines
