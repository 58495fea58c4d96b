"""Cycles each operation keeps its unit busy. Pure Python: the compiler predicts with it, tests assert it."""

from rtl.config import Config
from rtl.isa import NO_SCALAR, Op, ScalarFn, VectorFn

ISSUE_CYCLES = 2           # between two operations that wait for nothing
TOKEN_CYCLES = 3           # from the issue of END to that of the next token's first operation


REDUCTION_FAN_IN = 4       # values that one stage of a reduction over lanes combines


def reduction_stages(lanes: int) -> int:
    """Cycles of a pipelined reduction; its last stage leaves one input to the running result."""
    stages = 1
    while lanes >= REDUCTION_FAN_IN:
        lanes = -(-lanes // REDUCTION_FAN_IN)
        stages += 1
    return stages


VECTOR_PIPELINE_CYCLES = 6  # read, operands, multiply, shift, add, saturate


def vector_cycles(config: Config, op: Op) -> int:
    """Vector unit, VECTOR: while no other unit delivers a scalar in the cycles in which it does."""
    beats, start = op.beats, 1
    match VectorFn(op.fn):
        case VectorFn.SCALE if op.segmented:
            start, finish = 3, config.segments * beats - 1
        case VectorFn.SCALE:
            start, finish = 3, beats - 1
        case VectorFn.ADD:
            start, finish = 3, 2 * beats - 2
        case VectorFn.SQUARE:
            finish = beats - 2
        case VectorFn.ROTATE:
            finish = 2 * beats - 1
        case VectorFn.GATE:
            finish = 2 * beats + 1
    return start + finish + VECTOR_PIPELINE_CYCLES + reduction_stages(config.lanes)


def embed_cycles(config: Config, op: Op) -> int:
    """Vector unit, EMBED: as `vector_cycles`."""
    return 3 + op.beats + VECTOR_PIPELINE_CYCLES + reduction_stages(config.lanes)


def scalar_cycles(config: Config, op: Op) -> int:
    """Scalar unit."""
    interpolate = 3 if op.fn in (ScalarFn.RECIPROCAL, ScalarFn.RSQRT) else 0
    return 4 + interpolate + (0 if op.rb == NO_SCALAR else 2)


def rotary_cycles(config: Config, op: Op) -> int:
    """Rotary unit."""
    return 5 * (config.head_dim // 2) + 5
