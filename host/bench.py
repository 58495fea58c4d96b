"""Rows of numbers about models on configurations, each with its limit, its provenance and its source."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.image import Image
from host.importer import load_checkpoint
from host.peers import PEERS
from host.report import SDRAM_CYCLE_BYTES, WORD_BYTES
from host.session import OWN_MODELS, read_image
from host.soft_core import SoftCoreRun
from rtl.config import CONFIGS
from rtl.timing import SDRAM_CLOCKS
from sim.golden import Golden

STORY_TOKENS = 256
GOLDEN_TOKENS = 32
BOARD = "ulx3s"
HEADINGS = ("config", "model", "metric", "value", "unit", "limit", "provenance", "source")
EXACT = "predicted, equal to simulated cycles"
UP_TO_REFRESH = "predicted, without the cycles that refresh takes"


@dataclass(frozen=True)
class Row:
    """One number.

    Parameters
    ----------
    config, model : what it is about; a peer's board instead of a configuration.
    metric, value, unit : the number.
    limit : what the same parameters allow at best, in the same unit; None where nothing limits it.
    provenance : how it was obtained.
    source : where it comes from, or how that is known.
    """

    config: str
    model: str
    metric: str
    value: float
    unit: str
    limit: float | None
    provenance: str
    source: str


@dataclass(frozen=True)
class Routed:
    """What the bench takes from a build's report.

    Parameters
    ----------
    path : of the report.
    config : that was built.
    clock_hz : of the engine, as required of the route; None where a clock missed its frequency.
    lut4_per_mac : of the tile engine.
    """

    path: Path
    config: str
    clock_hz: float | None
    lut4_per_mac: float


@dataclass(frozen=True)
class Workload:
    """Cycles of the tokens of one story and what the hardware allows at best.

    Parameters
    ----------
    image : the model.
    cycles : predicted, per position.
    """

    image: Image
    cycles: tuple[int, ...]

    @property
    def mean(self) -> float:
        return sum(self.cycles) / len(self.cycles)

    @property
    def trits(self) -> int:
        """Ternary weights that a token uses; one of several planes counts once per plane."""
        model = self.image.model
        return model["ternary_parameters"] + model["head_planes"] * model["vocab"] * model["hidden"]

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a token takes from SDRAM."""
        return WORD_BYTES * self.image.stream_words

    @property
    def cycles_limit(self) -> int:
        """Cycles that the weights alone take: a full engine in each clock, or the SDRAM at its peak."""
        engine = ceil(self.trits * self.image.config.slots / self.image.config.macs)
        return max(engine, ceil(self.weight_bytes / (SDRAM_CLOCKS * SDRAM_CYCLE_BYTES)))

    @property
    def provenance(self) -> tuple[str, str]:
        """Of predicted cycles, and how that is known."""
        if self.image.stream_words:
            return UP_TO_REFRESH, "host/predict.py; scripts/synthetic simulates it with refresh"
        return EXACT, "host/predict.py; tests/test_soc.py asserts each operation of the tokens it simulates"


def workload(image: Image) -> Workload:
    """A story from the first position on, as long as the context lets it be."""
    return Workload(image, tuple(image.predicted_cycles(position)
                                 for position in range(min(STORY_TOKENS, image.context))))


def read_report(path: Path) -> Routed:
    """The report of a build.

    Raises
    ------
    TritloomError: it cannot be read or is not a report.
    """
    try:
        report: Mapping[str, Any] = json.loads(path.read_text())
        clocks = report["clocks"].values()
        met = all(clock["achieved_mhz"] >= clock["required_mhz"] for clock in clocks)
        hz = float(report["clocks"]["sync"]["required_mhz"]) * 1e6
        return Routed(path, str(report["config"]), hz if met else None, float(report["lut4_per_mac"]))
    except OSError as error:
        raise TritloomError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TritloomError(f"{path}: not the report.json of a build ({error!r})") from error


def clock_of(config: str, reports: Sequence[Routed]) -> tuple[float, str, str]:
    """Engine clock in Hz of a configuration, its provenance and its source: a route that met its clocks, or the board.

    Raises
    ------
    TritloomError: the board has no clock for the configuration.
    """
    for report in reports:
        if report.config == config and report.clock_hz is not None:
            return report.clock_hz, "routed", str(report.path)
    from boards import BOARDS  # importing the gateware takes longer than most commands

    clocks = BOARDS[BOARD].clocks
    if config not in clocks:
        raise TritloomError(f"{BOARD} has no clock for configuration {config!r}; choose {', '.join(clocks)}")
    return clocks[config].sync_hz, "estimated", f"target clock of boards/{BOARD}.py"


def images(model: Path | None, configs: Sequence[str]) -> list[Image]:
    """A model compiled for each configuration named; for all that it fits, where none is named.

    Without a model, that of each configuration.

    Raises
    ------
    TritloomError: it does not fit one that is named, or none at all.
    """
    if model is None:
        return [read_image(None, config) for config in configs or OWN_MODELS]
    if configs or model.is_file():
        return [read_image(model, config) for config in configs or [None]]
    compiled, reasons = [], []
    for config in CONFIGS.values():
        try:
            compiled.append(compile_checkpoint(load_checkpoint(model, config), config))
        except TritloomError as reason:
            reasons.append(str(reason))
    if not compiled:
        raise TritloomError(f"{model} fits no configuration: {'; '.join(reasons)}")
    return compiled


