"""Roofline of the configurations: what engine and memory allow, and what the tokens of a story reach."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from host.bench import Workload
from host.errors import TritloomError
from host.report import SDRAM_CYCLE_BYTES
from rtl.config import WORD_BITS
from rtl.timing import SDRAM_CLOCKS

COLORS = {"resident": "#0072B2", "stream": "#D55E00", "tiny": "#009E73", "nano": "#CC79A7",
          "pocket": "#E69F00", "sparse": "#56B4E9"}
OTHER_COLOR = "#555555"
FILES = ("roofline.svg", "roofline.png")
INTENSITY = (0.3, 100.0)   # of the axis, in multiply-accumulates per byte
STYLE = {"font.family": "DejaVu Sans", "font.size": 10, "svg.hashsalt": "tritloom", "svg.fonttype": "path",
         "axes.spines.top": False, "axes.spines.right": False}


def save(works: Sequence[tuple[Workload, float, str]], folder: Path) -> list[Path]:
    """Write the plot as SVG and PNG; each workload comes with its engine clock in Hz and the provenance of that.

    Raises
    ------
    TritloomError: the folder cannot be written.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 7), layout="constrained")
        axes = figure.subplots()
        for work, clock_hz, provenance in works:
            draw(axes, work, clock_hz, provenance)
        axes.set(xscale="log", yscale="log", xlim=INTENSITY,
                 xlabel="ternary multiply-accumulates per byte of weights read",
                 ylabel="ternary multiply-accumulates per second (10⁹)")
        axes.set_title("What memory and engine allow, and what is reached (predicted cycles)", loc="left",
                       fontweight="bold")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.grid(which="major", color="#DDDDDD", lw=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
        paths = [folder / name for name in FILES]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths:
                figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
        except OSError as error:
            raise TritloomError(f"{folder}: cannot be written ({error.strerror})") from error
    return paths


def bytes_per_clock(work: Workload) -> tuple[float, str]:
    """What the weight source delivers at its peak, and its name."""
    config = work.image.config
    if work.image.stream_words:
        return float(SDRAM_CLOCKS * SDRAM_CYCLE_BYTES), "SDRAM"
    return config.rows * config.row_words * WORD_BITS / 8, "block RAM"


def draw(axes: Axes, work: Workload, clock_hz: float, provenance: str) -> None:
    """One configuration's roof and the range that a story's tokens reach; numbers stand in the legend."""
    config = work.image.config
    color = COLORS.get(config.name, OTHER_COLOR)
    per_clock, source = bytes_per_clock(work)
    giga = clock_hz / 1e9
    ridge = config.macs / per_clock
    axes.plot([INTENSITY[0], ridge, INTENSITY[1]], [INTENSITY[0] * per_clock * giga, config.macs * giga,
                                                    config.macs * giga], color=color, lw=2)
    read = work.weight_bytes or work.cycles_limit * per_clock
    intensity = work.trits / read
    reached = [work.trits * giga / cycles for cycles in (work.cycles[-1], work.mean, work.cycles[0])]
    roof = min(intensity * per_clock, config.macs) * giga
    axes.plot([intensity] * 3, reached, color=color, lw=5, alpha=0.4, solid_capstyle="butt")
    axes.plot(intensity, reached[1], "o", color=color, ms=8, mec="white",
              label=f"{config.name}, {work.image.model['name']}: {clock_hz / work.mean:,.0f} tokens/s, "
                    f"{reached[1] / roof:.1%} of its roof; {clock_hz / 1e6:g} MHz ({provenance}), {source} "
                    f"{per_clock * giga:.3g} GB/s, engine {config.macs:,} per clock")
