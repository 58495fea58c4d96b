"""A register that synthesis must not share with its copies."""

from amaranth import C, ClockSignal, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.carry_chain import check_primitives


class RegisterCopy(wiring.Component):
    """One of several equal registers, each of which drives a part of many loads.

    Synthesis merges equal registers; an instantiated one with the ``keep`` attribute it leaves alone. It has no
    reset: what it holds follows its input in any case.

    Latency: one cycle.

    Parameters
    ----------
    width : bits.
    primitives : ``"ecp5"`` instantiates TRELLIS_FF, ``"portable"`` is a plain register.

    Members
    -------
    i : value.
    o : value of the cycle before.

    Raises
    ------
    ValueError: width below one, or unknown primitives.
    """

    def __init__(self, *, width: int, primitives: str) -> None:
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        check_primitives(primitives)
        self._width, self._primitives = width, primitives
        super().__init__({"i": In(width), "o": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self._primitives == "portable":
            held = Signal(self._width, reset_less=True)
            m.d.sync += held.eq(self.i)
            m.d.comb += self.o.eq(held)
            return m
        for bit in range(self._width):
            m.submodules[f"bit_{bit}"] = Instance(
                "TRELLIS_FF", a_keep=1, p_GSR="AUTO", p_CEMUX="1", p_CLKMUX="CLK", p_LSRMUX="LSR", p_REGSET="RESET",
                i_CLK=ClockSignal(), i_LSR=C(0), i_DI=self.i[bit], o_Q=self.o[bit])
        return m
