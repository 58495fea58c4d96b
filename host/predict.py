"""Predicts the cycles of a token by walking its program with the timing rules of the units and the sequencer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from math import ceil

from rtl import timing
from rtl.config import Config
from rtl.isa import UNIT_OF, Op, Opcode, Unit
from rtl.timing import SDRAM_CLOCKS
from sim.token_loop import Pass

RESULT_ORDER = (Unit.SCALAR, Unit.ENGINE, Unit.VECTOR)     # whose scalars go first; attention's have time to spare
SETTLING_TOKENS = 64       # until the queue of weights begins a token as full as it ends it; mostly two


@cache
def units_in(mask: int) -> tuple[Unit, ...]:
    """The units of a mask. Flags are slow, and a prediction asks thousands of times."""
    return tuple(unit for unit in Unit if unit & mask)


@dataclass(frozen=True)
class Span:
    """One operation of a token and the engine clocks in which it runs.

    Parameters
    ----------
    op : the operation.
    slot : that it is done for; 0 where it serves all.
    unit : that executes it; none for END.
    start : cycle in which it is accepted, counted from the start of the token.
    end : first cycle in which its unit is idle again; for END, the start of the next token.
    after : index of the operation whose end let it start; None if it only waited for its turn to issue.
    """

    op: Op
    unit: Unit
    start: int
    end: int
    after: int | None
    slot: int = 0

    @property
    def busy(self) -> range:
        """Cycles in which the unit counts as busy: it is accepted in the cycle before."""
        return range(self.start + 1, self.end)


@dataclass(frozen=True)
class Prediction:
    """When each operation of a token runs.

    Parameters
    ----------
    cycles : engine clocks from the start of the token to the start of the next.
    issue : cycle in which each operation is accepted.
    done : first cycle in which each operation's unit is idle again.
    """

    cycles: int
    issue: list[int]
    done: list[int]


def operation_cycles(config: Config, op: Op, position: int, *, greedy: bool = True, slots: int = 1) -> int:
    """Cycles an operation keeps its unit busy (weights never starving), in a pass with so many slots in use."""
    match op.opcode:
        case Opcode.MATVEC:
            return timing.engine_cycles(config, op, slots)
        case Opcode.VECTOR:
            return timing.vector_cycles(config, op)
        case Opcode.EMBED:
            return timing.embed_cycles(config, op)
        case Opcode.SCALAR:
            return timing.scalar_cycles(config, op)
        case Opcode.ATTEND:
            return timing.attention_cycles(config, op, position)
        case Opcode.SAMPLE:
            return timing.sampler_cycles(config, op, greedy)
        case Opcode.ROTARY:
            return timing.rotary_cycles(config, op)
    return 0


@dataclass
class Supply:
    """Weights on their way from SDRAM: a queue that fills at the bus's rate while the engine takes from it.

    Parameters
    ----------
    capacity : words of the queue.
    level : words in it at a time.
    time : that time, in engine clocks.
    """

    capacity: int
    level: Fraction
    time: int = 0

    RATE = SDRAM_CLOCKS / timing.WORD_SDRAM_CLOCKS      # words per engine clock

    def take(self, start: int, cycles: int, words: int) -> int:
        """Clocks that the engine waits while it takes words from ``start`` on, which it could do in ``cycles``."""
        level = self.after(start)
        taking = max(cycles, ceil((words - level) / self.RATE))
        self.level, self.time = max(Fraction(0), level + self.RATE * taking - words), start + taking
        return taking - cycles

    def after(self, time: int) -> Fraction:
        """The level at a time after all that was taken."""
        return min(Fraction(self.capacity), self.level + self.RATE * (time - self.time))


def timeline(config: Config, program: list[Op], position: int, *, greedy: bool = True,
             duration: Callable[..., int] = operation_cycles, taken: Pass | None = None, kept: int = 1,
             speculates: bool = False) -> list[Span]:
    """The operations of one pass in the order of issue; the last one, END or SECTION, ends with the pass.

    In the stream configuration the pass is one of many: its prefetch queue begins as full as it ends. Refreshes, which
    the hardware counts, are left out; what they cost comes on top.

    Parameters
    ----------
    duration : other than `operation_cycles` to learn what a unit of other speed would bring.
    taken : the pass; by default that of one token at the position.
    kept : how many of its tokens count.
    speculates : see `timing.gather_cycles`.
    """
    taken = taken or Pass((0,), position, 1, reads=False)
    level = Fraction(config.stream_fifo_words)
    for _ in range(SETTLING_TOKENS if config.weight_source == "sdram" else 1):
        before = level
        spans, level = _walk(config, program, taken, kept, level, greedy=greedy, duration=duration,
                             speculates=speculates)
        if level == before:
            break
    return spans


def run_cycles(config: Config, program: list[Op], passes: Iterable[tuple[Pass, int]], *, greedy: bool = True,
               speculates: bool = False) -> list[int]:
    """Cycles of successive passes, each with the number of its tokens that count.

    Each finds the queue of weights as the one before left it; the first one, at the start of a run, empty.
    """
    level, cycles = Fraction(0), []
    for taken, kept in passes:
        spans, level = _walk(config, program, taken, kept, level, greedy=greedy, speculates=speculates)
        cycles.append(spans[-1].end)
    return cycles


def _walk(config: Config, program: list[Op], taken: Pass, kept: int, level: Fraction, *, greedy: bool,
          duration: Callable[..., int] = operation_cycles, speculates: bool = False) -> tuple[list[Span], Fraction]:
    """The operations one after the other, and the level of the queue of weights after them if it is this before."""
    supply = Supply(config.stream_fifo_words, level) if config.weight_source == "sdram" else None
    spans: list[Span] = []
    slots = len(taken.tokens)
    # From which cycle, after which operation. When a token starts all units have been idle for long enough.
    idle: dict[Unit, tuple[int, int | None]] = {unit: (-timing.WAIT_CYCLES, None) for unit in Unit}
    delivered = dict.fromkeys(Unit, 0)      # the last scalar of each unit, if it ended with one
    turn = before = 0
    for index, (_, op, slot) in enumerate(taken.operations(program)):
        unit = UNIT_OF[op.opcode]
        waits = ((idle[u][0] + timing.WAIT_CYCLES, idle[u][1]) for u in units_in(int(op.wait) | int(unit)))
        free, last = max(waits, default=(0, None), key=lambda entry: entry[0])
        turn += timing.SLOT_CYCLES * (slot > before)
        before = slot
        start, after = (free, last) if free > turn else (turn, None)
        turn = start + timing.ISSUE_CYCLES
        if op.opcode == Opcode.SAMPLE and not taken.samples(slot):
            unit = Unit(0)
        else:
            end = start + duration(config, op, taken.position + slot, greedy=greedy, slots=slots) + 1
        if supply and op.opcode == Opcode.MATVEC:
            tiles = op.groups * op.planes * op.blocks
            end += supply.take(start + 1 + timing.fill_cycles(config, op), timing.tile_cycles(config, op, slots),
                               tiles * timing.tile_words(config))
        if unit:
            idle[unit] = end, index
            delivered[unit] = end if timing.ends_with_scalar(op) else 0
        else:
            end = start
        spans.append(Span(op, unit, start, end, after, slot))
        for rank, loser in enumerate(RESULT_ORDER):
            while any(delivered[winner] == delivered[loser] > 0 for winner in RESULT_ORDER[:rank]):
                end, late = idle[loser][0] + 1, idle[loser][1]
                idle[loser], delivered[loser] = (end, late), end
                spans[late] = replace(spans[late], end=end)
    given = taken.known if taken.reads or taken.known > 1 else 0
    end = spans[-1].start + timing.token_cycles(config, given, slots - taken.known, kept=kept, speculates=speculates)
    spans[-1] = replace(spans[-1], end=end)
    return spans, supply.after(end) if supply else level


def predict(config: Config, program: list[Op], position: int, *, greedy: bool = True, taken: Pass | None = None,
            kept: int = 1, speculates: bool = False) -> Prediction:
    """Cycles of one pass and of each of its operations; see `timeline`."""
    spans = timeline(config, program, position, greedy=greedy, taken=taken, kept=kept, speculates=speculates)
    return Prediction(spans[-1].end, [span.start for span in spans], [span.end for span in spans])
