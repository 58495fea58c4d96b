"""A signed multiplier whose registers are inside an ECP5 multiplier block."""

from amaranth import C, ClockSignal, Instance, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.carry_chain import check_primitives

BLOCK_BITS = 18
REGISTERS = ("INPUTA", "INPUTB", "OUTPUT")


class Multiplier(wiring.Component):
    """``o = a * b``.

    Synthesis leaves the registers of a multiplier block unused; then its operands and its product each travel between
    fabric and block in the same cycle as the multiplication. There is no reset: what it holds follows its inputs.

    Latency: two cycles, one product per cycle.

    Parameters
    ----------
    a_bits, b_bits : widths of the operands, at most 18.
    primitives : ``"ecp5"`` instantiates MULT18X18D (Lattice FPGA-TN-02205, section 4), ``"portable"`` leaves the
        choice to synthesis.

    Members
    -------
    a, b : operands.
    o : product of the operands of two cycles before.

    Raises
    ------
    ValueError: a width out of range, or unknown primitives.
    """

    def __init__(self, *, a_bits: int, b_bits: int, primitives: str) -> None:
        for name, bits in (("a_bits", a_bits), ("b_bits", b_bits)):
            if not 1 <= bits <= BLOCK_BITS:
                raise ValueError(f"{name} must be 1..{BLOCK_BITS}, got {bits}")
        check_primitives(primitives)
        self._primitives = primitives
        super().__init__({"a": In(signed(a_bits)), "b": In(signed(b_bits)), "o": Out(signed(a_bits + b_bits))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self._primitives == "ecp5":
            self._block(m)
        else:
            a, b = Signal.like(self.a, reset_less=True), Signal.like(self.b, reset_less=True)
            product = Signal.like(self.o, reset_less=True)
            m.d.sync += [a.eq(self.a), b.eq(self.b), product.eq(a * b)]
            m.d.comb += self.o.eq(product)
        return m

    def _block(self, m: Module) -> None:
        """One block with registers at its inputs and its output, all on one clock that is always enabled."""
        a, b = (Signal(signed(BLOCK_BITS), name=name) for name in "ab")
        product = Signal(signed(2 * BLOCK_BITS))
        pins: dict[str, object] = {f"i_A{bit}": a[bit] for bit in range(BLOCK_BITS)}
        pins |= {f"i_B{bit}": b[bit] for bit in range(BLOCK_BITS)}
        pins |= {f"i_C{bit}": C(0) for bit in range(BLOCK_BITS)}
        pins |= {f"o_P{bit}": product[bit] for bit in range(2 * BLOCK_BITS)}
        for register in REGISTERS:
            pins |= {f"p_REG_{register}_CLK": "CLK0", f"p_REG_{register}_CE": "CE0", f"p_REG_{register}_RST": "RST0"}
        m.submodules.block = Instance(
            "MULT18X18D", p_CLK0_DIV="ENABLED", p_GSR="DISABLED", i_CLK0=ClockSignal(), i_CE0=C(1), i_RST0=C(0),
            i_SIGNEDA=C(1), i_SIGNEDB=C(1), i_SOURCEA=C(0), i_SOURCEB=C(0), **pins)
        m.d.comb += [a.eq(self.a), b.eq(self.b), self.o.eq(product)]
