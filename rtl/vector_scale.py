"""Scalars of a vector operation: fetched from the scalar unit and turned into lane factors and shifts."""

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.config import ELEMENT_BITS, EXPONENT_BITS
from rtl.isa import MANTISSA_BITS, SCALE_SHIFT_STEP
from rtl.lane_factor import FACTOR_BITS, SHIFT_STEPS_BITS, LaneFactor
from rtl.op_layout import SCALAR, read_port

STEP_LOG2 = SCALE_SHIFT_STEP.bit_length() - 1
FETCH = data.StructLayout({"valid": 1, "first": 1, "second": 1, "segment": 4})


class VectorScale(wiring.Component):
    """Fetches S(ra), then S(rb); or, segmented, S(ra), S(ra + 1), ... one per segment until the operation ends.

    Latency: the factor of S(ra) is valid 4 cycles after ``start``; one scalar per cycle.

    Parameters
    ----------
    segments : groups of lanes with a factor of their own.
    slot_bits : of the slot's number, which leads a scalar's.

    Members
    -------
    start : begin; ``ra``, ``rb``, ``segmented`` are read in this cycle.
    busy : an operation is under way.
    scalar_read : read port of the scalar unit.
    factor, steps : multiplier and shift (in steps of four bits) per segment.
    gate_steps : the two shifts of GATE, from the peaks S(ra) and S(rb); ``gate_valid`` is high in the cycle before
        the second one appears.
    exponent : block exponent of S(rb).
    first : high 2 cycles before the factor of S(ra) is valid.
    beat : high in the cycle before the factors of a beat are complete.

    Raises
    ------
    ValueError: more than 16 segments or none.
    """

    def __init__(self, *, segments: int, slot_bits: int = 0) -> None:
        if not 1 <= segments <= 16:
            raise ValueError(f"segments must be 1..16, got {segments}")
        self._segments, self._address_bits = segments, 5 + slot_bits
        super().__init__({
            "start": In(1), "ra": In(self._address_bits), "rb": In(self._address_bits), "segmented": In(1),
            "busy": In(1),
            "scalar_read": Out(read_port(SCALAR, self._address_bits)),
            "factor": Out(data.ArrayLayout(unsigned(FACTOR_BITS), segments)),
            "steps": Out(data.ArrayLayout(unsigned(SHIFT_STEPS_BITS), segments)),
            "gate_steps": Out(data.ArrayLayout(unsigned(SHIFT_STEPS_BITS), 2)),
            "gate_valid": Out(1),
            "exponent": Out(EXPONENT_BITS),
            "first": Out(1),
            "beat": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.lane_factor = lane_factor = LaneFactor()
        # Stages: a address, d data of the scalar memory, f factor.
        a_fetch, d_fetch, f_fetch = Signal(FETCH), Signal(FETCH), Signal(FETCH)
        address, rb, segmented = Signal(self._address_bits), Signal(self._address_bits), Signal()
        last_segment = self._segments - 1
        with m.If(self.start):
            m.d.sync += [
                address.eq(self.ra), rb.eq(self.rb), segmented.eq(self.segmented),
                a_fetch.valid.eq(1), a_fetch.first.eq(1), a_fetch.second.eq(0), a_fetch.segment.eq(0)]
        with m.Else():
            m.d.sync += [
                a_fetch.valid.eq(a_fetch.valid & self.busy & (a_fetch.first | segmented)),
                a_fetch.first.eq(0),
                a_fetch.second.eq(a_fetch.first & ~segmented),
                a_fetch.segment.eq(Mux(a_fetch.segment == last_segment, 0, a_fetch.segment + 1)),
                address.eq(Mux(segmented, address + 1, rb)),
            ]
        # The beat is decoded ahead: with it begins the longest way there is, over the read to attention's accumulators.
        m.d.sync += [d_fetch.eq(a_fetch), f_fetch.eq(d_fetch),
                     self.beat.eq(d_fetch.valid & (d_fetch.segment == last_segment))]

        scalar = self.scalar_read.data
        bits = scalar.exponent + MANTISSA_BITS      # bit length of the integer behind a peak
        square_excess = 2 * bits - (ELEMENT_BITS - 1)
        first_steps = (square_excess + SCALE_SHIFT_STEP - 1) >> STEP_LOG2
        m.d.comb += [
            self.scalar_read.enable.eq(a_fetch.valid), self.scalar_read.address.eq(address),
            lane_factor.scalar.eq(scalar),
            self.first.eq(d_fetch.valid & d_fetch.first),
            self.gate_valid.eq(d_fetch.valid & d_fetch.second),
        ]
        with m.If(self.first):
            m.d.sync += self.gate_steps[0].eq(Mux(first_steps < 0, 0, first_steps))
        with m.If(self.gate_valid):
            m.d.sync += [
                self.exponent.eq(1 - MANTISSA_BITS - scalar.exponent),
                self.gate_steps[1].eq((bits + SCALE_SHIFT_STEP - 1) >> STEP_LOG2),
            ]
        for segment in range(self._segments):
            with m.If(f_fetch.valid & ~f_fetch.second & (~segmented | (f_fetch.segment == segment))):
                m.d.sync += [
                    self.factor[segment].eq(lane_factor.multiplier), self.steps[segment].eq(lane_factor.steps)]
        return m
