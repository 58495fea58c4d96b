"""All lanes of the vector unit, and the pipeline of controls that steers them."""

from amaranth import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.config import ELEMENT_BITS
from rtl.isa import SCALE_SHIFT_STEP, VectorFn
from rtl.lane_factor import FACTOR_BITS, SHIFT_STEPS_BITS
from rtl.op_layout import ROTATION, elements
from rtl.register_copy import RegisterCopy
from rtl.vector_lane import (
    OPERAND_CONTROL,
    OUTPUT_CONTROL,
    ROTARY_SHIFT,
    SHIFT_CONTROL,
    SQUARE_BITS,
    Addend,
    VectorLane,
    X,
    Y,
)
from rtl.vector_slots import SLOT

COPY_LANES = 5             # lanes that share one copy of what steers them
MODE = data.StructLayout({"fn": VectorFn, "embed": 1, "narrow": 1, "stored": 1})


class VectorLanes(wiring.Component):
    """The lanes, with the selection of their operands, shifts and addends for each slot.

    A beat passes in ``slices`` parts, each a whole number of heads; results are put together to beats again.

    Latency: results 6 cycles after a slot's read (7 for embeddings); squares 3 cycles after it. A slot per cycle.

    Parameters
    ----------
    lanes : elements per beat.
    slices : parts of a beat, 1 or 2; there are ``lanes // slices`` lanes.
    head_dim : elements per head.
    embed_planes : trit planes of the embedding.
    primitives : see `Multiplier`.

    Members
    -------
    mode : function, constant during an operation; ``narrow`` saturates to int8, ``stored`` results are for memory.
    slot : the slot whose slice is being read.
    own : beat of vector memory, one cycle after the slot.
    embedding : beat of codes, one cycle after the slot.
    rotary : factors of ROTATE.
    factor, steps, gate_steps : as `VectorScale` gives them.
    o, o_valid : beats of results.
    o_stored : valid beats that are for memory, else zero.
    key, key_valid, key_last : what orders the results of a slice by magnitude.
    square, square_valid, square_last : squares of SQUARE.

    Raises
    ------
    ValueError: a slice is no multiple of ``head_dim``, or ``head_dim`` is odd.
    """

    def __init__(self, *, lanes: int, slices: int, head_dim: int, embed_planes: int, primitives: str) -> None:
        if slices not in (1, 2) or lanes % (slices * head_dim):
            raise ValueError(f"lanes {lanes} must be a multiple of {slices} slices of heads of {head_dim}")
        if head_dim % 2:
            raise ValueError(f"head_dim {head_dim} must be even")
        self._lanes, self._head_dim, self._segments = lanes // slices, head_dim, lanes // slices // head_dim
        self._slices = slices
        self._embed_offset = (3**embed_planes - 1) // 2
        self._embed_bits = (3**embed_planes - 1).bit_length()
        self._primitives = primitives
        super().__init__({
            "mode": In(MODE),
            "slot": In(SLOT),
            "own": In(elements(lanes)),
            "embedding": In(data.ArrayLayout(unsigned(self._embed_bits), lanes)),
            "rotary": In(data.ArrayLayout(ROTATION, head_dim // 2)),
            "factor": In(data.ArrayLayout(unsigned(FACTOR_BITS), lanes // head_dim)),
            "steps": In(data.ArrayLayout(unsigned(SHIFT_STEPS_BITS), lanes // head_dim)),
            "gate_steps": In(data.ArrayLayout(unsigned(SHIFT_STEPS_BITS), 2)),
            "o": Out(elements(lanes)),
            "o_stored": Out(elements(lanes)),
            "o_valid": Out(1),
            "key": Out(data.ArrayLayout(unsigned(ELEMENT_BITS), self._lanes)),
            "key_valid": Out(1),
            "key_last": Out(1),
            "square": Out(data.ArrayLayout(unsigned(SQUARE_BITS), self._lanes)),
            "square_valid": Out(1),
            "square_last": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Stages: r read, e embedding code, d data, x operands, m product, s shifted, t total, o result.
        e_slot, d_slot, x_slot, m_slot, s_slot, t_slot, o_slot = (
            Signal(SLOT, name=f"{stage}_slot") for stage in "edxmsto")
        is_fn = {fn: (self.mode.fn == fn) & ~self.mode.embed for fn in VectorFn}
        before_d = Signal(SLOT)
        m.d.comb += before_d.eq(Mux(self.mode.embed, e_slot, self.slot))
        m.d.sync += [
            e_slot.eq(self.slot), d_slot.eq(before_d), x_slot.eq(d_slot), m_slot.eq(x_slot),
            # SQUARE passes its operand, which is held beside its product and needs no shift.
            s_slot.eq(Mux(is_fn[VectorFn.SQUARE], x_slot, m_slot)),
            t_slot.eq(s_slot), o_slot.eq(t_slot),
        ]
        m.d.comb += [
            self.key_valid.eq(o_slot.finish), self.key_last.eq(o_slot.last),
            self.o_valid.eq(o_slot.finish & (o_slot.slice == self._slices - 1)),
            self.square_valid.eq(m_slot.valid & is_fn[VectorFn.SQUARE]),
            self.square_last.eq(m_slot.last & is_fn[VectorFn.SQUARE]),
        ]

        operand, output = Signal(OPERAND_CONTROL), Signal(OUTPUT_CONTROL)
        self._steer_operands(m, operand, before_d.second, is_fn)
        part = Signal()
        m.d.sync += part.eq(self.slot.slice)
        factors = [self._of_segment(self.factor, segment, part) for segment in range(self._segments)]
        shifts = self._steer_shifts(m, x_slot.second, is_fn, part)
        addend = Mux(is_fn[VectorFn.ROTATE] & m_slot.second, Addend.TOTAL, Addend.ZERO)
        held = is_fn[VectorFn.SQUARE] | is_fn[VectorFn.ADD]
        m.d.comb += [output.addend.eq(Mux(held, Addend.HELD, addend)), output.narrow.eq(self.mode.narrow)]

        rotation = self._rotation(m, before_d.second)
        stored = t_slot.finish & (t_slot.slice == self._slices - 1) & self.mode.stored
        for lane in range(self._lanes):
            segment, element = divmod(lane, self._head_dim)
            if element % COPY_LANES == 0:
                steer = Cat(operand, shifts[segment], output, stored, self.slot.slice)
                m.submodules[f"steer{lane}"] = copy = RegisterCopy(width=len(steer), primitives=self._primitives)
                m.d.comb += copy.i.eq(steer)
                show, part = copy.o[-2:]
            m.submodules[f"lane{lane}"] = unit = VectorLane(
                embed_bits=self._embed_bits + 1, primitives=self._primitives)
            code = Signal(self._embed_bits, name=f"code{lane}", reset_less=True)
            m.d.sync += code.eq(self._part(self.embedding, lane, part))
            m.d.comb += [
                unit.own.eq(self._part(self.own, lane, part)), unit.partner.eq(self._part(self.own, lane ^ 1, part)),
                unit.embedding.eq(code - self._embed_offset), unit.rotation.eq(rotation[element]),
                unit.factor.eq(factors[segment]),
                Cat(unit.operand, unit.shift, unit.output).eq(copy.o),
                self.square[lane].eq(unit.square), self.key[lane].eq(unit.key),
            ]
            self._collect(m, lane, unit.o, o_slot, show)
        return m

    def _part(self, beat: data.View, lane: int, part: Value) -> Value:
        """The element of a beat that a lane works on."""
        return Mux(part, beat[lane + self._lanes], beat[lane]) if self._slices == 2 else beat[lane]

    def _collect(self, m: Module, lane: int, result: Value, o_slot: data.View, show: Value) -> None:
        """Put the slices of a beat side by side: the first is held until the second is there."""
        parts = [result]
        if self._slices == 2:
            held = Signal(signed(ELEMENT_BITS), name=f"held{lane}", reset_less=True)
            with m.If(o_slot.finish & (o_slot.slice == 0)):
                m.d.sync += held.eq(result)
            parts = [held, result]
        for index, part in enumerate(parts):
            at = index * self._lanes + lane
            m.d.comb += [self.o[at].eq(part), self.o_stored[at].eq(Mux(show, part, 0))]

    def _steer_operands(self, m: Module, operand: Signal, second: Signal, is_fn: dict[VectorFn, Signal]) -> None:
        """Choice of the operands, a cycle ahead of the lanes."""
        m.d.comb += [operand.x.eq(X.OWN), operand.y.eq(Y.FACTOR)]
        with m.If(self.mode.embed):
            m.d.comb += operand.x.eq(X.EMBEDDING)
        with m.Elif(is_fn[VectorFn.SQUARE]):
            m.d.comb += operand.y.eq(Y.OWN)
        with m.Elif(is_fn[VectorFn.ROTATE]):
            m.d.comb += [operand.x.eq(Mux(second, X.PARTNER, X.OWN)), operand.y.eq(Y.ROTATION)]
        with m.Elif(is_fn[VectorFn.GATE]):
            m.d.comb += [operand.x.eq(Mux(second, X.SHIFTED, X.OWN)), operand.y.eq(Mux(second, Y.OWN, Y.POSITIVE))]

    def _of_segment(self, values: data.View, segment: int, part: Value) -> Value:
        """What belongs to a segment of the slice in the lanes."""
        return Mux(part, values[segment + self._segments], values[segment]) if self._slices == 2 else values[segment]

    def _steer_shifts(self, m: Module, second: Signal, is_fn: dict[VectorFn, Signal], part: Value) -> list[Signal]:
        """Shift control of each segment, a cycle ahead of the lanes."""
        shifts = []
        for segment in range(self._segments):
            steps = Signal(SHIFT_STEPS_BITS, name=f"x_steps{segment}")
            shift = Signal(SHIFT_CONTROL, name=f"shift{segment}")
            m.d.sync += steps.eq(self._of_segment(self.steps, segment, part))
            m.d.comb += [
                shift.steps.eq(steps),
                shift.carry.eq(is_fn[VectorFn.ROTATE] & second),
                shift.clear.eq(is_fn[VectorFn.SQUARE]),
            ]
            with m.If(is_fn[VectorFn.ROTATE]):
                m.d.comb += shift.steps.eq(ROTARY_SHIFT // SCALE_SHIFT_STEP)
            with m.If(is_fn[VectorFn.GATE]):
                m.d.comb += shift.steps.eq(Mux(second, self.gate_steps[1], self.gate_steps[0]))
            shifts.append(shift)
        return shifts

    def _rotation(self, m: Module, second: Signal) -> list[Signal]:
        """Coefficient of each element of a head: the cosine, then minus or plus the sine."""
        coefficients = []
        for element in range(self._head_dim):
            factors = self.rotary[element // 2]
            coefficient = Signal(factors.cosine.shape(), name=f"coefficient{element}", reset_less=True)
            m.d.sync += coefficient.eq(Mux(second, factors.sine if element % 2 else -factors.sine, factors.cosine))
            coefficients.append(coefficient)
        return coefficients
