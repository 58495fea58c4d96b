"""What SiLU differs from ReLU by, looked up and split into a product and a rest for the lanes' multipliers."""

from amaranth import C, Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from rtl.config import ELEMENT_BITS
from rtl.op_layout import elements
from sim import fixed

BASE_BITS = int(fixed.SILU_BASE.max()).bit_length()
SLOPE_BITS = 1 + int(abs(fixed.SILU_DROP).max()).bit_length()
POINT = data.StructLayout({"base": BASE_BITS, "drop": signed(SLOPE_BITS)})
INDEX_BITS = (fixed.SILU_ENTRIES - 1).bit_length()
# Fractions are scaled up so that a lane's shift, a multiple of four, fits them.
SHIFT = 8
PAD = SHIFT - fixed.SILU_STEP_BITS


class SiluCurve(wiring.Component):
    """Operands of SiLU for some lanes: ``fixed.silu(i) == rest + round(slope * fraction / 2**SHIFT)``.

    Two lanes share a block RAM, which has two ports.

    Latency: 3 cycles, one element per lane and cycle.

    Parameters
    ----------
    lanes : how many.

    Members
    -------
    i : elements of ``SILU_FRACTION`` fraction bits.
    slope, fraction : factors.
    rest : what is added to their product.
    """

    def __init__(self, *, lanes: int) -> None:
        self._lanes = lanes
        super().__init__({
            "i": In(elements(lanes)),
            "slope": Out(data.ArrayLayout(signed(SLOPE_BITS), lanes)),
            "fraction": Out(data.ArrayLayout(SHIFT, lanes)),
            "rest": Out(elements(lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        points = [{"base": int(base), "drop": int(drop)}
                  for base, drop in zip(fixed.SILU_BASE, fixed.SILU_DROP, strict=True)]
        m.submodules.table = table = memory.Memory(shape=POINT, depth=fixed.SILU_ENTRIES, init=points,
                                                   attrs={"ram_style": "block"})
        for lane in range(self._lanes):
            read = table.read_port()
            # Stages: a address, t data of the table, p point in a register.
            a, t, p = (Signal(signed(ELEMENT_BITS), name=f"{stage}{lane}", reset_less=True) for stage in "atp")
            point = Signal(POINT, name=f"point{lane}", reset_less=True)
            m.d.sync += [a.eq(self.i[lane]), t.eq(a), p.eq(t), point.eq(read.data)]
            magnitude = a[:-1] ^ a[-1].replicate(ELEMENT_BITS - 1)
            index = magnitude[fixed.SILU_STEP_BITS :]
            m.d.comb += [
                read.addr.eq(Mux(index[INDEX_BITS:].any(), fixed.SILU_ENTRIES - 1, index[:INDEX_BITS])),
                self.slope[lane].eq(point.drop),
                self.fraction[lane].eq((p[: fixed.SILU_STEP_BITS] ^ p[-1].replicate(fixed.SILU_STEP_BITS)) << PAD),
                self.rest[lane].eq(Mux(p[-1], C(0), p) - point.base),
            ]
        return m
