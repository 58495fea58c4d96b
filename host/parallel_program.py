"""Emits the token program of a model whose attention and feed-forward read the same normed vector."""

from collections.abc import Iterable

from host.checkpoint import Checkpoint
from host.errors import TritloomError
from host.gains import GainTable
from host.layout import GROUP_SCALARS, Layout
from host.masks import with_masks
from host.program import LOG2_E, NO_WAIT, Scalars
from host.tiler import Tiler
from host.token_program import TokenProgram
from rtl.config import QKV_FRACTION, Config
from rtl.isa import NO_SCALAR, Op

ROTATION_GROWTH = 2**0.5   # of an element, at most


class ParallelScalars(Scalars):
    """Register numbers besides those of all programs."""

    Q_PEAK = Scalars.GAIN_SHIFT
    O_PEAK, O_QUANTISE, O_DELTA, HIDDEN_PEAK, HIDDEN_QUANTISE = range(
        Scalars.HEADS + GROUP_SCALARS, Scalars.HEADS + GROUP_SCALARS + 5)


S = ParallelScalars


class ParallelProgram(TokenProgram):
    """The operations of one token of a model with ``x += o(attend(qkv(n))) + down(gate(n), up(n))``, ``n = norm(x)``.
    A layer may have one of the two only.

    The engine works on gate and up projection while the vector unit prepares queries, keys and values, and on the down
    projection while attention runs. So what the engine puts out and what the vector unit puts out lie in different
    banks, and the order below is that of issue: each operation stands where it holds up the least. Wait masks follow
    from what operations touch.

    Queries and keys are rotated as the engine leaves them. Their block exponents come from its peaks, which a rotation
    raises by the square root of two at most, so that no pass over the vectors is needed to find them.

    Raises
    ------
    TritloomError: the model has sub-norms, or norms whose gains differ; or the accelerator has too many heads.
    """

    def __init__(self, checkpoint: Checkpoint, config: Config, layout: Layout, tiler: Tiler, gains: GainTable) -> None:
        super().__init__(checkpoint, config, layout, tiler, gains)
        if self.shape.sub_norms or any(gain.rows or name.endswith(".gate") for name, gain in self.gains.items()):
            raise TritloomError("the model has attention and feed-forward side by side, and gains of norms; train it "
                                "without gains, or multiply its matrices by them")
        if config.heads_parallel > GROUP_SCALARS:
            raise TritloomError(f"attention and feed-forward side by side leave scalars for {GROUP_SCALARS} heads at "
                                f"once, {config.name} has {config.heads_parallel}; use a configuration with narrower "
                                "words")

    def operations(self) -> list[Op]:
        """All of them, with END."""
        return with_masks(self.config, super().operations())

    def _mixer(self, layer: int) -> None:
        """Up to the start of attention; the engine then works on the gate."""
        if not self.shape.window(layer):
            self._gate_alone(layer)
            return
        emit, at, config = self.emit, self.layout, self.config
        raw_k, raw_q, raw_v = at.raw, at.raw + at.kv_beats, at.raw + at.kv_beats + at.q_beats
        one = 2.0**QKV_FRACTION
        self._quantise(at.x, at.hidden_beats, S.PEAK)
        self._matvec(f"{layer}.k", raw_k, S.K_PEAK)
        self._norm_scale(f"{layer}.qkv", S.ACT, at.x, at.hidden_beats, self.shape.hidden, one=self.one)
        if self.shape.groups(layer):
            self._begin_delta(layer)
        self._matvec(f"{layer}.q", raw_q, S.Q_PEAK, fill=False)
        if config.slots > 1:
            self._mix_slots(layer, raw_k, raw_q, raw_v)
            return
        emit.rotate(raw_k, at.kv_beats, NO_SCALAR, dst=at.k)
        self._factor(f"{layer}.k", S.K, S.K_PEAK, one, growth=ROTATION_GROWTH)
        emit.block(S.K_PEAK, S.K_PEAK)
        self._matvec(f"{layer}.v", raw_v, S.V_PEAK, fill=False)
        emit.rotate(raw_q, at.q_beats, NO_SCALAR, dst=at.q)
        self._factor(f"{layer}.q", S.Q, S.Q_PEAK, one * LOG2_E / self.shape.head_dim**0.5, growth=ROTATION_GROWTH)
        if self.shape.groups(layer):
            self._gate(layer)
        emit.block(S.Q_PEAK, S.Q_PEAK)
        self._to_cache(layer, at.k, S.K, S.K_PEAK, value=False)
        self._factor(f"{layer}.v", S.V, S.V_PEAK, one)
        self._to_query(0)
        emit.block(S.V_PEAK, S.V_PEAK)
        self._to_cache(layer, raw_v, S.V, S.V_PEAK, value=True)
        self._attend(layer, 0, wait=NO_WAIT)
        for word in range(1, at.kv_words):
            self._reciprocals(range(config.heads_parallel))
            self._collect(word - 1)
            self._to_query(word)
            self._attend(layer, word, wait=NO_WAIT)

    def _mix_slots(self, layer: int, raw_k: int, raw_q: int, raw_v: int) -> None:
        """The rest of it for one slot after the other, while the engine works on the gate of all.

        What attention leaves is taken at once: the next slot's comes to the same place.
        """
        emit, at, config, one = self.emit, self.layout, self.config, 2.0**QKV_FRACTION
        self._matvec(f"{layer}.v", raw_v, S.V_PEAK, fill=False)
        if self.shape.groups(layer):
            self._gate(layer)
        emit.rotary()
        self._factor(f"{layer}.k", S.K, S.K_PEAK, one, growth=ROTATION_GROWTH)
        emit.block(S.K_PEAK, S.K_PEAK)
        emit.rotate(raw_k, at.kv_beats, NO_SCALAR, dst=at.k)
        self._factor(f"{layer}.q", S.Q, S.Q_PEAK, one * LOG2_E / self.shape.head_dim**0.5, growth=ROTATION_GROWTH)
        emit.rotate(raw_q, at.q_beats, NO_SCALAR, dst=at.q)
        emit.block(S.Q_PEAK, S.Q_PEAK)
        self._to_cache(layer, at.k, S.K, S.K_PEAK, value=False)
        self._factor(f"{layer}.v", S.V, S.V_PEAK, one)
        emit.block(S.V_PEAK, S.V_PEAK)
        self._to_cache(layer, raw_v, S.V, S.V_PEAK, value=True)
        for word in range(at.kv_words):
            self._to_query(word)
            self._attend(layer, word, wait=NO_WAIT)
            self._reciprocals(range(config.heads_parallel))
            self._collect(word)

    def _to_cache(self, layer: int, source: int, factor: int, block: int, *, value: bool) -> None:
        words, beats = self.layout.kv_words, self.config.word_beats
        for word in range(words):
            self.emit.to_cache(source + word * beats, beats, self._cache_slot(layer, word), factor, block, NO_SCALAR,
                               value=value, wait=NO_WAIT)

    def _to_query(self, word: int) -> None:
        beats = self.config.query_groups * self.config.word_beats
        self.emit.to_query(self.layout.q + word * beats, beats, S.Q, S.Q_PEAK, NO_SCALAR, wait=NO_WAIT)

    def _reciprocals(self, heads: Iterable[int]) -> None:
        """Of the sums that attention leaves."""
        for register in (S.HEADS + head for head in heads):
            self.emit.reciprocal(register, register, constant=2.0 ** (self.config.context_log2 + 2), wait=NO_WAIT)

    def _collect(self, word: int) -> None:
        """What attention leaves of a word, divided by its sums, to the place of the queries."""
        beats = self.config.query_groups * self.config.word_beats
        self.emit.scale(self.config.attention_beat, beats, S.HEADS, S.O_PEAK, segmented=True,
                        dst=self.layout.q + word * beats)

    def _factor(self, name: str, factor: int, peak: int, scale: float, *, growth: float = 1.0) -> None:
        """S(factor) brings what the engine leaves to int8; the block exponent is that of S(peak) then.

        Parameters
        ----------
        peak : register with the largest element as the engine leaves it.
        scale : what a unit of S.ACT times that of the weights stands for in fixed point.
        growth : by which elements may have grown since.
        """
        scale *= self._scale(name)
        self.emit.scalar(peak, peak, S.ACT, constant=scale * growth)
        self.emit.block(factor, peak, S.ACT, constant=scale)

    def _begin_delta(self, layer: int) -> None:
        """S.DELTA becomes what the hidden vector's scales come from, as soon as that of the normed vector is known."""
        gate, _, _ = self._gate_scales(layer)
        self.emit.scalar(S.DELTA, S.ACT, S.ACT, constant=gate * gate)

    def _end_delta(self, layer: int) -> None:
        _, up, down = self._gate_scales(layer)
        self.emit.scalar(S.DELTA, S.DELTA, S.ACT, constant=up * down * self.one / 127)

    def _gate_alone(self, layer: int) -> None:
        """The start of a layer without attention."""
        at = self.layout
        self._quantise(at.x, at.hidden_beats, S.PEAK)
        self._gate(layer, fill=True)
        self._norm_scale(f"{layer}.qkv", S.ACT, at.x, at.hidden_beats, self.shape.hidden, one=self.one)
        self._begin_delta(layer)

    def _gate(self, layer: int, *, fill: bool = False) -> None:
        """What the engine begins with while queries, keys and values are made."""
        self._matvec(f"{layer}.gate", self.layout.gate, S.GATE_PEAK, fill=fill)

    def _feed_forward(self, layer: int) -> None:
        """While attention runs; then what attention leaves."""
        has_attention = self.shape.window(layer) > 0
        if not self.shape.groups(layer):
            if self.config.slots == 1:
                self._reciprocals(range(self.config.heads_parallel - 1))
            self._finish_layer(layer, [])
            return
        emit, at = self.emit, self.layout
        self._matvec(f"{layer}.up", at.up, S.UP_PEAK, fill=False)
        if self.shape.most_groups > 1:
            self._finish_layer(layer, self._down_groups(layer))
            return
        emit.gate(at.gate, at.up, at.feed_beats, S.GATE_PEAK, S.UP_PEAK, S.GATE_SHIFT, S.HIDDEN_PEAK)
        self._end_delta(layer)
        emit.reciprocal(S.HIDDEN_QUANTISE, S.HIDDEN_PEAK, constant=127.0, wait=NO_WAIT)
        parts, beats = self.tiler.parts(f"{layer}.down"), self.config.table_blocks * self.config.block_beats
        for part in range(parts):
            first = part * beats
            place = at.hidden_activations + first
            emit.to_activation(at.gate + first, min(beats, at.feed_beats - first), S.HIDDEN_QUANTISE, NO_SCALAR,
                               wait=NO_WAIT, dst=place)
            if part == parts - 1 and self.config.slots == 1 and has_attention:
                self._reciprocals(range(self.config.heads_parallel - 1))
            self._matvec(f"{layer}.down/{part}", self._delta(part), S.SCRATCH, source=place)
            if part == 0:
                emit.scalar(S.DELTA, S.DELTA, S.HIDDEN_PEAK)
                emit.scalar(S.DELTA, S.DELTA, S.GATE_SHIFT)
            elif part < parts - 1:
                self._add(self._delta(part - 1), S.DELTA)
        self._finish_layer(layer, [(self._delta(part), S.DELTA) for part in range(max(0, parts - 2), parts)])

    def _down_groups(self, layer: int) -> list[tuple[int, int]]:
        """The down projection of one group after the other; what is left to add of it."""
        emit, at = self.emit, self.layout
        self._end_delta(layer)
        for group in range(self.shape.groups(layer)):
            gate, up = (first + group * at.group_beats for first in (at.gate, at.up))
            emit.gate(gate, up, at.group_beats, S.GATE_PEAK, S.UP_PEAK, S.GATE_SHIFT, S.HIDDEN_PEAK)
            self._quantise_group(group, gate)
            self._scale_group(group)
            self._down(layer, group)
            if group:
                self._add_group(group - 1)
        return [(self._delta(group), self._group_scale(group))]

    def _quantise_group(self, group: int, source: int) -> None:
        """A group of the hidden vector to the activations."""
        emit, at = self.emit, self.layout
        emit.reciprocal(S.HIDDEN_QUANTISE, S.HIDDEN_PEAK, constant=127.0, wait=NO_WAIT)
        emit.to_activation(source, at.group_beats, S.HIDDEN_QUANTISE, NO_SCALAR, wait=NO_WAIT,
                           dst=self._group_activations(group))

    def _scale_group(self, group: int) -> None:
        """The scale of what a group adds."""
        scale = self._group_scale(group)
        self.emit.scalar(scale, S.DELTA, S.HIDDEN_PEAK)
        self.emit.scalar(scale, scale, S.GATE_SHIFT)

    def _add_group(self, group: int) -> None:
        self._add(self._delta(group), self._group_scale(group))

    def _group_activations(self, group: int) -> int:
        return self.layout.hidden_activations + group % self.layout.group_places * self.layout.group_beats

    def _group_scale(self, group: int) -> int:
        """Register behind those of the heads, or of what the cache has taken."""
        registers = *range(S.HEADS + self.config.heads_parallel, S.HEADS + GROUP_SCALARS), S.K, S.V
        return registers[group]

    def _down(self, layer: int, group: int) -> None:
        self._matvec(f"{layer}.down/{group}", self._delta(group), S.SCRATCH, source=self._group_activations(group))

    def _delta(self, part: int) -> int:
        """Place of what a part of the down projection adds; the engine fills one while the other is added."""
        return self.layout.deltas[part % 2]

    def _finish_layer(self, layer: int, deltas: list[tuple[int, int]]) -> None:
        """x += matrix @ what attention leaves; while the engine works, what is left of the feed-forward.

        Without attention only the latter.

        Parameters
        ----------
        deltas : place and scale of each vector that it adds.
        """
        if not self.shape.window(layer):
            self._add_last(deltas)
            return
        if self.config.slots == 1:
            self._reciprocals([self.config.heads_parallel - 1])
            self._collect(self.layout.kv_words - 1)
        self._quantise_output()
        self._project_output(layer, deltas)

    def _add_last(self, deltas: list[tuple[int, int]]) -> None:
        """The end of a layer without attention."""
        for delta, scale in deltas[:-1]:
            self._add(delta, scale)
        self._add(*deltas[-1], peak=S.PEAK)

    def _quantise_output(self) -> None:
        emit, at = self.emit, self.layout
        if at.kv_words > 1:
            emit.peak(at.q, at.q_beats, S.O_PEAK)
        emit.reciprocal(S.O_QUANTISE, S.O_PEAK, constant=127.0, wait=NO_WAIT)
        emit.to_activation(at.q, at.q_beats, S.O_QUANTISE, NO_SCALAR, wait=NO_WAIT)

    def _project_output(self, layer: int, deltas: list[tuple[int, int]]) -> None:
        name, at = f"{layer}.o", self.layout
        self._matvec(f"{name}/0", at.delta, S.SCRATCH)
        for delta, scale in deltas:
            self._add(delta, scale)
        self.emit.scalar(S.O_DELTA, S.O_PEAK,
                         constant=self._scale(name, f"{name}/0") * self.one / 127 / 2.0**QKV_FRACTION)
        self._add(at.delta, S.O_DELTA, peak=S.PEAK)

    def _add(self, delta: int, scale: int, *, peak: int = NO_SCALAR) -> None:
        self.emit.add(delta, self.layout.x, self.layout.hidden_beats, scale, peak, NO_WAIT)
