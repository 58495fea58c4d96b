"""Scalar to lane factor: the multiplier and shift that apply a scalar to an element."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.isa import MANTISSA_BITS, SCALE_MANTISSA_BITS, SCALE_SHIFT_MAX, SCALE_SHIFT_STEP
from rtl.op_layout import SCALAR

FACTOR_BITS = SCALE_MANTISSA_BITS + SCALE_SHIFT_STEP - 1
SHIFT_STEPS_BITS = (SCALE_SHIFT_MAX // SCALE_SHIFT_STEP).bit_length()
RIGHT_MAX = 15             # further right shifts leave nothing of the mantissa


class LaneFactor(wiring.Component):
    """``fixed.lane_factor``, computed once for all lanes that share a scalar.

    Latency: one cycle, one scalar per cycle.

    Members
    -------
    scalar : the scale.
    multiplier : unsigned factor.
    steps : right shift in steps of ``SCALE_SHIFT_STEP``.
    """

    def __init__(self) -> None:
        super().__init__({
            "scalar": In(SCALAR),
            "multiplier": Out(FACTOR_BITS),
            "steps": Out(SHIFT_STEPS_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The shift that remains after dropping low mantissa bits is -exponent.
        exponent = self.scalar.exponent + (MANTISSA_BITS - SCALE_MANTISSA_BITS)
        step_bits = SCALE_SHIFT_STEP.bit_length() - 1
        tiny = exponent < -SCALE_SHIFT_MAX
        huge = exponent >= SCALE_SHIFT_STEP
        excess = -SCALE_SHIFT_MAX - exponent

        mantissa = Signal(SCALE_MANTISSA_BITS)
        right = Signal()
        right_bits = Signal(range(RIGHT_MAX + 1))
        left_bits = Signal(range(SCALE_SHIFT_STEP))
        m.d.sync += [
            mantissa.eq(self.scalar.mantissa >> MANTISSA_BITS - SCALE_MANTISSA_BITS),
            right.eq(tiny),
            right_bits.eq(Mux(excess > RIGHT_MAX, RIGHT_MAX, excess)),
            left_bits.eq(Mux(huge, SCALE_SHIFT_STEP - 1, exponent)),
            self.steps.eq(Mux(tiny, SCALE_SHIFT_MAX // SCALE_SHIFT_STEP, Mux(huge, 0, -(exponent >> step_bits)))),
        ]
        m.d.comb += self.multiplier.eq(Mux(right, mantissa >> right_bits, mantissa << left_bits))
        return m
