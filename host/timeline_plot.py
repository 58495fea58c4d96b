"""The picture of a token's timeline."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from host.timeline import TokenTimeline, kind, layer_window, title
from rtl.isa import Unit

# Colours that stay apart for colour-blind readers (Okabe and Ito).
COLORS = {Unit.ENGINE: "#0072B2", Unit.VECTOR: "#E69F00", Unit.SCALAR: "#CC79A7", Unit.ATTENTION: "#009E73",
          Unit.SAMPLER: "#D55E00", Unit.ROTARY: "#56B4E9"}
TEXT_COLORS = {unit: "black" if unit in (Unit.VECTOR, Unit.ROTARY, Unit.SCALAR) else "white" for unit in Unit}
FILL_COLOR = "#8CC4E8"     # of the engine while it fills its tables
ISSUE_COLOR = "#9A9A9A"
WAIT_ROW = "engine idle for"
ROWS = (Unit.ENGINE, WAIT_ROW, Unit.VECTOR, Unit.SCALAR, Unit.ATTENTION, Unit.SAMPLER, Unit.ROTARY)
LETTER_SHARE = 0.0075      # of the axis that one letter of a label takes ...
LINE_SHARE = 0.0065        # ... and that an upright label takes
STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "tritloom", "svg.fonttype": "path",
         "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}


def save(shown: TokenTimeline, path: Path) -> None:
    """Write two panels: the whole token, and its first layers with the names of the operations."""
    with rc_context(STYLE):
        out = Figure(figsize=(14, 8.4), layout="constrained")
        out.suptitle(title(shown), x=0.01, ha="left", fontsize=13, fontweight="bold")
        whole, layer = out.subplots(2, 1, height_ratios=(5, 6))
        panel(whole, shown, range(shown.cycles), labels=False)
        whole.set_title("whole token", loc="left", color="#444444")
        window = layer_window(shown)
        panel(layer, shown, window, labels=True)
        layer.set_title("first layers", loc="left", color="#444444")
        whole.axvspan(window.start, window.stop, color="#000000", alpha=0.06, lw=0)
        layer.set_xlabel("engine clocks from the start of the token")
        # A date in the file would make every run a change.
        out.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def panel(axes: Axes, shown: TokenTimeline, window: range, *, labels: bool) -> None:
    """Draw the operations within a window of cycles, one row per unit."""
    axes.set_xlim(window.start, window.stop)
    axes.set_ylim(len(ROWS) - 0.45, -0.55)
    axes.set_yticks(range(len(ROWS)), [row.name.lower() if isinstance(row, Unit) else row for row in ROWS])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", lw=0.6)
    axes.set_axisbelow(True)
    for span in shown.spans:
        if not span.unit or span.end <= window.start or span.start >= window.stop:
            continue
        row = ROWS.index(span.unit)
        bar(axes, row, span.busy, COLORS[span.unit], height=0.8)
        fill = shown.table_fill(span)
        bar(axes, row, span.busy[:fill], FILL_COLOR, height=0.8)
        if labels:
            label(axes, row, span.busy[fill:], kind(span.op).split()[-1], window, color=TEXT_COLORS[span.unit])
            label(axes, row, span.busy[:fill], "fill", window, color="black")
    draw_waits(axes, shown, window, labels=labels)


def draw_waits(axes: Axes, shown: TokenTimeline, window: range, *, labels: bool) -> None:
    """Colour each idle cycle of the engine by the unit that the program waits for."""
    units = {kind(span.op): span.unit for span in shown.spans if span.unit}
    row = ROWS.index(WAIT_ROW)
    for gap, reason in shown.idle(Unit.ENGINE):
        if gap.stop > window.start and gap.start < window.stop:
            bar(axes, row, gap, COLORS[units[reason]] if reason in units else ISSUE_COLOR, height=0.42)
            if labels and reason == "attend":
                label(axes, row, gap, reason, window, color=TEXT_COLORS[units[reason]])


def bar(axes: Axes, row: int, cycles: range, color: str, *, height: float) -> None:
    """One bar; nothing for no cycles."""
    if cycles:
        axes.barh(row, len(cycles), left=cycles.start, height=height, color=color, lw=0.3, edgecolor="white")


def label(axes: Axes, row: int, cycles: range, text: str, window: range, *, color: str) -> None:
    """Text on the visible part of a bar, upright if only that fits, none if neither does."""
    visible = range(max(cycles.start, window.start), min(cycles.stop, window.stop))
    room = len(visible) / len(window)
    upright = room < LETTER_SHARE * len(text)
    if room > LINE_SHARE:
        axes.text(visible.start + len(visible) / 2, row, text, color=color, ha="center", va="center", clip_on=True,
                  fontsize=7 if upright else 8.5, rotation=90 if upright else 0)
