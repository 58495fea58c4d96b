"""Predicts the cycles of a token by walking its program with the timing rules of the units and the sequencer."""

from dataclasses import dataclass

from rtl import timing
from rtl.config import Config
from rtl.isa import UNIT_OF, Op, Opcode, Unit


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


def predict(config: Config, program: list[Op], position: int, *, greedy: bool = True) -> Prediction:
    """Timeline of one token.

    In the stream configuration the prefetch queue fills while the engine rests, so weights are there when it wants
    them; cycles in which they are not, because the SDRAM refreshed, are counted as ``weight_stall`` and come on top.
    """
    idle = dict.fromkeys(Unit, 0)
    now, issue, done = 0, [], []
    for op in program:
        unit = UNIT_OF[op.opcode]
        waited = [idle[u] for u in Unit if u & (op.wait | unit)]
        now = max([now, *waited])
        busy = operation_cycles(config, op, position, greedy=greedy)
        issue.append(now)
        if unit:
            idle[unit] = now + busy + 1
        done.append(now + busy + 1)
        now += timing.ISSUE_CYCLES
    return Prediction(issue[-1] + timing.TOKEN_CYCLES, issue, done)
