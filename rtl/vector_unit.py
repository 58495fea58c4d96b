"""Vector unit: scale, add, square, rotate, gate, multiply and embed, in one or two cycles per beat."""

from amaranth import C, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.config import ADDRESS_BITS, ELEMENT_BITS
from rtl.isa import NO_SCALAR, SCALE_SHIFT_STEP, Opcode, Target, VectorFn
from rtl.op_layout import (
    ROTATION,
    SCALAR,
    cache_write_port,
    elements,
    int8s,
    op_layout,
    query_port,
    read_port,
    result_layout,
    write_port,
)
from rtl.reduction import Reduction, larger, total
from rtl.vector_lane import SQUARE_BITS
from rtl.vector_lanes import VectorLanes
from rtl.vector_scale import VectorScale
from rtl.vector_slots import VectorSlots

SUM_BITS = 36


class VectorUnit(wiring.Component):
    """Executes VECTOR and EMBED operations as ``sim.golden`` defines them.

    The sum of SQUARE wraps at 36 bits; GATE needs scalars that are the peaks of its inputs, PRODUCT that of its second.

    Latency: ``busy`` is high for ``timing.vector_cycles`` or ``timing.embed_cycles`` after an operation was taken,
    longer only by the cycles in which ``result`` is not ready.

    Parameters
    ----------
    lanes : elements per beat.
    head_dim : elements per head; ``lanes`` is a multiple of it.
    vector_depth, bank_beats : beats of vector memory, and of its second bank.
    activation_depth : beats of the activation buffer.
    vocab, embed_beats, embed_planes : shape of the embedding memory.
    gain_rows : its rows after the vocabulary; without them EMBED reads the row of the token only.
    has_products, has_silu, has_sigmoid : whether there is PRODUCT, SILU, SIGMOID.
    slot_bits : of the slot's number, which leads every address of a beat or a scalar.
    primitives : see `Multiplier`.

    Members
    -------
    op, embed : operations; never both at once.
    busy : an operation is under way.
    result : the peak of every operation that keeps it, preceded by the sum of SQUARE or the block scale of GATE.
    token : row of the embedding memory that EMBED reads.
    rotary : factors that ROTATE applies.
    embedding, memory_read, scalar_read : read ports.
    memory_write, bank_write, activation, query, cache : write ports of the targets, vector memory being two, a port per
        bank; ``memory_write`` has zero data while it is not enabled.

    Raises
    ------
    ValueError: ``lanes`` is no multiple of ``head_dim``, or ``head_dim`` is odd.
    """

    def __init__(self, *, lanes: int, head_dim: int, vector_depth: int, activation_depth: int, vocab: int,
                 embed_beats: int, embed_planes: int, bank_beats: int = 0, gain_rows: int = 0,
                 has_products: bool = False, has_silu: bool = False, has_sigmoid: bool = False, slot_bits: int = 0,
                 primitives: str = "portable") -> None:
        if lanes % head_dim:
            raise ValueError(f"lanes {lanes} must be a multiple of head_dim {head_dim}")
        if head_dim % 2:
            raise ValueError(f"head_dim {head_dim} must be even")
        self._lanes, self._head_dim = lanes, head_dim
        self._embed_beats, self._embed_planes, self._primitives = embed_beats, embed_planes, primitives
        self._gain_rows, self._has_products = gain_rows, has_products
        self._has_silu, self._has_sigmoid = has_silu, has_sigmoid
        self._vector_depth, self._bank_beats = vector_depth, bank_beats
        self._activation_bits, self._slot_bits = ceil_log2(activation_depth), slot_bits
        address_bits = ADDRESS_BITS + slot_bits
        rows = vocab + gain_rows
        embed_bits = (3**embed_planes - 1).bit_length()
        super().__init__({
            "op": In(stream.Signature(op_layout(Opcode.VECTOR, slot_bits))),
            "embed": In(stream.Signature(op_layout(Opcode.EMBED, slot_bits))),
            "busy": Out(1),
            "result": Out(stream.Signature(result_layout(slot_bits))),
            "token": In(16),
            "rotary": In(data.ArrayLayout(ROTATION, head_dim // 2)),
            "embedding": Out(read_port(data.ArrayLayout(unsigned(embed_bits), lanes), ceil_log2(rows * embed_beats))),
            "memory_read": Out(read_port(elements(lanes), address_bits)),
            "memory_write": Out(write_port(elements(lanes), address_bits if slot_bits else ceil_log2(vector_depth))),
            "bank_write": Out(write_port(elements(lanes), ceil_log2(max(2, bank_beats)))),
            "scalar_read": Out(read_port(SCALAR, 5 + slot_bits)),
            "activation": Out(write_port(int8s(lanes), self._activation_bits + slot_bits)),
            "query": Out(query_port(lanes)),
            "cache": Out(cache_write_port(lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.scale = scale = VectorScale(
            segments=self._lanes // self._head_dim, slot_bits=self._slot_bits)
        m.submodules.slots = slots = VectorSlots(
            address_bits=max(ADDRESS_BITS + self._slot_bits, len(self.embedding.address)),
            second_bits=ADDRESS_BITS + self._slot_bits, has_products=self._has_products,
            has_silu=self._has_silu, has_sigmoid=self._has_sigmoid)
        m.submodules.lanes = lanes = VectorLanes(
            lanes=self._lanes, head_dim=self._head_dim, embed_planes=self._embed_planes,
            has_products=self._has_products, has_silu=self._has_silu, has_sigmoid=self._has_sigmoid,
            primitives=self._primitives)
        start = Signal()
        layout = data.StructLayout({"embed": 1, "op": self.op.payload.shape()})
        taken, operation = Signal(layout), Signal(layout, reset_less=True)
        self._accept(m, start, taken, operation)

        # A multiplication by a constant would become a multiplier block if written as one.
        token = Mux(self.embed.payload.fixed, self.embed.payload.row, self.token) if self._gain_rows else self.token
        row = sum(token << bit for bit in range(self._embed_beats.bit_length()) if self._embed_beats >> bit & 1)
        narrow = (operation.op.target != Target.VECTOR) & (operation.op.target != Target.NONE)
        m.d.comb += [
            scale.start.eq(start), scale.ra.eq(taken.op.ra), scale.rb.eq(taken.op.rb),
            scale.segmented.eq(taken.op.segmented), scale.busy.eq(self.busy),
            slots.start.eq(start), slots.fn.eq(taken.op.fn), slots.embed.eq(taken.embed),
            slots.segmented.eq(taken.op.segmented), slots.src.eq(Mux(taken.embed, row, taken.op.src)),
            slots.src2.eq(taken.op.src2), slots.beats.eq(taken.op.beats),
            slots.first.eq(scale.first), slots.beat.eq(scale.beat),
            self.memory_read.enable.eq(slots.slot.valid & ~operation.embed),
            self.memory_read.address.eq(slots.address),
            self.embedding.enable.eq(slots.slot.valid & operation.embed),
            self.embedding.address.eq(slots.address),
            lanes.mode.fn.eq(operation.op.fn), lanes.mode.embed.eq(operation.embed), lanes.mode.narrow.eq(narrow),
            lanes.mode.stored.eq((operation.op.target == Target.VECTOR) & ~self._in_bank(operation.op.dst)),
            lanes.slot.eq(slots.slot), lanes.own.eq(self.memory_read.data),
            lanes.embedding.eq(self.embedding.data), lanes.rotary.eq(self.rotary),
            lanes.factor.eq(scale.factor), lanes.steps.eq(scale.steps), lanes.gate_steps.eq(scale.gate_steps),
        ]
        wiring.connect(m, scale.scalar_read, wiring.flipped(self.scalar_read))
        self._write(m, start, taken.op, operation.op, lanes, scale.exponent)
        self._reduce(m, start, taken, operation, lanes, scale)
        return m

    def _accept(self, m: Module, start: Signal, taken: data.View, operation: data.View) -> None:
        """Take an operation; ``taken`` is the one on offer, ``operation`` the one under way."""
        m.d.comb += [
            self.op.ready.eq(~self.busy), self.embed.ready.eq(~self.busy),
            start.eq(~self.busy & (self.op.valid | self.embed.valid)),
            taken.embed.eq(self.embed.valid), taken.op.eq(self.op.payload),
        ]
        with m.If(self.embed.valid):
            m.d.comb += [taken.op.target.eq(Target.VECTOR), taken.op.segmented.eq(0)]
            m.d.comb += [taken.op[name].eq(self.embed.payload[name]) for name in ("dst", "beats", "ra", "rd")]
        with m.If(start):
            m.d.sync += operation.eq(taken)

    def _in_bank(self, address: Value) -> Value:
        """Whether a beat lies in the second bank."""
        if not self._bank_beats:
            return C(0)
        return address[ceil_log2(self._bank_beats) : ceil_log2(self._vector_depth)].all()

    def _write(self, m: Module, start: Signal, taken: data.View, operation: data.View, lanes: VectorLanes,
               exponent: Signal) -> None:
        """Write results to the target."""
        address = Signal.like(taken.dst, reset_less=True)
        with m.If(start):
            m.d.sync += address.eq(taken.dst)
        with m.Elif(lanes.o_valid):
            m.d.sync += address.eq(address + 1)
        values = lanes.o
        goes = Signal(len(Target))  # one bit per target, decoded well before there are results
        banked = Signal()
        m.d.sync += [goes.eq(1 << operation.target), banked.eq(self._in_bank(operation.dst))]
        for port in (self.memory_write, self.bank_write, self.query):
            m.d.comb += port.address.eq(address)
        m.d.comb += [
            self.memory_write.enable.eq(lanes.o_valid & goes[Target.VECTOR] & ~banked),
            self.memory_write.data.eq(lanes.o_stored),
            self.activation.address.eq(Cat(address[: self._activation_bits], address[ADDRESS_BITS:])),
            self.bank_write.enable.eq(lanes.o_valid & goes[Target.VECTOR] & banked),
            self.activation.enable.eq(lanes.o_valid & goes[Target.ACTIVATION]),
            self.query.enable.eq(lanes.o_valid & goes[Target.QUERY]),
            self.query.exponent.eq(exponent),
            self.cache.enable.eq(lanes.o_valid & (goes[Target.KEY] | goes[Target.VALUE])),
            self.cache.value.eq(goes[Target.VALUE]), self.cache.last.eq(lanes.o_last),
            self.cache.slot.eq(operation.dst[:ADDRESS_BITS]),
            self.cache.exponent.eq(exponent),
        ]
        for lane in range(self._lanes):
            m.d.comb += [port.data[lane].eq(values[lane])
                         for port in (self.bank_write, self.activation, self.query, self.cache)]

    def _reduce(self, m: Module, start: Signal, taken: data.View, operation: data.View, lanes: VectorLanes,
                scale: VectorScale) -> None:
        """Deliver the sum or the block scale, then the peak, which ends the operation."""
        m.submodules.peak = peak = Reduction(
            combine=larger, lanes=self._lanes, lane_bits=ELEMENT_BITS, out_bits=ELEMENT_BITS)
        m.submodules.sum = squares = Reduction(
            combine=total, lanes=self._lanes, lane_bits=SQUARE_BITS, out_bits=SUM_BITS)
        # Without a register for its peak an operation ends with its last write, and the next may follow before a peak.
        quiet = Signal()
        is_square = ~operation.embed & (operation.op.fn == VectorFn.SQUARE)
        m.d.sync += quiet.eq((operation.op.rd[: NO_SCALAR.bit_length()] == NO_SCALAR) & ~is_square)
        m.d.comb += [
            peak.start.eq(start), peak.initial.eq(0),
            peak.i.eq(lanes.o_key), peak.i_valid.eq(lanes.o_valid & ~quiet), peak.i_last.eq(lanes.o_last & ~quiet),
            squares.start.eq(start), squares.initial.eq(Cat(taken.op.src2[:ADDRESS_BITS], taken.op.dst[:ADDRESS_BITS])),
            squares.i.eq(lanes.square), squares.i_valid.eq(lanes.square_valid), squares.i_last.eq(lanes.square_last),
        ]
        gate = ~operation.embed & (operation.op.fn == VectorFn.GATE)
        if self._has_products:
            gate |= ~operation.embed & (operation.op.fn == VectorFn.PRODUCT)
        early, early_due, peak_due = Signal(), Signal(), Signal()
        gate_shift = (scale.gate_steps[0] + scale.gate_steps[1]) * SCALE_SHIFT_STEP
        m.d.comb += [
            early.eq(squares.o_last | early_due),
            self.result.valid.eq(early | peak.o_last | peak_due),
            self.result.payload.register.eq(operation.op.rd),
            self.result.payload.value.eq((peak.o >> 1) + peak.o[0]),
        ]
        with m.If(early):
            m.d.comb += [
                self.result.payload.register.eq(Mux(gate, operation.op.rc, operation.op.rb)),
                self.result.payload.value.eq(Mux(gate, 1, squares.o)),
                self.result.payload.exponent.eq(Mux(gate, gate_shift, 0)),
            ]
        with m.If(scale.gate_valid & gate):
            m.d.sync += early_due.eq(1)
        with m.Elif(early):
            m.d.sync += early_due.eq(~self.result.ready)
        m.d.sync += peak_due.eq((peak.o_last | peak_due) & (early | ~self.result.ready))
        with m.If(start):
            m.d.sync += self.busy.eq(1)
        with m.Elif(((peak.o_last | peak_due) & ~early & self.result.ready) | (quiet & lanes.o_last)):
            m.d.sync += self.busy.eq(0)
