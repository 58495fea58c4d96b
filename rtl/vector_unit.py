"""Vector unit: scale, add, square, rotate, gate and embed, a beat or half a beat per cycle."""

from amaranth import Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from rtl.config import ELEMENT_BITS
from rtl.isa import SCALE_SHIFT_STEP, Opcode, Target, VectorFn
from rtl.op_layout import (
    RESULT,
    ROTATION,
    SCALAR,
    cache_write_port,
    elements,
    int8s,
    op_layout,
    query_port,
    read_port,
    write_port,
)
from rtl.reduction import Reduction, larger, total
from rtl.vector_lane import OPERAND_CONTROL, OUTPUT_CONTROL, ROTARY_SHIFT, SHIFT_CONTROL, SQUARE_BITS, Addend, VectorLane, X, Y
from rtl.vector_scale import VectorScale
from rtl.vector_slots import SLOT, VectorSlots

SUM_BITS = 36


class VectorUnit(wiring.Component):
    """Executes VECTOR and EMBED operations; ``fixed`` and ``golden`` define the arithmetic.

    The sum of SQUARE wraps at 36 bits, and GATE needs peaks that are those of its two inputs.

    Latency: ``busy`` is high for ``timing.vector_cycles`` or ``timing.embed_cycles`` after an operation was taken,
    longer only by the cycles in which ``result`` is not ready.

    Parameters
    ----------
    lanes : elements per beat.
    head_dim : elements per head; ``lanes`` is a multiple of it.
    vector_depth : beats of vector memory.
    activation_depth : beats of the activation buffer.
    vocab, embed_beats, embed_planes : shape of the embedding memory.

    Members
    -------
    op, embed : operations; never both at once.
    busy : an operation is under way.
    result : the peak of every operation, preceded by the sum of SQUARE or the block scale of GATE.
    token : row of the embedding that EMBED reads.
    rotary : factors that ROTATE applies.
    embedding, memory_read, scalar_read : read ports.
    memory_write, activation, query, cache : write ports of the targets.

    Raises
    ------
    ValueError: ``lanes`` is no multiple of ``head_dim``, or ``head_dim`` is odd.
    """

    def __init__(self, *, lanes: int, head_dim: int, vector_depth: int, activation_depth: int, vocab: int,
                 embed_beats: int, embed_planes: int) -> None:
        if lanes % head_dim:
            raise ValueError(f"lanes {lanes} must be a multiple of head_dim {head_dim}")
        if head_dim % 2:
            raise ValueError(f"head_dim {head_dim} must be even")
        self._lanes, self._head_dim, self._embed_beats = lanes, head_dim, embed_beats
        self._segments = lanes // head_dim
        self._embed_offset = (3**embed_planes - 1) // 2
        self._embed_bits = (3**embed_planes - 1).bit_length()
        self._embed_address_bits = ceil_log2(vocab * embed_beats)
        super().__init__({
            "op": In(stream.Signature(op_layout(Opcode.VECTOR))),
            "embed": In(stream.Signature(op_layout(Opcode.EMBED))),
            "busy": Out(1),
            "result": Out(stream.Signature(RESULT)),
            "token": In(16),
            "rotary": In(data.ArrayLayout(ROTATION, head_dim // 2)),
            "embedding": Out(read_port(
                data.ArrayLayout(unsigned(self._embed_bits), lanes), self._embed_address_bits)),
            "memory_read": Out(read_port(elements(lanes), ceil_log2(vector_depth))),
            "memory_write": Out(write_port(elements(lanes), ceil_log2(vector_depth))),
            "scalar_read": Out(read_port(SCALAR, 5)),
            "activation": Out(write_port(int8s(lanes), ceil_log2(activation_depth))),
            "query": Out(query_port(lanes)),
            "cache": Out(cache_write_port(lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = data.StructLayout({"embed": 1, "op": op_layout(Opcode.VECTOR)})
        taken, operation = Signal(layout), Signal(layout)
        accept = Signal()
        m.d.comb += [
            self.op.ready.eq(~self.busy), self.embed.ready.eq(~self.busy),
            accept.eq(~self.busy & (self.op.valid | self.embed.valid)),
            taken.embed.eq(self.embed.valid), taken.op.eq(self.op.payload),
        ]
        with m.If(self.embed.valid):
            m.d.comb += [taken.op.eq(0), taken.op.target.eq(Target.VECTOR)]
            m.d.comb += [taken.op[name].eq(self.embed.payload[name]) for name in ("dst", "beats", "ra", "rd")]
        with m.If(accept):
            m.d.sync += [operation.eq(taken), self.busy.eq(1)]

        scale = self._scale(m, accept, taken)
        read, address = self._read(m, accept, taken, operation.embed, scale)
        finish, last, values, keys, square_valid, square_last, squares = self._lanes_pipeline(
            m, operation, read, scale)
        self._write(m, accept, operation.op, finish, values, scale.exponent)
        self._results(m, accept, taken, operation, finish & last, (finish, keys), (square_valid, square_last, squares),
                      scale)
        return m
