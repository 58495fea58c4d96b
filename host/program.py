"""Builds token programs: named scalars, the layout of vector memory, one method per kind of operation."""

from math import ceil, e, lcm, log2

from host.checkpoint import Shape
from host.errors import TritloomError
from host.tiler import Block
from rtl.config import Config
from rtl.isa import NO_SCALAR, Op, Opcode, ScalarFn, Target, Unit, VectorFn
from sim.fixed import Scalar

LOG2_E = log2(e)
NO_WAIT = Unit(0)


class Scalars:
    """Register numbers."""

    PEAK, SQUARES, QUANTISE, ACT, SCALE, Q, K, V = range(8)
    DELTA, GATE_PEAK, UP_PEAK, GATE_SHIFT, K_PEAK, V_PEAK, SCRATCH, GAIN_SHIFT = range(8, 16)
    HEADS = 16


class Layout:
    """Where vectors live in vector memory, in beats. Scratch of the mixer and of the feed-forward share their place.

    Parameters
    ----------
    shape : the model.
    config : the accelerator.
    gain_beats : of the longest vector that is multiplied by gains.
    gain_digits : of these gains, each of which is a vector at first.

    Raises
    ------
    TritloomError: the model does not fit the configuration; the message names the limit.
    """

    def __init__(self, shape: Shape, config: Config, *, gain_beats: int = 0, gain_digits: int = 1) -> None:
        is_hgrn, is_banked = shape.mixer == "hgrn", config.bank_beats > 0
        _check_units(shape, config)
        if shape.feed_groups > 1 and shape.feed_forward % (shape.feed_groups * config.lanes):
            raise TritloomError(f"the model's feed-forward of {shape.feed_forward} in {shape.feed_groups} groups does "
                                f"not fit {config.name}, which takes groups of whole beats of {config.lanes}")
        self.hidden_beats = ceil(shape.hidden / config.lanes)
        self.feed_beats = ceil(shape.feed_forward / config.lanes)
        self.kv_words = 0 if is_hgrn else ceil(shape.kv_heads / config.word_heads)
        self.kv_beats = self.kv_words * config.word_beats
        self.q_beats = self.kv_beats * config.query_groups
        logit_beats = ceil(shape.vocab / config.lanes)
        # The residual stream lies where the engine does not write.
        self.x = config.engine_beats if is_banked else 0
        # Of all layers; then what several norms read.
        self.states = 0 if is_banked else self.hidden_beats
        self.normed = self.states + (shape.layers * self.hidden_beats if is_hgrn else 0)
        scratch = self.normed + (self.hidden_beats if is_hgrn else 0)
        self.q, self.k, self.v = scratch, scratch + self.q_beats, scratch + self.q_beats + self.kv_beats
        self.i, self.f, self.g = (scratch + part * self.hidden_beats for part in range(3))
        self.gate, self.up = scratch, scratch + self.feed_beats
        self.o = self.q
        mixer = 3 * self.hidden_beats if is_hgrn else self.q_beats + 2 * self.kv_beats
        self.delta = scratch + max(2 * self.feed_beats, mixer)
        if is_banked:
            # Of gate and up projection, that in whose place the hidden vector is not.
            self.delta = max(self.up if shape.activation == "relu2" else self.gate, scratch + mixer)
        self.logits = scratch
        self.gain = self.delta + self.hidden_beats
        self.digit = self.gain + gain_beats
        if shape.is_parallel:
            # Beside the residual stream lies what only the vector unit writes; what the engine leaves before the up
            # projection and after it shares its place.
            self.k = self.x + self.hidden_beats
            self.q = self.o = self.k + self.kv_beats
            self.gate = 0 if is_banked else self.q + self.q_beats
            self.up = self.delta = self.gate + self.feed_beats
            self.raw = self.up + max(0, self.feed_beats - self.q_beats - 2 * self.kv_beats)
            self.gain = self.digit = max(self.up + 3 * self.hidden_beats, self.raw + self.q_beats + 2 * self.kv_beats)
            self.logits = self.gate
        # Of a group of the hidden vector, and what lies beside the residual stream.
        self.group_beats = ceil(shape.feed_forward // shape.feed_groups / config.lanes)
        beside = (self.q_beats + self.kv_beats) * shape.is_parallel
        end = max(self.up + self.feed_beats, self.digit + (gain_beats if gain_digits > 1 else 0))
        if shape.feed_groups > 1 and config.slots > 1:
            # What is to be added lies behind gates and ups, which later groups still need.
            self.delta = self.up + self.feed_beats
            end = max(end, self.delta + 3 * self.hidden_beats)
        elif shape.feed_groups > 1:
            # Each group lies where queries and keys were. The engine leaves gates and ups of two groups in turn, and
            # where the mixer's were, and behind, what is to be added; what attention adds in place of the first pair.
            self.hidden, beside = self.k, max(beside, self.group_beats)
            self.delta = self.pairs = self.logits = 0 if is_banked else self.x + self.hidden_beats + beside
            self.raw = self.pairs + max(4 * self.group_beats, self.hidden_beats)
            mixer = self.q_beats + 2 * self.kv_beats
            end = self.raw + self.hidden_beats + max(self.hidden_beats, mixer - self.hidden_beats)
        # Activations of the hidden vector lie behind others if there is room: then neither waits for the other's use.
        room = config.activation_depth - self.feed_beats
        self.hidden_activations = self.hidden_beats if room >= self.hidden_beats else 0
        limits = (
            ("vector memory beats", max(end, self.logits + logit_beats), config.engine_beats),
            ("beats of the residual stream and what lies beside it",
             self.hidden_beats + beside, config.bank_beats or config.vector_depth),
            ("activation beats", max(self.hidden_beats, self.feed_beats, self.q_beats), config.activation_depth),
            ("column blocks of the hidden size", ceil(self.hidden_beats / config.block_beats), config.table_blocks),
            ("KV cache slots", shape.layers * self.kv_words, config.kv_slots),
            ("vocabulary entries", shape.vocab, config.vocab),
            ("embedding beats", self.hidden_beats, config.embed_beats),
            ("matrix planes", shape.head_planes, config.weight_planes),
            ("embedding planes", shape.embed_planes, config.embed_planes),
        )
        for what, needed, available in limits:
            if needed > available:
                raise TritloomError(f"the model needs {needed} {what}, {config.name} has {available}")


def _check_units(shape: Shape, config: Config) -> None:
    """Units that the model needs are there, and built for its heads and weights."""
    if shape.mixer == "hgrn" and not config.has_recurrence:
        raise TritloomError(f"the model mixes tokens by the recurrence hgrn, {config.name} by attention only; use a "
                            "configuration with has_recurrence")
    if shape.mixer == "attention":
        if shape.head_dim != config.head_dim:
            raise TritloomError(f"head_dim {shape.head_dim} does not fit {config.name}, which is built for "
                                f"{config.head_dim}")
        if shape.heads != shape.kv_heads * config.query_groups:
            raise TritloomError(f"{shape.heads} query heads over {shape.kv_heads} KV heads do not fit {config.name}, "
                                f"which groups {config.query_groups} queries per KV head")
    if shape.activation == "silu" and not config.has_silu:
        raise TritloomError(f"the model gates by silu, {config.name} by relu2 only; use a configuration with has_silu")
    if config.has_sparse_codes:
        if not shape.is_sparse:
            raise TritloomError(f"the model's weights are not 3:4-sparse, and {config.name} holds no others; use "
                                "another configuration")
        _check_padding(shape, config)


def _check_padding(shape: Shape, config: Config) -> None:
    """Codes of 3:4-sparse weights cannot say nothing, so nothing is padded but beats at the end of a column block."""
    rows = {"vocabulary": shape.vocab, "hidden size": shape.hidden, "feed-forward": shape.feed_forward}
    for name, size in rows.items():
        unit = config.rows if name == "vocabulary" else lcm(config.rows, config.lanes)
        if size % unit:
            raise TritloomError(f"{name} {size} does not fit {config.name}, whose 3:4-sparse weights take multiples of "
                                f"{unit}")
    if shape.kv_heads % config.word_heads:
        raise TritloomError(f"{shape.kv_heads} KV heads do not fit {config.name}, whose 3:4-sparse weights take "
                            f"multiples of {config.word_heads}")


class ProgramBuilder:
    """Appends operations; every method takes vector addresses in beats and scalar register numbers."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def _append(self, opcode: Opcode, wait: Unit, **fields: int) -> None:
        self.ops.append(Op(opcode, wait, fields))

    def rotary(self) -> None:
        self._append(Opcode.ROTARY, Unit.VECTOR)

    def section(self, wait: Unit = NO_WAIT, *, reads: bool = False) -> None:
        self._append(Opcode.SECTION, wait, reads=int(reads))

    def end(self, wait: Unit) -> None:
        self._append(Opcode.END, wait)

    def embed(self, dst: int, beats: int, scale: int, peak: int, wait: Unit, *, row: int | None = None) -> None:
        self._append(Opcode.EMBED, wait, dst=dst, beats=beats, ra=scale, rd=peak, row=row or 0,
                     fixed=int(row is not None))

    def matvec(self, block: Block, *, source: int, destination: int, fill: bool, peak: int, wait: Unit) -> None:
        self._append(Opcode.MATVEC, wait, src=source, blocks=block.blocks, fill=int(fill), groups=block.groups,
                     planes=block.planes, dst=destination, shift=block.shift, rd=peak, address=block.address,
                     unfilled=block.unfilled)

    def attend(self, slot: int, heads: int, window: int, wait: Unit) -> None:
        self._append(Opcode.ATTEND, wait, slot=slot, rd=heads, reach=window - 1)

    def sample(self, src: int, count: int, scale: int, wait: Unit) -> None:
        self._append(Opcode.SAMPLE, wait, src=src, count=count, ra=scale)

    def _scalar(self, fn: ScalarFn, rd: int, ra: int, rb: int, constant: float, wait: Unit) -> None:
        immediate = Scalar.from_float(constant)
        self._append(Opcode.SCALAR, wait, fn=fn, ra=ra, rb=rb, rd=rd, mantissa=immediate.mantissa,
                     exponent=immediate.exponent)

    def scalar(self, rd: int, ra: int, rb: int = NO_SCALAR, *, constant: float = 1.0, wait: Unit = NO_WAIT) -> None:
        self._scalar(ScalarFn.MUL, rd, ra, rb, constant, wait)

    def reciprocal(self, rd: int, ra: int, *, constant: float, wait: Unit) -> None:
        self._scalar(ScalarFn.RECIPROCAL, rd, ra, NO_SCALAR, constant, wait)

    def rsqrt(self, rd: int, ra: int, rb: int, *, constant: float, wait: Unit) -> None:
        self._scalar(ScalarFn.RSQRT, rd, ra, rb, constant, wait)

    def block(self, rd: int, peak: int, rb: int = NO_SCALAR, *, constant: float = 1.0) -> None:
        self._scalar(ScalarFn.BLOCK, rd, peak, rb, constant, Unit.VECTOR)

    def _vector(self, fn: VectorFn, src: int, beats: int, rd: int, wait: Unit, *, target: Target = Target.VECTOR,
                src2: int = 0, dst: int = 0, ra: int = 0, rb: int = 0, rc: int = 0, segmented: bool = False) -> None:
        self._append(Opcode.VECTOR, wait, fn=fn, target=target, src=src, src2=src2, dst=dst, beats=beats, ra=ra,
                     rb=rb, rc=rc, rd=rd, segmented=int(segmented))

    def scale(self, at: int, beats: int, scale: int, peak: int, *, segmented: bool = False, wait: Unit = NO_WAIT,
              dst: int | None = None) -> None:
        self._vector(VectorFn.SCALE, at, beats, peak, wait, dst=at if dst is None else dst, ra=scale,
                     segmented=segmented)

    def peak(self, src: int, beats: int, peak: int) -> None:
        self._vector(VectorFn.SCALE, src, beats, peak, NO_WAIT, target=Target.NONE, ra=NO_SCALAR)

    def to_activation(self, src: int, beats: int, scale: int, peak: int, wait: Unit, *, dst: int = 0) -> None:
        self._vector(VectorFn.SCALE, src, beats, peak, wait, target=Target.ACTIVATION, ra=scale, dst=dst)

    def to_query(self, src: int, beats: int, scale: int, block: int, peak: int, wait: Unit) -> None:
        self._vector(VectorFn.SCALE, src, beats, peak, wait, target=Target.QUERY, ra=scale, rb=block)

    def to_cache(self, src: int, beats: int, slot: int, scale: int, block: int, peak: int, *, value: bool,
                 wait: Unit) -> None:
        target = Target.VALUE if value else Target.KEY
        self._vector(VectorFn.SCALE, src, beats, peak, wait, target=target, dst=slot, ra=scale, rb=block)

    def square(self, src: int, beats: int, squares: int, peak: int, epsilon: int) -> None:
        self._vector(VectorFn.SQUARE, src, beats, peak, NO_WAIT, target=Target.NONE, rb=squares,
                     src2=epsilon & 255, dst=epsilon >> 8)

    def rotate(self, at: int, beats: int, peak: int, wait: Unit = NO_WAIT, *, dst: int | None = None) -> None:
        self._vector(VectorFn.ROTATE, at, beats, peak, wait, dst=at if dst is None else dst)

    def add(self, src: int, x: int, beats: int, scale: int, peak: int, wait: Unit, *, dst: int | None = None) -> None:
        self._vector(VectorFn.ADD, src, beats, peak, wait, src2=x, dst=x if dst is None else dst, ra=scale)

    def product(self, src: int, by: int, beats: int, by_peak: int, shift: int, peak: int) -> None:
        """Vector times vector, in the place of the second."""
        self._vector(VectorFn.PRODUCT, src, beats, peak, NO_WAIT, src2=by, dst=by, ra=NO_SCALAR, rb=by_peak, rc=shift)

    def silu(self, at: int, beats: int, peak: int) -> None:
        self._vector(VectorFn.SILU, at, beats, peak, NO_WAIT, dst=at)

    def sigmoid(self, at: int, beats: int, peak: int) -> None:
        self._vector(VectorFn.SIGMOID, at, beats, peak, NO_WAIT, dst=at)

    def gate(self, gate: int, up: int, beats: int, gate_peak: int, up_peak: int, shift: int, peak: int, *,
             wait: Unit = NO_WAIT, dst: int | None = None) -> None:
        self._vector(VectorFn.GATE, gate, beats, peak, wait, src2=up, dst=gate if dst is None else dst, ra=gate_peak,
                     rb=up_peak, rc=shift)
