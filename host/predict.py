"""Predicts the cycles of a token by walking its program with the timing rules of the units and the sequencer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from math import ceil

from rtl import timing
from rtl.config import Config
from rtl.isa import UNIT_OF, Op, Opcode, Unit
from rtl.timing import SDRAM_CLOCKS

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


def operation_cycles(config: Config, op: Op, position: int, *, greedy: bool = True) -> int:
    """Cycles an operation keeps its unit busy (weights never starving)."""
    match op.opcode:
        case Opcode.MATVEC:
            return timing.engine_cycles(config, op)
        case Opcode.VECTOR:
            return timing.vector_cycles(config, op)
        case Opcode.EMBED:
            return timing.embed_cycles(config, op)
        case Opcode.SCALAR:
            return timing.scalar_cycles(config, op)
        case Opcode.ATTEND:
            return timing.attention_cycles(config, position)
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
        level = min(Fraction(self.capacity), self.level + self.RATE * (start - self.time))
        taking = max(cycles, ceil((words - level) / self.RATE))
        self.level, self.time = max(Fraction(0), level + self.RATE * taking - words), start + taking
        return taking - cycles


def timeline(config: Config, program: list[Op], position: int, *, greedy: bool = True,
             duration: Callable[..., int] = operation_cycles) -> list[Span]:
    """The operations of one token in program order; the last one, END, ends with the token.

    In the stream configuration the token is one of many: its prefetch queue begins as full as it ends. Refreshes, which
    the hardware counts, are left out; what they cost comes on top.
    Another ``duration`` than `operation_cycles` tells what a unit of other speed would bring.
    """
    if config.weight_source == "ebr":
        return _walk(config, program, position, greedy, duration, None)
    full = level = Fraction(config.stream_fifo_words)
    for _ in range(SETTLING_TOKENS):
        supply, before = Supply(config.stream_fifo_words, level), level
        spans = _walk(config, program, position, greedy, duration, supply)
        level = min(full, supply.level + supply.RATE * (spans[-1].end - supply.time))
        if level == before:
            break
    return spans


def _walk(config: Config, program: list[Op], position: int, greedy: bool, duration: Callable[..., int],
          supply: Supply | None) -> list[Span]:
    """The operations one after the other, with weights from block RAM or from a supply."""
    spans: list[Span] = []
    # From which cycle, after which operation. When a token starts all units have been idle for long enough.
    idle: dict[Unit, tuple[int, int | None]] = {unit: (-timing.WAIT_CYCLES, None) for unit in Unit}
    delivered = dict.fromkeys(Unit, 0)      # the last scalar of each unit, if it ended with one
    turn = 0
    for index, op in enumerate(program):
        unit = UNIT_OF[op.opcode]
        waits = ((idle[u][0] + timing.WAIT_CYCLES, idle[u][1]) for u in units_in(int(op.wait) | int(unit)))
        free, last = max(waits, default=(0, None), key=lambda entry: entry[0])
        start, after = (free, last) if free > turn else (turn, None)
        end = start + duration(config, op, position, greedy=greedy) + 1
        if supply and op.opcode == Opcode.MATVEC:
            tiles = op.groups * op.planes * op.blocks
            end += supply.take(start + 1 + timing.fill_cycles(config, op), timing.tile_cycles(config, op),
                               tiles * timing.tile_words(config))
        if unit:
            idle[unit] = end, index
            delivered[unit] = end if timing.ends_with_scalar(op) else 0
        else:
            end = start + timing.TOKEN_CYCLES
        spans.append(Span(op, unit, start, end, after))
        for rank, loser in enumerate(RESULT_ORDER):
            while any(delivered[winner] == delivered[loser] > 0 for winner in RESULT_ORDER[:rank]):
                end, late = idle[loser][0] + 1, idle[loser][1]
                idle[loser], delivered[loser] = (end, late), end
                spans[late] = replace(spans[late], end=end)
        turn = start + timing.ISSUE_CYCLES
    return spans


def predict(config: Config, program: list[Op], position: int, *, greedy: bool = True) -> Prediction:
    """Cycles of one token and of each of its operations; see `timeline`."""
    spans = timeline(config, program, position, greedy=greedy)
    return Prediction(spans[-1].end, [span.start for span in spans], [span.end for span in spans])
