"""Powers of two with negative exponents, for attention probabilities."""

from amaranth import Array, C, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.config import SCORE_BITS, SCORE_FRACTION
from sim.fixed import EXP_BASE, EXP_DROP, EXP_FRACTION_BITS

PROBABILITY_BITS = 12
WHOLE_BITS = 4             # a greater whole part leaves no bit of the result


class Exp2Negative(wiring.Component):
    """``fixed.exp2_negative``: a table of 32 points, linear interpolation without a multiplier, and a shift.

    Latency: ``timing.EXP2_CYCLES``, one value per cycle.

    Members
    -------
    distance : non-negative exponent with ``SCORE_FRACTION`` fraction bits; the power is that of its negative.
    probability : the power, 4095 for a distance of zero.
    """

    def __init__(self) -> None:
        super().__init__({"distance": In(SCORE_BITS), "probability": Out(PROBABILITY_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fraction_bits = EXP_FRACTION_BITS
        index = self.distance[fraction_bits:SCORE_FRACTION]
        whole = self.distance[SCORE_FRACTION:]

        # Table: the point, the drop to the next one, and three times that.
        t_base = Signal(int(EXP_BASE.max()).bit_length(), reset_less=True)
        t_drop = Signal(int(EXP_DROP.max()).bit_length(), reset_less=True)
        t_triple = Signal(int(EXP_DROP.max() * 3).bit_length(), reset_less=True)
        t_rest = Signal(fraction_bits, reset_less=True)
        t_whole = Signal(WHOLE_BITS, reset_less=True)
        m.d.sync += [
            t_base.eq(Array(EXP_BASE.tolist())[index]),
            t_drop.eq(Array(EXP_DROP.tolist())[index]),
            t_triple.eq(Array((EXP_DROP * 3).tolist())[index]),
            t_rest.eq(self.distance[:fraction_bits]),
            t_whole.eq(Mux(whole[WHOLE_BITS:].any(), -1, whole)),
        ]

        # Interpolate: base - (drop * rest >> 5) = (base:31 - drop * rest) >> 5, with drop * rest in digits of 2, 2, 1.
        digits = [Array([0, t_drop, t_drop << 1, t_triple])[t_rest[at : at + 2]] for at in (0, 2)]
        s_high = Signal(len(t_base) + fraction_bits, reset_less=True)
        s_low = Signal(len(t_triple) + 3, reset_less=True)
        s_whole = Signal(WHOLE_BITS, reset_less=True)
        d_value = Signal(len(s_high), reset_less=True)
        d_whole = Signal(WHOLE_BITS, reset_less=True)
        m.d.sync += [
            s_high.eq(Cat(C(-1, fraction_bits), t_base) - (Mux(t_rest[4], t_drop, 0) << 4)),
            s_low.eq(digits[0] + (digits[1] << 2)),
            s_whole.eq(t_whole),
            d_value.eq(s_high - s_low),
            d_whole.eq(s_whole),
        ]

        # Shift to one bit below the result, then round half up.
        kept = d_value[-PROBABILITY_BITS - 1 :]
        h_shifted = Signal(PROBABILITY_BITS + 1, reset_less=True)
        probability = Signal.like(self.probability, reset_less=True)
        m.d.sync += [h_shifted.eq(kept >> d_whole), probability.eq((h_shifted + 1) >> 1)]
        m.d.comb += self.probability.eq(probability)
        return m
