"""One lane of the vector unit: an 18x18 multiplier with shift, round, add and saturate behind it."""

from amaranth import Array, C, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from rtl.carry_chain import GatedAdder, check_primitives, connect_adder
from rtl.config import ELEMENT_BITS
from rtl.isa import SCALE_SHIFT_STEP, SQUARE_SHIFT
from rtl.lane_factor import FACTOR_BITS, SHIFT_STEPS_BITS
from rtl.multiplier import Multiplier
from rtl.silu_curve import SHIFT, slope_bits
from sim.fixed import ROTARY_FRACTION

PRODUCT_BITS = 2 * ELEMENT_BITS
SQUARE_BITS = 2 * ELEMENT_BITS - 1 - SQUARE_SHIFT
SHIFTED_BITS = ELEMENT_BITS + 1     # a wider value saturates whatever is added to it
TOTAL_BITS = ELEMENT_BITS + 2
ROTARY_SHIFT = -(-ROTARY_FRACTION // SCALE_SHIFT_STEP) * SCALE_SHIFT_STEP
ROTARY_PAD = ROTARY_SHIFT - ROTARY_FRACTION   # rotary factors are scaled up so that lane shifts fit them


class X(enum.Enum, shape=2):
    """Source of the first operand."""

    OWN = 0
    PARTNER = 1
    EMBEDDING = 2
    SHIFTED = 3


class Y(enum.Enum, shape=2):
    """Source of the second operand."""

    FACTOR = 0
    ROTATION = 1
    OWN = 2
    POSITIVE = 3    # own, zero where negative


class Addend(enum.Enum, shape=2):
    """What is added to the shifted product."""

    ZERO = 0
    HELD = 1        # first operand of the slot after
    TOTAL = 2       # sum of the slot before
    REST = 3        # rest of SILU and SIGMOID


OPERAND_CONTROL = data.StructLayout({"x": X, "y": Y})
SHIFT_CONTROL = data.StructLayout({"steps": SHIFT_STEPS_BITS, "carry": 1, "clear": 1})
OUTPUT_CONTROL = data.StructLayout({"addend": Addend, "narrow": 1})


class VectorLane(wiring.Component):
    """Datapath of one lane; the vector unit steers it slot by slot.

    Latency, from the cycle of the operands: product after 2, shifted product after 3, total after 4, ``o`` after 5
    cycles. Each control belongs to the cycle before the register it steers. One slot per cycle.

    Parameters
    ----------
    embed_bits : width of an embedding code after subtraction of its offset, signed.
    primitives : see `Multiplier`.
    has_silu : whether there are the operands of SILU.
    has_sigmoid : whether these can be those of SIGMOID as well.

    Members
    -------
    own, partner, embedding, factor, rotation : operand sources; rotation has ``ROTARY_FRACTION`` fraction bits.
    operand, shift, output : controls of the operand, shift and saturation stages; ``carry`` completes the rounding
        of two products whose sum is rounded once.
    silu : control, like ``operand``: take slope and fraction as operands, and add the rest.
    slope, fraction, rest : see `SiluCurve`.
    square : product without its ``SQUARE_SHIFT`` low bits.
    o : saturated result.
    key : orders results by magnitude: ``key >> 1`` plus ``key & 1`` is ``abs(o)``.

    Raises
    ------
    ValueError: ``embed_bits`` exceeds an element, or unknown primitives.
    """

    def __init__(self, *, embed_bits: int, primitives: str, has_silu: bool = False, has_sigmoid: bool = False) -> None:
        if not 1 < embed_bits <= ELEMENT_BITS:
            raise ValueError(f"embed_bits must be 2..{ELEMENT_BITS}, got {embed_bits}")
        check_primitives(primitives)
        self._primitives, self._has_silu = primitives, has_silu
        silu = {"silu": In(1), "slope": In(signed(slope_bits(has_sigmoid))), "fraction": In(SHIFT),
                "rest": In(signed(ELEMENT_BITS))}
        super().__init__((silu if has_silu else {}) | {
            "own": In(signed(ELEMENT_BITS)),
            "partner": In(signed(ELEMENT_BITS)),
            "embedding": In(signed(embed_bits)),
            "factor": In(FACTOR_BITS),
            "rotation": In(signed(ROTARY_FRACTION + 2)),
            "operand": In(OPERAND_CONTROL),
            "shift": In(SHIFT_CONTROL),
            "output": In(OUTPUT_CONTROL),
            "square": Out(SQUARE_BITS),
            "o": Out(signed(ELEMENT_BITS)),
            "key": Out(ELEMENT_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shifted = Signal(signed(SHIFTED_BITS), reset_less=True)

        first, second = Signal(signed(ELEMENT_BITS)), Signal(signed(ELEMENT_BITS))
        with m.Switch(self.operand.x):
            with m.Case(X.OWN):
                m.d.comb += first.eq(self.own)
            with m.Case(X.PARTNER):
                m.d.comb += first.eq(self.partner)
            with m.Case(X.EMBEDDING):
                m.d.comb += first.eq(self.embedding)
            with m.Case(X.SHIFTED):
                m.d.comb += first.eq(shifted)
        with m.Switch(self.operand.y):
            with m.Case(Y.FACTOR):
                m.d.comb += second.eq(self.factor)
            with m.Case(Y.ROTATION):
                m.d.comb += second.eq(self.rotation << ROTARY_PAD)
            with m.Case(Y.OWN):
                m.d.comb += second.eq(self.own)
            with m.Case(Y.POSITIVE):
                m.d.comb += second.eq(Mux(self.own < 0, 0, self.own))

        beside = first
        if self._has_silu:
            beside = Mux(self.silu, self.rest, first)
            with m.If(self.silu):
                m.d.comb += [first.eq(self.slope), second.eq(self.fraction)]

        m.submodules.multiplier = multiplier = Multiplier(
            a_bits=ELEMENT_BITS, b_bits=ELEMENT_BITS, primitives=self._primitives)
        # Beside the product, where no multiplier block can hold it.
        x_first, held = (Signal(signed(ELEMENT_BITS), reset_less=True) for _ in range(2))
        m.d.sync += [x_first.eq(beside), held.eq(x_first)]
        m.d.comb += [multiplier.a.eq(first), multiplier.b.eq(second), self.square.eq(multiplier.o[SQUARE_SHIFT:])]

        round_up, overflow, negative = self._shift(m, multiplier.o, shifted)
        self._finish(m, held, shifted, round_up, overflow, negative)
        return m

    def _shift(self, m: Module, product: Signal, shifted: Signal) -> tuple[Signal, Signal, Signal]:
        """Shift stage; returns whether to round up, and whether the shifted product is too wide, and its sign."""
        sign = product[-1]
        # Low bits of the slot before, already rounded: with this slot's they decide the carry of the sum.
        low = Signal(ROTARY_SHIFT - ROTARY_PAD, reset_less=True)
        m.d.sync += low.eq(Cat(product[ROTARY_PAD : ROTARY_SHIFT - 1], ~product[ROTARY_SHIFT - 1]))
        carry = (low + product[ROTARY_PAD:ROTARY_SHIFT])[-1]

        round_up, overflow, negative = (Signal(reset_less=True) for _ in range(3))
        # In two levels, which cost fewer look-up tables than one; the bit below the result rounds it.
        high, low_steps = self.shift.steps[-1], self.shift.steps[:-1]
        half_way = SCALE_SHIFT_STEP << len(low_steps)
        coarse = Mux(high, product >> half_way - 1, product << 1)[: SHIFTED_BITS + half_way - SCALE_SHIFT_STEP + 1]
        fine = Array(coarse[step * SCALE_SHIFT_STEP :][: SHIFTED_BITS + 1] for step in range(1 << len(low_steps)))
        window = fine[low_steps]
        # From bit SHIFTED_BITS - 1 on, all bits must repeat the sign.
        differs = [(product[at : at + SCALE_SHIFT_STEP] != sign.replicate(SCALE_SHIFT_STEP))
                   for at in range(SHIFTED_BITS - 1, PRODUCT_BITS - SCALE_SHIFT_STEP, SCALE_SHIFT_STEP)]
        too_wide = [different & (self.shift.steps <= step) for step, different in enumerate(differs)]
        m.d.sync += [
            shifted.eq(window[1:]),
            round_up.eq(Mux(self.shift.carry, carry, window[0])),
            overflow.eq(Cat(too_wide).any()),
            negative.eq(sign),
        ]
        with m.If(self.shift.clear):
            m.d.sync += [shifted.eq(0), round_up.eq(0), overflow.eq(0)]
        return round_up, overflow, negative

    def _finish(self, m: Module, held: Signal, shifted: Signal, round_up: Signal, overflow: Signal,
                negative: Signal) -> None:
        """Add and saturate stages."""
        total = Signal(signed(TOTAL_BITS), reset_less=True)
        total_overflow, total_negative = Signal(reset_less=True), Signal(reset_less=True)
        addend = Signal(signed(TOTAL_BITS))
        with m.Switch(self.output.addend):
            with m.Case(Addend.HELD):
                m.d.comb += addend.eq(held)
            with m.Case(Addend.TOTAL):
                m.d.comb += addend.eq(total)
            if self._has_silu:
                rest = Signal.like(held)
                m.d.sync += rest.eq(held)
                with m.Case(Addend.REST):
                    m.d.comb += addend.eq(rest)
        m.submodules.adder = adder = GatedAdder(width=TOTAL_BITS, primitives=self._primitives)
        m.d.comb += connect_adder(adder, shifted, addend, carry=round_up)
        m.d.sync += [total.eq(adder.o), total_overflow.eq(overflow), total_negative.eq(negative)]

        sign = Mux(total_overflow, total_negative, total[-1])
        outside = total[ELEMENT_BITS - 1 :] != total[-1].replicate(TOTAL_BITS - ELEMENT_BITS + 1)
        outside_int8 = (total[7:] != total[-1].replicate(TOTAL_BITS - 7)) | (total[-1] & ~total[:7].any())
        saturated = total_overflow | Mux(self.output.narrow, outside_int8, outside)
        wide = Cat((~sign).replicate(ELEMENT_BITS - 1), sign)
        limit = Mux(self.output.narrow, Cat((~sign).replicate(7) | 1, sign.replicate(ELEMENT_BITS - 7)), wide)
        # One's complement of the magnitude, with the missing one kept apart: no carry, and the order is the same.
        magnitude = total[: ELEMENT_BITS - 1] ^ total[-1].replicate(ELEMENT_BITS - 1)
        limit_magnitude = Mux(
            self.output.narrow, Cat(~sign, C(63, 6)), C((1 << ELEMENT_BITS - 1) - 1, ELEMENT_BITS - 1))
        o, key = Signal.like(self.o, reset_less=True), Signal.like(self.key, reset_less=True)
        m.d.sync += [
            o.eq(Mux(saturated, limit, total)),
            key.eq(Cat(sign, Mux(saturated, limit_magnitude, magnitude))),
        ]
        m.d.comb += [self.o.eq(o), self.key.eq(key)]
