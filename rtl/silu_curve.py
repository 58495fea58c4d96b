"""Curves of SiLU and of the sigmoid, looked up and split into a product and a rest for the lanes' multipliers."""

from amaranth import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from rtl.config import ELEMENT_BITS
from rtl.op_layout import elements
from sim import fixed

CURVES = ((fixed.SILU_BASE, fixed.SILU_DROP), (fixed.SIGMOID_BASE, fixed.SIGMOID_DROP))
INDEX_BITS = (fixed.SILU_ENTRIES - 1).bit_length()
# Fractions are scaled up so that a lane's shift, a multiple of four, fits them.
SHIFT = 8
PAD = SHIFT - fixed.SILU_STEP_BITS


def slope_bits(has_sigmoid: bool) -> int:
    """Width of a slope, signed, of SiLU alone or of both curves."""
    return 1 + max(int(abs(drop).max()).bit_length() for _, drop in CURVES[: 1 + has_sigmoid])


class SiluCurve(wiring.Component):
    """Operands of SiLU for some lanes: ``fixed.silu(i) == rest + round(slope * fraction / 2**SHIFT)``.

    Or those of ``fixed.sigmoid_less_one``. Two lanes share a memory, which has two ports.

    Latency: 3 cycles, one element per lane and cycle.

    Parameters
    ----------
    lanes : how many.
    has_sigmoid : whether there is its curve, too.

    Members
    -------
    i : elements of ``SILU_FRACTION`` fraction bits.
    sigmoid : which curve, constant while elements are under way; only with ``has_sigmoid``.
    slope, fraction : factors.
    rest : what is added to their product.
    """

    def __init__(self, *, lanes: int, has_sigmoid: bool = False) -> None:
        self._lanes, self._has_sigmoid = lanes, has_sigmoid
        super().__init__(({"sigmoid": In(1)} if has_sigmoid else {}) | {
            "i": In(elements(lanes)),
            "slope": Out(data.ArrayLayout(signed(slope_bits(has_sigmoid)), lanes)),
            "fraction": Out(data.ArrayLayout(SHIFT, lanes)),
            "rest": Out(elements(lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        curves = CURVES[: 1 + self._has_sigmoid]
        base_bits = max(int(base.max()).bit_length() for base, _ in curves)
        layout = data.StructLayout({"base": base_bits, "drop": signed(slope_bits(self._has_sigmoid))})
        points = [{"base": int(base), "drop": int(drop)} for curve in curves for base, drop in zip(*curve, strict=True)]
        m.submodules.table = table = memory.Memory(shape=layout, depth=len(points), init=points,
                                                   attrs={"ram_style": "block"})
        for lane in range(self._lanes):
            read = table.read_port()
            # Stages: a address, t data of the table, p point in a register.
            a, t, p = (Signal(signed(ELEMENT_BITS), name=f"{stage}{lane}", reset_less=True) for stage in "atp")
            point = Signal(layout, name=f"point{lane}", reset_less=True)
            m.d.sync += [a.eq(self.i[lane]), t.eq(a), p.eq(t), point.eq(read.data)]
            magnitude = a[:-1] ^ a[-1].replicate(ELEMENT_BITS - 1)
            index = magnitude[fixed.SILU_STEP_BITS :]
            entry = Mux(index[INDEX_BITS:].any(), fixed.SILU_ENTRIES - 1, index[:INDEX_BITS])
            slope, rest = point.drop, Mux(p[-1], C(0), p) - point.base
            if self._has_sigmoid:
                entry = Cat(entry, self.sigmoid)
                slope = Mux(self.sigmoid & p[-1], -slope, slope)
                rest = Mux(self.sigmoid, Mux(p[-1], point.base - fixed.SIGMOID_ONE, -point.base), rest)
            m.d.comb += [
                read.addr.eq(entry),
                self.slope[lane].eq(slope),
                self.fraction[lane].eq((p[: fixed.SILU_STEP_BITS] ^ p[-1].replicate(fixed.SILU_STEP_BITS)) << PAD),
                self.rest[lane].eq(rest),
            ]
        return m
