"""Combines the sums of a row's column blocks and trit planes, and rounds the result to an element."""

from amaranth import Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.carry_chain import GatedAdder, check_primitives, connect_adder
from rtl.config import ELEMENT_BITS


class Accumulator(wiring.Component):
    """Accumulates dots, three times the old value first where a trit plane begins; then rounds.

    The sign of a dot is applied as it is added. The sum is zero after a last dot, so a first one needs no gate.

    Latency: one cycle, three where sums are shifted; one dot per cycle.

    Parameters
    ----------
    dot_bits : width of a dot.
    bits : width of the sum; the caller chooses one that cannot overflow.
    shift_max : largest rounding shift.
    primitives : see `GatedAdder`.

    Members
    -------
    valid : accept a dot.
    plane : the dot starts a further plane of the element.
    last : the dot is the last of the element.
    dot, negative : the dot is ``-dot`` if negative.
    shift, half : right shift of elements, and ``1 << shift >> 1``; the result must fit an element.
    o : element; zero in other cycles.

    Raises
    ------
    ValueError: the sum is narrower than a dot, or unknown primitives.
    """

    def __init__(self, *, dot_bits: int, bits: int, shift_max: int, primitives: str) -> None:
        if bits < dot_bits:
            raise ValueError(f"bits {bits} must be at least dot_bits {dot_bits}")
        check_primitives(primitives)
        self._bits, self._shifts, self._primitives = bits, bool(shift_max), primitives
        super().__init__({
            "valid": In(1), "plane": In(1), "last": In(1), "dot": In(signed(dot_bits)), "negative": In(1),
            "shift": In(shift_max.bit_length()), "half": In(shift_max), "o": Out(signed(ELEMENT_BITS))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        element = accumulate_dots(m, bits=self._bits, primitives=self._primitives, valid=self.valid, plane=self.plane,
                                  last=self.last, show=self.last, dot=self.dot, negative=self.negative,
                                  carry=self.negative)
        if self._shifts:
            round_element(m, element, self.half, self.shift, self.o)
        else:
            m.d.comb += self.o.eq(element)
        return m


def accumulate_dots(m: Module, *, bits: int, primitives: str, valid: Value, plane: Value, last: Value, show: Value,
                    dot: Value, negative: Value | int, carry: Value | int) -> Signal:
    """The sum of an element in the cycle after its last dot if ``show``, else zero; other inputs as `Accumulator`.

    ``carry`` adds one to the dot, which ``negative`` inverts.
    """
    m.submodules.triple = triple = GatedAdder(width=bits, primitives=primitives)
    m.submodules.accumulate = accumulate = GatedAdder(width=bits, primitives=primitives)
    total = Signal(signed(bits))            # begins at zero, also if the run before ended within an element
    element = Signal(signed(bits), reset_less=True)
    m.d.comb += connect_adder(triple, total, total << 1, gate=plane)
    m.d.comb += connect_adder(accumulate, triple.o, dot, negative=negative, carry=carry)
    m.d.sync += element.eq(Mux(show, accumulate.o, 0))
    # What empties the sum comes first, so that synthesis joins it with the reset: elsewhere it is a gate per bit.
    m.d.sync += total.eq(Mux(valid & last, 0, Mux(valid, accumulate.o, total)))
    return element


def round_element(m: Module, element: Value, half: Value, shift: Value, o: Signal) -> None:
    """``o`` is ``element`` of two cycles before, shifted right and rounded."""
    rounded = Signal.like(element)
    m.d.sync += [rounded.eq(element + half), o.eq(rounded >> shift)]