def image_rows(work: Workload, reports: Sequence[Routed]) -> Iterator[Row]:
    """Everything about one model on one configuration."""
    image, limit = work.image, work.cycles_limit
    config, model = image.config.name, str(image.model["name"])
    predicted, known = work.provenance
    count = len(work.cycles)
    for position in sorted({0, count // 4, count - 1}):
        yield Row(config, model, f"cycles per token, position {position}", work.cycles[position], "cycles", limit,
                  predicted, known)
    yield Row(config, model, f"cycles per token, mean of {count}", work.mean, "cycles", limit, predicted, known)
    hz, provenance, source = clock_of(config, reports)
    at = f"{source}, {hz / 1e6:g} MHz"
    for name, cycles in (("position 0", work.cycles[0]), (f"position {count - 1}", work.cycles[-1]),
                         (f"mean of {count}", work.mean)):
        yield Row(config, model, f"tokens per second, {name}", hz / cycles, "tokens/s", hz / limit, provenance, at)
    yield Row(config, model, "multiply-accumulates, share of the engine's peak",
              100 * work.trits / (image.config.macs * work.mean), "%", 100.0, predicted, known)
    if work.weight_bytes:
        peak = float(SDRAM_CLOCKS) * SDRAM_CYCLE_BYTES * work.mean
        yield Row(config, model, "weights, share of the SDRAM's peak", 100 * work.weight_bytes / peak, "%", 100.0,
                  predicted, known)
    for report in reports:
        if report.config == config:
            yield Row(config, model, "engine's LUT4 sites per MAC", report.lut4_per_mac, "LUT4", None, "routed",
                      str(report.path))
    yield golden_row(image)


def golden_row(image: Image) -> Row:
    """Speed of the golden model, measured now."""
    golden, count = Golden(image), min(GOLDEN_TOKENS, image.context)
    golden.generate([1], 1)
    start = time.thread_time()
    golden.generate([1], count)
    rate = count / (time.thread_time() - start)
    return Row(image.config.name, str(image.model["name"]), "tokens per second, numpy golden model", rate, "tokens/s",
               None, "measured on this computer in this run, processor time", f"sim/golden.py, {count} tokens")


def soft_core_rows(run: SoftCoreRun, works: Sequence[Workload], reports: Sequence[Routed]) -> Iterator[Row]:
    """The same model on the soft core alone, and how many times longer a token takes there.

    Raises
    ------
    TritloomError: the soft core ran another image.
    """
    work = next((work for work in works if work.image.image_id == run.image_id), None)
    if work is None:
        raise TritloomError(f"the soft core's result is of image {run.image_id:08x} ({run.model}, {run.config}), which "
                            "is not in this table; run scripts/softcore again")
    from boards import BOARDS  # importing the gateware takes longer than most commands

    count, simulated = len(run.cycles), "simulated, tokens and state equal to the golden model's"
    memory = f"{run.memory_bytes >> 10} KiB of RAM, simulation only, with the timing of rtl/cpu.py"
    known = f"{run.command}: {run.core}, no multiplier, {memory}"
    cpu_hz = BOARDS[BOARD].clocks[run.config].cpu_hz
    at = f"{run.command}; target clock of boards/{BOARD}.py, {cpu_hz / 1e6:g} MHz"
    for name, cycles in ((f"position {count - 1}", run.cycles[-1]), (f"mean of {count}", run.mean)):
        yield Row("soft core", run.model, f"cycles per token, {name}", cycles, "cycles", None, simulated, known)
        yield Row("soft core", run.model, f"tokens per second, {name}", cpu_hz / cycles, "tokens/s", None, "estimated",
                  at)
    hz, provenance, source = clock_of(run.config, reports)
    accelerator = sum(work.cycles[:count]) / count
    yield Row("soft core", run.model, f"cycles per token over {run.config}'s, mean of {count}", run.mean / accelerator,
              "times", None, f"{simulated}, over {work.provenance[0]}", f"{run.command}; {work.provenance[1]}")
    yield Row("soft core", run.model, f"time per token over {run.config}'s, mean of {count}",
              run.mean / cpu_hz / (accelerator / hz), "times", None, "estimated",
              f"{at}; engine's clock {provenance}: {source}, {hz / 1e6:g} MHz")


def peer_rows() -> Iterator[Row]:
    """What others publish; other models on other boards, so no race."""
    for peer in PEERS:
        provenance = "published, measured by its authors" if peer.measured else "published, derived by its authors"
        yield Row(peer.board, f"{peer.name}: {peer.model}", f"tokens per second, {peer.condition}",
                  peer.tokens_per_second, "tokens/s", None, provenance, peer.source)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = [" | ".join(HEADINGS), " | ".join("---" for _ in HEADINGS)]
    for row in rows:
        cells = asdict(row) | {"value": number(row.value), "limit": "-" if row.limit is None else number(row.limit)}
        lines.append(" | ".join(cells[name] for name in HEADINGS))
    return "\n".join(f"| {line} |" for line in lines)


def number(value: float) -> str:
    """Whole from 1,000 on, else three or four digits."""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.{3 if value < 1 else 2}f}"
