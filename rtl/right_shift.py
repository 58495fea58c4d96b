"""Right shift by one of four distances, two lookup cells per bit on an ECP5."""

from amaranth import C, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.carry_chain import check_primitives

# Lookup contents of a cell: (select ? b : a) ^ invert, from low to high input a, b, select, invert.
SELECT_INVERT = 0x35CA


class RightShift(wiring.Component):
    """``o = (i >> step * select) ^ -invert``, arithmetic; high bits that do not fit ``o`` are dropped.

    Latency: none, combinational.

    Parameters
    ----------
    width : bits of ``i``.
    out_width : bits of ``o``.
    step : distance per ``select``.
    primitives : ``"ecp5"`` instantiates LUT4 and PFUMX, ``"portable"`` leaves the choice to synthesis.

    Members
    -------
    i : value.
    select : 0 to 3.
    invert : inverts every bit.
    o : shifted value.

    Raises
    ------
    ValueError: a size below one, or unknown primitives.
    """

    def __init__(self, *, width: int, out_width: int, step: int, primitives: str) -> None:
        for name, size in (("width", width), ("out_width", out_width), ("step", step)):
            if size < 1:
                raise ValueError(f"{name} must be positive, got {size}")
        check_primitives(primitives)
        self._width, self._out_width, self._step, self._primitives = width, out_width, step, primitives
        super().__init__({"i": In(width), "select": In(2), "invert": In(1), "o": Out(out_width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for bit in range(self._out_width):
            a, b, c, d = (self.i[min(bit + select * self._step, self._width - 1)] for select in range(4))
            if self._primitives == "ecp5":
                low, high = Signal(name=f"low_{bit}"), Signal(name=f"high_{bit}")
                for name, first, second, out in (("low", a, b, low), ("high", c, d, high)):
                    m.submodules[f"{name}_{bit}"] = Instance(
                        "LUT4", p_INIT=C(SELECT_INVERT, 16), i_A=first, i_B=second, i_C=self.select[0],
                        i_D=self.invert, o_Z=out)
                m.submodules[f"select_{bit}"] = Instance(
                    "PFUMX", i_ALUT=high, i_BLUT=low, i_C0=self.select[1], o_Z=self.o[bit])
            else:
                with m.Switch(self.select):
                    for select, value in enumerate((a, b, c, d)):
                        with m.Case(select):
                            m.d.comb += self.o[bit].eq(value ^ self.invert)
        return m
