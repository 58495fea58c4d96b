"""Emits the token program of a model: the operations of one token, in program order."""

from collections.abc import Callable

from host.checkpoint import Checkpoint, Shape
from host.gains import GAIN_PEAK, GainTable
from host.layout import Layout
from host.program import LOG2_E, ProgramBuilder, Scalars
from host.tiler import Tiler
from rtl.config import QKV_FRACTION, Config
from rtl.isa import NO_SCALAR, SQUARE_SHIFT, TEMPERATURE_SCALAR, Op, Unit
from sim.fixed import GUMBEL_FRACTION, SILU_FRACTION

S = Scalars
ALL_UNITS = Unit.ENGINE | Unit.VECTOR | Unit.SCALAR | Unit.ATTENTION | Unit.SAMPLER | Unit.ROTARY


class TokenProgram:
    """The operations of one token.

    Parameters
    ----------
    checkpoint : the model.
    config : the accelerator.
    layout : places in vector memory.
    tiler : places of weights.
    gains : places of the gains of norms.
    """

    def __init__(self, checkpoint: Checkpoint, config: Config, layout: Layout, tiler: Tiler, gains: GainTable) -> None:
        self.checkpoint, self.config, self.layout, self.tiler = checkpoint, config, layout, tiler
        self.gains = gains.gains
        # Of each digit, most significant first.
        digits = max((len(gain.rows) for gain in self.gains.values()), default=0)
        level = 3**config.embed_planes
        self.gain_scales = [GAIN_PEAK / (level**digits // 2) * level**digit for digit in reversed(range(digits))]
        self.shape: Shape = checkpoint.shape
        self.one = 2.0**self.shape.residual_fraction
        self.emit = ProgramBuilder()

    def operations(self) -> list[Op]:
        """All of them, with END."""
        emit, at = self.emit, self.layout
        self._prepare()
        emit.scalar(S.SCALE, NO_SCALAR, constant=self.checkpoint.tensors["embed"].scale * self.one)
        emit.embed(at.x, at.hidden_beats, S.SCALE, S.PEAK, wait=Unit.SCALAR)
        if len(self.gain_scales) == 1:
            # The only one stays where every norm finds it.
            emit.scalar(S.SCALE, NO_SCALAR, constant=self.gain_scales[0], wait=Unit.VECTOR)
        for layer in range(self.shape.layers):
            self._mixer(layer)
            self._feed_forward(layer)
        self._head()
        emit.end(ALL_UNITS)
        return emit.ops

    def _prepare(self) -> None:
        """What serves all layers. Slots have one rotary unit between them: each layer turns it to them anew."""
        if self.config.slots == 1:
            self.emit.rotary()

    def _mixer(self, layer: int) -> None:
        self._queries_keys_values(layer)
        self._attention(layer)

    def _scale(self, name: str, block: str = "") -> float:
        """What one unit of the engine's output stands for; its rounding shift is that of ``block``."""
        return self.checkpoint.tensors[name].scale * 2.0 ** self.tiler.block(block or name).shift

    def _normed_matvec(self, name: str, destination: int, peak: int) -> None:
        """A matrix times x / rms(x), quantised.

        The int8 values need only the peak, which the operation that wrote x has left. The root mean square is computed
        while the engine works, and survives in S.ACT.
        """
        at = self.layout
        self._quantise(self._gained(name, at.x, at.hidden_beats), at.hidden_beats, S.PEAK)
        self._matvec(name, destination, peak)
        self._norm_scale(name, S.ACT, at.x, at.hidden_beats, self.shape.hidden, one=self.one)
        if self.config.slots > 1:
            # What waits for the engine now waits for it only once all slots have their root mean square.
            self.emit.section()

    def _gained(self, norm: str, source: int, beats: int, *, peak: int = S.PEAK, place: int | None = None) -> int:
        """Multiply a vector by the gains of its norm; returns where the product is.

        Parameters
        ----------
        norm, source, beats : the vector as it is before; where all gains are equal it stays there.
        peak : register that gets the peak of a product.
        place : where a product goes, instead of the place of gains.
        """
        emit, at = self.emit, self.layout
        gain = self.gains.get(norm)
        if gain is None or not gain.rows:
            return source
        place = at.gain if place is None else place
        for digit, (row, scale) in enumerate(zip(gain.rows, self.gain_scales, strict=True)):
            if len(gain.rows) > 1:
                emit.scalar(S.SCALE, NO_SCALAR, constant=scale, wait=Unit.VECTOR)
            emit.embed(at.digit if digit else place, beats, S.SCALE, S.GATE_PEAK, wait=Unit.SCALAR | Unit.ENGINE,
                       row=row)
            if digit:
                emit.add(at.digit, place, beats, NO_SCALAR, S.GATE_PEAK, wait=Unit(0))
        emit.product(source, place, beats, S.GATE_PEAK, S.GAIN_SHIFT, peak)
        return place

    def _norm_scale(self, norm: str, rd: int, source: int, beats: int, width: int, *, one: float | None,
                    constant: float = 1.0) -> None:
        """S(rd) = what a unit of the quantised, normed vector stands for, times a constant.

        Parameters
        ----------
        source, beats, width : the vector before its gains.
        one : what its integers count as 1; None if it has a scale of its own, which the norm cancels, and with it what
            epsilon would change.
        """
        squares_per_unit = (one or 1.0) ** 2 / (1 << SQUARE_SHIFT)
        epsilon = round(self.shape.norm_epsilon * width * squares_per_unit) if one else 0
        self.emit.square(source, beats, S.SQUARES, S.SCRATCH, epsilon)
        to_real = (width * squares_per_unit) ** 0.5 / (127 * (one or 1.0)) * constant
        self._squares_to_scale(norm, rd, S.PEAK, to_real)

    def _squares_to_scale(self, norm: str, rd: int, peak: int, to_real: float) -> None:
        """S(rd) = peak / sqrt(S.SQUARES) times a constant and what a unit of the gains of the norm stands for."""
        emit, gain = self.emit, self.gains.get(norm)
        if gain is not None:
            to_real *= gain.largest / GAIN_PEAK if gain.rows else gain.largest
        emit.rsqrt(rd, S.SQUARES, peak, constant=to_real, wait=Unit.VECTOR)
        if gain is not None and gain.rows:
            emit.scalar(rd, rd, S.GAIN_SHIFT)

    def _quantise(self, source: int, beats: int, peak: int) -> None:
        """Absmax int8 into the activation buffer; waits until the engine has read the previous vector."""
        self.emit.reciprocal(S.QUANTISE, peak, constant=127.0, wait=Unit.VECTOR)
        self.emit.to_activation(source, beats, S.QUANTISE, NO_SCALAR, wait=Unit.SCALAR | Unit.ENGINE)

    def _matvec(self, name: str, destination: int, peak: int, *, source: int = 0, fill: bool = True) -> None:
        block = self.tiler.block(name)
        self.emit.matvec(block, source=source, destination=destination, fill=fill, peak=peak, wait=Unit.VECTOR)

    def _queries_keys_values(self, layer: int) -> None:
        emit, at, shape = self.emit, self.layout, self.shape
        self._normed_matvec(f"{layer}.qkv", at.q, S.SCRATCH)
        if self.config.slots > 1:
            emit.rotary()
        query_scale = LOG2_E / shape.head_dim**0.5 * 2.0**QKV_FRACTION
        emit.scalar(S.Q, S.ACT, constant=self._scale(f"{layer}.q", f"{layer}.qkv") * query_scale)
        emit.scalar(S.K, S.ACT, constant=self._scale(f"{layer}.k", f"{layer}.qkv") * 2.0**QKV_FRACTION)
        emit.scalar(S.V, S.ACT, constant=self._scale(f"{layer}.v", f"{layer}.qkv") * 2.0**QKV_FRACTION)
        emit.scale(at.q, at.q_beats, S.Q, NO_SCALAR, wait=Unit.ENGINE | Unit.SCALAR)
        emit.rotate(at.q, at.q_beats, S.PEAK, wait=Unit.ROTARY)
        emit.block(S.Q, S.PEAK)
        emit.scale(at.k, at.kv_beats, S.K, NO_SCALAR)
        beats = self.config.word_beats
        for word in range(at.kv_words):
            slot, k, v = self._cache_slot(layer, word), at.k + word * beats, at.v + word * beats
            emit.rotate(k, beats, S.K_PEAK)
            emit.block(S.K_PEAK, S.K_PEAK)
            emit.scale(v, beats, S.V, S.V_PEAK)
            emit.to_cache(k, beats, slot, S.K_PEAK, S.K_PEAK, NO_SCALAR, value=False, wait=Unit.SCALAR)
            emit.block(S.V_PEAK, S.V_PEAK)
            emit.to_cache(v, beats, slot, S.V_PEAK, S.V_PEAK, NO_SCALAR, value=True, wait=Unit.SCALAR)

    def _attention(self, layer: int) -> None:
        emit, at, config = self.emit, self.layout, self.config
        beats = config.query_groups * config.word_beats
        for word in range(at.kv_words):
            emit.to_query(at.q + word * beats, beats, S.Q, S.Q, NO_SCALAR, wait=Unit.ATTENTION)
            out = at.q + word * beats       # of the queries, which are in the attention unit now
            self._attend(layer, word, wait=Unit.VECTOR)
            for head in range(config.heads_parallel):
                emit.reciprocal(S.HEADS + head, S.HEADS + head, constant=2.0 ** (config.context_log2 + 2),
                                wait=Unit.ATTENTION)
            emit.scale(config.attention_beat, beats, S.HEADS, S.PEAK, segmented=True, wait=Unit.SCALAR, dst=out)
        if at.kv_words > 1:
            emit.peak(at.o, at.q_beats, S.PEAK)
        name = f"{layer}.o"
        self._quantise(self._gained(name, at.o, at.q_beats), at.q_beats, S.PEAK)
        scale = self._scale(name, f"{name}/0") * self.one
        if "o" in self.shape.sub_norms:
            self._project(name, lambda: self._norm_scale(
                name, S.DELTA, at.o, at.q_beats, self.shape.heads * self.shape.head_dim, one=2.0**QKV_FRACTION,
                constant=scale))
            return
        emit.scalar(S.DELTA, S.PEAK, constant=scale / 127 / 2.0**QKV_FRACTION)
        self._project(name)

    def _cache_slot(self, layer: int, word: int) -> int:
        """Place in the KV cache of a word of a layer's keys and values."""
        return self.shape.caches(layer) * self.layout.kv_words + word

    def _attend(self, layer: int, word: int, *, wait: Unit) -> None:
        window = min(self.shape.window(layer), self.config.context)
        self.emit.attend(self._cache_slot(layer, word), S.HEADS, window, wait=wait)

    def _project(self, name: str, scale: Callable[[], None] = lambda: None) -> None:
        """x += matrix @ activations * S.DELTA, one table load of column blocks at a time.

        Parameters
        ----------
        scale : emits what computes S.DELTA while the engine works.
        """
        emit, at = self.emit, self.layout
        for part in range(self.tiler.parts(name)):
            source = part * self.config.table_blocks * self.config.block_beats
            self._matvec(f"{name}/{part}", at.delta, S.SCRATCH, source=source)
            if part == 0:
                scale()
            emit.add(at.delta, at.x, at.hidden_beats, S.DELTA, S.PEAK, wait=Unit.ENGINE | Unit.SCALAR)

    def _feed_forward(self, layer: int) -> None:
        emit, at, down = self.emit, self.layout, f"{layer}.down"
        scale = self._scale(down, f"{down}/0") * self.one
        self._normed_matvec(f"{layer}.gate", at.gate, S.GATE_PEAK)
        hidden = self._silu_gate(layer) if self.shape.activation == "silu" else self._squared_gate(layer)
        self._quantise(self._gained(down, hidden, at.feed_beats), at.feed_beats, S.PEAK)
        if "down" in self.shape.sub_norms:
            self._project(down, lambda: self._norm_scale(
                down, S.DELTA, hidden, at.feed_beats, self.shape.feed_forward, one=None, constant=scale))
            return
        emit.scalar(S.DELTA, S.DELTA, S.PEAK)
        emit.scalar(S.DELTA, S.DELTA, S.GATE_SHIFT)
        self._project(down)

    def _gate_scales(self, layer: int) -> tuple[float, float, float]:
        """Those of the feed-forward's matrices: gate, up, down."""
        return (self._scale(f"{layer}.gate"), self._scale(f"{layer}.up"),
                self._scale(f"{layer}.down", f"{layer}.down/0"))

    def _squared_gate(self, layer: int) -> int:
        """relu(g)**2 * u on raw sums of the engine; returns its place. S.DELTA collects the scales, but for a norm."""
        emit, at = self.emit, self.layout
        gate, up, down = self._gate_scales(layer)
        if "down" not in self.shape.sub_norms:
            emit.scalar(S.DELTA, S.ACT, S.ACT, constant=gate * gate)
            emit.scalar(S.DELTA, S.DELTA, S.ACT, constant=up * down * self.one / 127)
        self._matvec(f"{layer}.up", at.up, S.UP_PEAK, fill=False)
        emit.gate(at.gate, at.up, at.feed_beats, S.GATE_PEAK, S.UP_PEAK, S.GATE_SHIFT, S.PEAK, wait=Unit.ENGINE)
        return at.gate

    def _silu_gate(self, layer: int) -> int:
        """silu(g) in fixed point times u as the engine leaves it; returns its place. S.DELTA as above."""
        emit, at, one = self.emit, self.layout, 2.0**SILU_FRACTION
        gate, up, down = self._gate_scales(layer)
        emit.scalar(S.Q, S.ACT, constant=gate * one)
        if "down" not in self.shape.sub_norms:
            emit.scalar(S.DELTA, S.ACT, constant=up * down * self.one / 127 / one)
        self._matvec(f"{layer}.up", at.up, S.UP_PEAK, fill=False)
        emit.scale(at.gate, at.feed_beats, S.Q, NO_SCALAR, wait=Unit.ENGINE | Unit.SCALAR)
        emit.silu(at.gate, at.feed_beats, NO_SCALAR)
        emit.product(at.gate, at.up, at.feed_beats, S.UP_PEAK, S.GATE_SHIFT, S.PEAK)
        return at.up

    def _head(self) -> None:
        emit, at = self.emit, self.layout
        if self.config.slots > 1:
            emit.section(ALL_UNITS, reads=True)
        self._normed_matvec("head", at.logits, S.SCRATCH)
        emit.scalar(S.SCALE, S.ACT, TEMPERATURE_SCALAR, constant=self._scale("head") * 2.0**GUMBEL_FRACTION)
        emit.sample(at.logits, self.shape.vocab, S.SCALE, wait=Unit.ENGINE | Unit.SCALAR)
