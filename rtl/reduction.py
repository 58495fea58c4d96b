"""Pipelined reduction of all lanes of successive beats to one number."""

from collections.abc import Callable, Sequence

from amaranth import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.timing import REDUCTION_FAN_IN, reduction_stages


def larger(first: Value, second: Value) -> Value:
    """The larger of two unsigned values."""
    return Mux(first < second, second, first)


def total(first: Value, second: Value) -> Value:
    """The sum of two unsigned values."""
    return first + second


def balanced(combine: Callable[[Value, Value], Value], values: Sequence[Value]) -> Value:
    """Combine values pairwise in a tree of least depth."""
    if len(values) == 1:
        return values[0]
    middle = len(values) // 2
    return combine(balanced(combine, values[:middle]), balanced(combine, values[middle:]))


class Reduction(wiring.Component):
    """Combine every lane of every valid beat, starting from a given value.

    Latency: ``reduction_stages(lanes)`` cycles from a beat to ``o``; one beat per cycle.

    Parameters
    ----------
    combine : associative function of two unsigned values, `larger` or `total`.
    lanes : elements per beat.
    lane_bits : width of one element.
    out_bits : width of the result; the caller chooses one that cannot overflow.

    Members
    -------
    start : the result becomes ``initial``; not while beats are under way.
    i, i_valid, i_last : beat; the last one of an operation.
    o : result so far.
    o_last : ``o`` includes the last beat from this cycle on; high for one cycle.

    Raises
    ------
    ValueError: fewer than one lane, or the result narrower than an element.
    """

    def __init__(self, *, combine: Callable[[Value, Value], Value], lanes: int, lane_bits: int, out_bits: int) -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be positive, got {lanes}")
        if out_bits < lane_bits:
            raise ValueError(f"out_bits {out_bits} must be at least lane_bits {lane_bits}")
        self._combine = combine
        self._lanes = lanes
        super().__init__({
            "start": In(1),
            "initial": In(out_bits),
            "i": In(data.ArrayLayout(unsigned(lane_bits), lanes)),
            "i_valid": In(1),
            "i_last": In(1),
            "o": Out(out_bits),
            "o_last": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        values: list[Value] = [self.i[lane] for lane in range(self._lanes)]
        valid, last = self.i_valid, self.i_last
        for stage in range(reduction_stages(self._lanes) - 1):
            groups = [values[at : at + REDUCTION_FAN_IN] for at in range(0, len(values), REDUCTION_FAN_IN)]
            values = []
            for index, group in enumerate(groups):
                combined = balanced(self._combine, group)
                register = Signal(combined.shape(), name=f"stage{stage}_{index}", reset_less=True)
                m.d.sync += register.eq(combined)
                values.append(register)
            stage_valid, stage_last = Signal(name=f"valid{stage}"), Signal(name=f"last{stage}")
            m.d.sync += [stage_valid.eq(valid), stage_last.eq(last)]
            valid, last = stage_valid, stage_last

        with m.If(self.start):
            m.d.sync += self.o.eq(self.initial)
        with m.Elif(valid):
            m.d.sync += self.o.eq(balanced(self._combine, [*values, self.o]))
        m.d.sync += self.o_last.eq(valid & last)
        return m
