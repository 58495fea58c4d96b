"""All lanes of the vector unit, and the pipeline of controls that steers them."""

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.config import ELEMENT_BITS
from rtl.isa import SCALE_SHIFT_STEP, VectorFn
from rtl.lane_factor import FACTOR_BITS, SHIFT_STEPS_BITS
from rtl.op_layout import ROTATION, elements
from rtl.register_copy import RegisterCopy
from rtl.silu_curve import SHIFT, SiluCurve
from rtl.timing import SILU_CYCLES
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
CURVE_LANES = 2            # lanes that share a table of curves
MODE = data.StructLayout({"fn": VectorFn, "embed": 1, "narrow": 1, "stored": 1})


class VectorLanes(wiring.Component):
    """The lanes, with the selection of their operands, shifts and addends for each slot.

    Latency: results 7 cycles after a slot's read, 10 for SILU and SIGMOID; squares 4 cycles after it. A slot per
    cycle.

    Parameters
    ----------
    lanes : elements per beat.
    head_dim : elements per head.
    embed_planes : trit planes of the embedding.
    has_products, has_silu, has_sigmoid : whether there is PRODUCT, SILU, SIGMOID; the last needs SILU.
    primitives : see `Multiplier`.

    Members
    -------
    mode : function, constant during an operation; ``narrow`` saturates to int8, ``stored`` results are for memory.
    slot : the slot whose beat is being read.
    own : data of vector memory, two cycles after the slot.
    embedding : codes, one cycle after the slot.
    rotary : factors of ROTATE.
    factor, steps, gate_steps : as `VectorScale` gives them.
    o, o_key, o_valid, o_last : results, and what orders them by magnitude.
    o_stored : valid results that are for memory, else zero.
    square, square_valid, square_last : squares of SQUARE.

    Raises
    ------
    ValueError: ``lanes`` is no multiple of ``head_dim``, or ``head_dim`` is odd.
    """

    def __init__(self, *, lanes: int, head_dim: int, embed_planes: int, has_products: bool, has_silu: bool,
                 has_sigmoid: bool, primitives: str) -> None:
        if lanes % head_dim:
            raise ValueError(f"lanes {lanes} must be a multiple of head_dim {head_dim}")
        if head_dim % 2:
            raise ValueError(f"head_dim {head_dim} must be even")
        self._lanes, self._head_dim, self._segments = lanes, head_dim, lanes // head_dim
        self._embed_offset = (3**embed_planes - 1) // 2
        self._embed_bits = (3**embed_planes - 1).bit_length()
        self._has_products, self._has_silu, self._has_sigmoid = has_products, has_silu, has_sigmoid
        self._primitives = primitives
        super().__init__({
            "mode": In(MODE),
            "slot": In(SLOT),
            "own": In(elements(lanes)),
            "embedding": In(data.ArrayLayout(unsigned(self._embed_bits), lanes)),
            "rotary": In(data.ArrayLayout(ROTATION, head_dim // 2)),
            "factor": In(data.ArrayLayout(unsigned(FACTOR_BITS), self._segments)),
            "steps": In(data.ArrayLayout(unsigned(SHIFT_STEPS_BITS), self._segments)),
            "gate_steps": In(data.ArrayLayout(unsigned(SHIFT_STEPS_BITS), 2)),
            "o": Out(elements(lanes)),
            "o_key": Out(data.ArrayLayout(unsigned(ELEMENT_BITS), lanes)),
            "o_stored": Out(elements(lanes)),
            "o_valid": Out(1),
            "o_last": Out(1),
            "square": Out(data.ArrayLayout(unsigned(SQUARE_BITS), lanes)),
            "square_valid": Out(1),
            "square_last": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Stages: r read, e data or embedding code on the way, d data, x operands, m product, s shifted, t total, o out.
        e_slot, d_slot, x_slot, m_slot, s_slot, t_slot, o_slot = (
            Signal(SLOT, name=f"{stage}_slot") for stage in "edxmsto")
        is_fn = {fn: (self.mode.fn == fn) & ~self.mode.embed for fn in VectorFn}
        before_d, curved = e_slot, is_fn[VectorFn.SILU]
        if self._has_sigmoid:
            curved = curved | is_fn[VectorFn.SIGMOID]
        if self._has_silu:
            c_slots = [Signal(SLOT, name=f"c_slot{cycle}") for cycle in range(SILU_CYCLES)]
            m.d.sync += [later.eq(slot) for slot, later in zip([e_slot, *c_slots], c_slots, strict=False)]
            before_d = Signal(SLOT)
            m.d.comb += before_d.eq(Mux(curved, c_slots[-1], e_slot))
        m.d.sync += [
            e_slot.eq(self.slot), d_slot.eq(before_d), x_slot.eq(d_slot), m_slot.eq(x_slot),
            # SQUARE passes its operand, which is held beside its product and needs no shift.
            s_slot.eq(Mux(is_fn[VectorFn.SQUARE], x_slot, m_slot)),
            t_slot.eq(s_slot), o_slot.eq(t_slot),
        ]
        m.d.comb += [
            self.o_valid.eq(o_slot.finish), self.o_last.eq(o_slot.last),
            self.square_valid.eq(m_slot.valid & is_fn[VectorFn.SQUARE]),
            self.square_last.eq(m_slot.last & is_fn[VectorFn.SQUARE]),
        ]

        operand, output = Signal(OPERAND_CONTROL), Signal(OUTPUT_CONTROL)
        self._steer_operands(m, operand, e_slot.second, is_fn)
        factor, steps = Signal.like(self.factor, reset_less=True), Signal.like(self.steps, reset_less=True)
        m.d.sync += [factor.eq(self.factor), steps.eq(self.steps)]   # beside the data on their way
        shifts = self._steer_shifts(m, x_slot.second, steps, is_fn, curved)
        addend = Mux(is_fn[VectorFn.ROTATE] & m_slot.second, Addend.TOTAL, Addend.ZERO)
        held = is_fn[VectorFn.SQUARE] | is_fn[VectorFn.ADD]
        m.d.comb += [output.addend.eq(Mux(held, Addend.HELD, addend)), output.narrow.eq(self.mode.narrow)]
        if self._has_silu:
            with m.If(curved):
                m.d.comb += output.addend.eq(Addend.REST)

        rotation = self._rotation(m, e_slot.second)
        for lane in range(self._lanes):
            segment, element = divmod(lane, self._head_dim)
            if element % COPY_LANES == 0:
                silu = curved if self._has_silu else Cat()
                steer = Cat(operand, shifts[segment], output, silu, t_slot.finish & self.mode.stored)
                m.submodules[f"steer{lane}"] = copy = RegisterCopy(width=len(steer), primitives=self._primitives)
                m.d.comb += copy.i.eq(steer)
            m.submodules[f"lane{lane}"] = unit = VectorLane(
                embed_bits=self._embed_bits + 1, primitives=self._primitives, has_silu=self._has_silu,
                has_sigmoid=self._has_sigmoid)
            code = Signal(self._embed_bits, name=f"code{lane}", reset_less=True)
            m.d.sync += code.eq(self.embedding[lane])
            m.d.comb += [
                unit.own.eq(self.own[lane]), unit.partner.eq(self.own[lane ^ 1]),
                unit.embedding.eq(code - self._embed_offset), unit.rotation.eq(rotation[element]),
                unit.factor.eq(factor[segment]),
                Cat(unit.operand, unit.shift, unit.output, unit.silu if self._has_silu else Cat()).eq(copy.o),
                self.square[lane].eq(unit.square), self.o[lane].eq(unit.o), self.o_key[lane].eq(unit.key),
                self.o_stored[lane].eq(Mux(copy.o[-1], unit.o, 0)),
            ]
            if self._has_silu:
                if lane % CURVE_LANES == 0:
                    m.submodules[f"curve{lane}"] = curve = SiluCurve(lanes=CURVE_LANES, has_sigmoid=self._has_sigmoid)
                    if self._has_sigmoid:
                        m.d.comb += curve.sigmoid.eq(is_fn[VectorFn.SIGMOID])
                m.d.comb += [curve.i[lane % CURVE_LANES].eq(self.own[lane]),
                             *(getattr(unit, name).eq(getattr(curve, name)[lane % CURVE_LANES])
                               for name in ("slope", "fraction", "rest"))]
        return m

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
        if self._has_products:
            with m.If(is_fn[VectorFn.PRODUCT] & second):
                m.d.comb += [operand.x.eq(X.SHIFTED), operand.y.eq(Y.OWN)]

    def _steer_shifts(self, m: Module, second: Signal, all_steps: data.View, is_fn: dict[VectorFn, Signal],
                      curved: Signal) -> list[Signal]:
        """Shift control of each segment, a cycle ahead of the lanes."""
        shifts = []
        for segment in range(self._segments):
            steps = Signal(SHIFT_STEPS_BITS, name=f"x_steps{segment}")
            shift = Signal(SHIFT_CONTROL, name=f"shift{segment}")
            m.d.sync += steps.eq(all_steps[segment])
            m.d.comb += [
                shift.steps.eq(steps),
                shift.carry.eq(is_fn[VectorFn.ROTATE] & second),
                shift.clear.eq(is_fn[VectorFn.SQUARE]),
            ]
            with m.If(is_fn[VectorFn.ROTATE]):
                m.d.comb += shift.steps.eq(ROTARY_SHIFT // SCALE_SHIFT_STEP)
            with m.If(is_fn[VectorFn.GATE]):
                m.d.comb += shift.steps.eq(Mux(second, self.gate_steps[1], self.gate_steps[0]))
            if self._has_silu:
                with m.If(curved):
                    m.d.comb += shift.steps.eq(SHIFT // SCALE_SHIFT_STEP)
            if self._has_products:
                with m.If(is_fn[VectorFn.PRODUCT] & second):
                    m.d.comb += shift.steps.eq(self.gate_steps[1])
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
