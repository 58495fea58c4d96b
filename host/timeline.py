"""Where the cycles of a token go, as predicted: shares of the units, what the engine waits for, and a picture."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from host.errors import TritloomError
from host.image import Image
from host.predict import Span, operation_cycles, timeline
from rtl.isa import Op, Opcode, ScalarFn, Unit, VectorFn

ISSUE = "issue"            # nothing waited for: the sequencer fetched an operation or began the next token
PICTURES = (".svg", ".png", ".pdf")
SQUARES_PER_LAYER = 2      # a layer has two norms, and each begins with a SQUARE


@dataclass(frozen=True)
class TokenTimeline:
    """The predicted cycles of one token.

    Parameters
    ----------
    image : the model.
    position : of the token.
    spans : its operations.
    """

    image: Image
    position: int
    spans: tuple[Span, ...]

    @property
    def cycles(self) -> int:
        return self.spans[-1].end

    def busy(self) -> dict[Unit, int]:
        """Cycles in which each unit is busy, as the hardware's counters count them."""
        return {unit: sum(len(span.busy) for span in self.spans if span.unit == unit) for unit in Unit}

    def waits(self) -> Iterator[tuple[range, str]]:
        """What the machine waits for, cycle by cycle: the operation whose end lets the next one start, or `ISSUE`.

        The ranges cover the token without gaps. Within one the next operation of the program has not started.
        """
        now = 0
        for span in self.spans[1:]:
            yield range(now, span.start), ISSUE if span.after is None else kind(self.spans[span.after].op)
            now = span.start
        yield range(now, self.cycles), ISSUE

    def idle(self, unit: Unit) -> Iterator[tuple[range, str]]:
        """The cycles in which a unit is not busy, in order, each range with what the machine waits for.

        A unit is idle in the cycle in which it accepts an operation; if the program then waits for that operation, the
        reason is `ISSUE`.
        """
        spans = [span for span in self.spans if span.unit == unit]
        own = {kind(span.op) for span in spans}
        for cycles, reason in self.waits():
            for gap in gaps(cycles, [span.busy for span in spans]):
                yield gap, ISSUE if reason in own else reason

    def idle_cycles(self, unit: Unit) -> Counter[str]:
        """Cycles in which a unit is not busy, by reason."""
        reasons: Counter[str] = Counter()
        for cycles, reason in self.idle(unit):
            reasons[reason] += len(cycles)
        return reasons

    def table_fill(self, span: Span) -> int:
        """Cycles of a MATVEC in which its lookup tables are filled."""
        if span.op.opcode != Opcode.MATVEC:
            return 0
        without = Op(span.op.opcode, span.op.wait, span.op.fields | {"fill": 0})
        return len(span.busy) - operation_cycles(self.image.config, without, self.position)


def token_timeline(image: Image, position: int) -> TokenTimeline:
    """The timeline of a greedy token.

    Raises
    ------
    TritloomError: the context does not reach that far.
    """
    if not 0 <= position < image.context:
        raise TritloomError(f"position {position} is outside the context; choose 0 to {image.context - 1}")
    return TokenTimeline(image, position, tuple(timeline(image.config, image.program, position)))


def kind(op: Op) -> str:
    """Unit and function of an operation: ``vector scale``, ``scalar rsqrt``, ``attend``."""
    match op.opcode:
        case Opcode.VECTOR:
            return f"vector {VectorFn(op.fn).name.lower()}"
        case Opcode.SCALAR:
            return f"scalar {ScalarFn(op.fn).name.lower()}"
    return op.opcode.name.lower()


def gaps(cycles: range, working: list[range]) -> list[range]:
    """The parts of ``cycles`` outside all ranges of ``working``, which are in order."""
    free, now = [], cycles.start
    for busy in working:
        if busy.stop > now and busy.start < cycles.stop:
            if busy.start > now:
                free.append(range(now, busy.start))
            now = busy.stop
    return free + ([range(now, cycles.stop)] if now < cycles.stop else [])


def title(shown: TokenTimeline) -> str:
    """Model, configuration, position and cycles."""
    image = shown.image
    return (f"{image.model['name']} on {image.config.name}, position {shown.position}: "
            f"{shown.cycles:,} cycles (predicted)")


def unit_table(shown: TokenTimeline) -> Table:
    """Busy share of each unit."""
    out = Table(title=title(shown), title_justify="left")
    out.add_column("unit")
    for heading in ("operations", "cycles busy", "share"):
        out.add_column(heading, justify="right")
    for unit, cycles in shown.busy().items():
        count = sum(span.unit == unit for span in shown.spans)
        out.add_row(unit.name.lower(), f"{count}", f"{cycles:,}", f"{cycles / shown.cycles:.1%}")
    fill = sum(shown.table_fill(span) for span in shown.spans)
    out.add_row("  engine: filling tables", "", f"{fill:,}", f"{fill / shown.cycles:.1%}")
    return out


def idle_table(shown: TokenTimeline) -> Table:
    """Every idle cycle of the engine by its reason, most first."""
    out = Table(title="the engine is idle while the program waits for", title_justify="left")
    out.add_column("reason")
    for heading in ("cycles", "share"):
        out.add_column(heading, justify="right")
    idle = shown.idle_cycles(Unit.ENGINE)
    for reason, cycles in idle.most_common():
        text = "issue: operations and tokens in turn" if reason == ISSUE else reason
        out.add_row(text, f"{cycles:,}", f"{cycles / shown.cycles:.1%}")
    out.add_section()
    out.add_row("engine idle", f"{idle.total():,}", f"{idle.total() / shown.cycles:.1%}")
    return out


def layer_window(shown: TokenTimeline) -> range:
    """Cycles of the first layer, or of two whose norms are shared; of the whole token where it has only one."""
    squares = [span.start for span in shown.spans if kind(span.op) == "vector square"]
    if len(squares) <= SQUARES_PER_LAYER + 1:
        return range(shown.cycles)
    return range(squares[0], squares[SQUARES_PER_LAYER])


def draw(shown: TokenTimeline, path: Path) -> None:
    """Write the picture: the whole token above, its first layers with names below.

    Raises
    ------
    TritloomError: the file cannot be written, or its suffix names no format.
    """
    if path.suffix not in PICTURES:
        raise TritloomError(f"{path}: unknown kind of picture; end the name in {', '.join(PICTURES)}")
    from host.timeline_plot import save  # importing matplotlib takes longer than every other command

    try:
        save(shown, path)
    except OSError as error:
        raise TritloomError(f"{path}: cannot be written ({error.strerror})") from error
