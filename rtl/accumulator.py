"""Combines the sums of a row's column blocks and trit planes, and rounds the result to an element."""

from amaranth import C, Module, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.adder_tree import ACTIVATION_MAX
from rtl.carry_chain import GatedAdder, check_primitives, connect_adder
from rtl.config import ELEMENT_BITS
from rtl.right_shift import RightShift

SHIFT_BITS = 4
FINE_SHIFTS = 4            # the low half of the shift; the high half counts in these
MAGNITUDE_BITS = ELEMENT_BITS - 1


def accumulator_bits(columns: int, planes: int) -> int:
    """Bits of a signed sum of ``columns`` products in ``planes`` planes, with the half that rounds it."""
    peak = columns * ACTIVATION_MAX * (3**planes - 1) // 2
    return (peak + (1 << (1 << SHIFT_BITS) - 2)).bit_length() + 1


class Accumulator(wiring.Component):
    """Accumulates dots, three times the old value first where a trit plane begins; shifts, rounds and saturates.

    As in `AdderTree` nothing is negated on the way: the accumulator keeps the sign of the last dot beside a value
    that is relative to it, and the sign is applied where the half for rounding is added.

    Latency: three cycles; one dot per cycle.

    Parameters
    ----------
    dot_bits : width of a dot.
    bits : width of the accumulator; the caller chooses one that cannot overflow.
    primitives : see `GatedAdder`.

    Members
    -------
    valid : accept a dot.
    first : the dot starts a new element.
    plane : the dot starts a further plane of the element.
    dot, dot_negative : the dot is ``-dot`` if negative.
    shift : right shift of elements.
    half : ``1 << shift >> 1``.
    magnitude, negative : element: ``magnitude ^ -negative``, saturated.

    Raises
    ------
    ValueError: the accumulator is narrower than a dot, or unknown primitives.
    """

    def __init__(self, *, dot_bits: int, bits: int, primitives: str) -> None:
        if bits < dot_bits:
            raise ValueError(f"bits {bits} must be at least dot_bits {dot_bits}")
        check_primitives(primitives)
        self._dot_bits, self._bits, self._primitives = dot_bits, bits, primitives
        super().__init__({
            "valid": In(1), "first": In(1), "plane": In(1),
            "dot": In(signed(dot_bits)), "dot_negative": In(1), "shift": In(SHIFT_BITS), "half": In(bits),
            "magnitude": Out(MAGNITUDE_BITS), "negative": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total, total_negative = Signal(signed(self._bits), reset_less=True), Signal(reset_less=True)
        adders = {name: GatedAdder(width=self._bits, primitives=self._primitives)
                  for name in ("triple", "accumulate", "round")}
        for name, adder in adders.items():
            m.submodules[name] = adder
        triple, accumulate, rounding = adders.values()
        opposite = self.dot_negative ^ total_negative
        m.d.comb += connect_adder(triple, total, total << 1, gate=self.plane)
        m.d.comb += connect_adder(accumulate, self.dot, triple.o, gate=~self.first, negative=opposite,
                                  carry=opposite & ~self.first)
        with m.If(self.valid):
            m.d.sync += [total.eq(accumulate.o), total_negative.eq(self.dot_negative)]

        rounded = Signal(signed(self._bits), reset_less=True)
        m.d.comb += connect_adder(rounding, self.half, total, negative=total_negative, carry=total_negative)
        m.d.sync += rounded.eq(rounding.o)
        self._shift(m, rounded)
        return m

    def _shift(self, m: Module, rounded: Signal) -> None:
        """Shift right by 0 to 3, then by a multiple of four; a magnitude that does not fit becomes all ones."""
        sign = rounded[-1]
        width = max(self._bits, MAGNITUDE_BITS + 1)
        m.submodules.fine = fine = RightShift(width=width, out_width=width, step=1, primitives=self._primitives)
        m.submodules.coarse = coarse = RightShift(
            width=width, out_width=MAGNITUDE_BITS, step=FINE_SHIFTS, primitives=self._primitives)
        overflow = Signal()
        m.d.comb += [
            fine.i.eq(rounded), fine.select.eq(self.shift[:2]),
            coarse.i.eq(fine.o), coarse.select.eq(self.shift[2:]), coarse.invert.eq(sign),
        ]
        with m.Switch(coarse.select):
            for select in range(FINE_SHIFTS):
                above = fine.o[FINE_SHIFTS * select + MAGNITUDE_BITS :]
                if len(above):
                    with m.Case(select):
                        m.d.comb += overflow.eq(above != sign.replicate(len(above)))
        magnitude, negative = Signal(MAGNITUDE_BITS, reset_less=True), Signal(reset_less=True)
        with m.If(overflow):
            m.d.sync += magnitude.eq(C(-1, unsigned(MAGNITUDE_BITS)))
        with m.Else():
            m.d.sync += magnitude.eq(coarse.o)
        m.d.sync += negative.eq(sign)
        m.d.comb += [self.magnitude.eq(magnitude), self.negative.eq(negative)]
