"""Slots of a vector operation: which beat is read when, and which slots produce a result."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.isa import VectorFn

SLOT = data.StructLayout({"valid": 1, "second": 1, "finish": 1, "last": 1})


class VectorSlots(wiring.Component):
    """Walks the beats of an operation, one read of vector memory per slot.

    SCALE, SQUARE, SILU, SIGMOID and the embedding take a slot per beat. The others take two: first ``a``, then ``b``
    (ADD), ``a`` again (ROTATE), or the ``b`` of the beat before (GATE and PRODUCT, whose first factor is ready three
    slots after its ``a``).

    Latency: SQUARE, SILU, SIGMOID, ROTATE and GATE start in the cycle after ``start``, which do not need a factor at
    once; the others in the cycle after ``first``. Segmented operations take a slot when ``beat`` is high.

    Parameters
    ----------
    address_bits : width of addresses.
    second_bits : width of the address of the second operand.
    has_products, has_silu, has_sigmoid : whether there is PRODUCT, SILU, SIGMOID.

    Members
    -------
    start : begin; ``fn``, ``embed``, ``segmented``, ``src``, ``src2``, ``beats`` are read in this cycle.
    first, beat : progress of the scalars.
    address : beat to read.
    slot : ``valid`` if there is one in this cycle; ``second`` of its beat; ``finish``: its product completes a
        result; ``last``: the last result.

    Raises
    ------
    ValueError: ``second_bits`` narrower than a field of an operation, or wider than ``address_bits``.
    """

    def __init__(self, *, address_bits: int, second_bits: int, has_products: bool, has_silu: bool,
                 has_sigmoid: bool) -> None:
        if not 8 <= second_bits <= address_bits:
            raise ValueError(f"second_bits must be 8..address_bits {address_bits}, got {second_bits}")
        self._address_bits, self._second_bits, self._has_products = address_bits, second_bits, has_products
        self._has_silu, self._has_sigmoid = has_silu, has_sigmoid
        super().__init__({
            "start": In(1), "fn": In(3), "embed": In(1), "segmented": In(1),
            "src": In(address_bits), "src2": In(second_bits), "beats": In(7),
            "first": In(1), "beat": In(1),
            "address": Out(address_bits),
            "slot": Out(SLOT)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        active, waiting = Signal(), Signal()
        paired, rotate, gate, segmented = Signal(), Signal(), Signal(), Signal()
        second, opening = Signal(), Signal()
        a_address, b_address = Signal(self._address_bits, reset_less=True), Signal(self._second_bits, reset_less=True)
        left = Signal(7, reset_less=True)

        def is_fn(fn: VectorFn) -> Signal:
            return (self.fn == fn) & ~self.embed

        finishes = Mux(paired & (rotate | gate), second, ~second) & ~(gate & opening)
        final = left == 0
        m.d.comb += [
            self.slot.valid.eq(active & (~segmented | self.beat)),
            self.slot.second.eq(second),
            self.slot.finish.eq(self.slot.valid & finishes),
            self.slot.last.eq(self.slot.valid & finishes & final),
            self.address.eq(Mux(second & ~rotate, b_address, a_address)),
        ]
        with m.If(self.slot.valid):
            m.d.sync += second.eq(paired & ~second)
            with m.If(second | ~paired):
                m.d.sync += [
                    a_address.eq(a_address + 1), b_address.eq(b_address + 1), left.eq(left - 1), opening.eq(0)]
                with m.If(final):
                    m.d.sync += active.eq(0)
        with m.If(waiting & self.first):
            m.d.sync += [active.eq(1), waiting.eq(0)]
        with m.If(self.start):
            early = is_fn(VectorFn.SQUARE) | is_fn(VectorFn.ROTATE) | is_fn(VectorFn.GATE)
            if self._has_silu:
                early |= is_fn(VectorFn.SILU)
            if self._has_sigmoid:
                early |= is_fn(VectorFn.SIGMOID)
            late_b = is_fn(VectorFn.GATE)
            if self._has_products:
                late_b |= is_fn(VectorFn.PRODUCT)
            m.d.sync += [
                active.eq(early), waiting.eq(~early),
                paired.eq(is_fn(VectorFn.ADD) | is_fn(VectorFn.ROTATE) | late_b),
                rotate.eq(is_fn(VectorFn.ROTATE)), gate.eq(late_b), segmented.eq(self.segmented),
                second.eq(0), opening.eq(1),
                a_address.eq(self.src), b_address.eq(self.src2 - late_b),
                left.eq(self.beats - ~late_b),
            ]
        return m
