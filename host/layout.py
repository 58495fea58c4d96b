"""Where the vectors of a token program live in vector memory and activation buffer, and whether they have room."""

from math import ceil, lcm

from host.checkpoint import Shape
from host.errors import TritloomError
from rtl.config import Config

LAYER_OPERATIONS = 8       # at the least; so many layers are refused before any is read
GROUP_SCALARS = 8          # scalar registers for the heads of attention and for groups of the hidden vector
IDLE_SCALARS = 2           # further ones for groups: of keys and values, which are in the cache by then
LATE_GROUPS = 2            # groups, the last, whose activations may come to the place of the first, if there are four


def group_places(shape: Shape, config: Config) -> int:
    """Groups of the hidden vector that the activation buffer has to hold at once.

    All if they fit. The last are made when the down projection of the first is at work, so they may take their place.
    """
    beats = ceil(ceil(shape.feed_forward / config.lanes) / shape.most_groups)
    read = ceil(beats / config.block_beats) * config.block_beats
    least = max(1, min(2, shape.most_groups - 1), shape.most_groups - LATE_GROUPS)
    return min(shape.most_groups, max(least, (config.activation_depth - read) // beats + 1))


def written_beats(config: Config, beats: int) -> int:
    """Beats that the engine reaches into as it writes so many, in whole tiles."""
    return ceil(ceil(beats * config.lanes / config.rows) * config.rows / config.lanes)


class Layout:
    """Places in vector memory, in beats. Scratch of the mixer and of the feed-forward share theirs.

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
        _check_units(shape, config)
        self._shape, self._config = shape, config
        self.hidden_beats = ceil(shape.hidden / config.lanes)
        self.feed_beats = ceil(shape.feed_forward / config.lanes)
        self.group_beats = ceil(self.feed_beats / shape.most_groups)
        self.kv_words = 0 if shape.mixer == "hgrn" else ceil(shape.kv_heads / config.word_heads)
        self.kv_beats = self.kv_words * config.word_beats
        self.q_beats = self.kv_beats * config.query_groups
        # The residual stream lies where the engine does not write, and beside it what only the vector unit writes.
        self.x = config.engine_beats if config.bank_beats else 0
        self.beside = 0
        if not shape.is_parallel:
            end = self._place_in_turn(gain_beats, gain_digits)
        elif shape.most_groups > 1 and config.slots == 1:
            end = self._place_groups()
        else:
            end = self._place_side_by_side()
        # Activations of the hidden vector lie behind others if there is room: then neither waits for the other's use.
        self.group_places = group_places(shape, config)
        self._last_place = (self.group_places - 1) * self.group_beats
        room = config.activation_depth - self._read(self.group_beats, first=self._last_place)
        self.hidden_activations = self.hidden_beats if room >= self.hidden_beats else 0
        self._check_limits(end)

    def _place_in_turn(self, gain_beats: int, gain_digits: int) -> int:
        """Mixer and feed-forward one after the other; returns the first beat behind all."""
        shape, is_banked, is_hgrn = self._shape, self._config.bank_beats > 0, self._shape.mixer == "hgrn"
        # Of all layers; then what several norms read.
        self.states = 0 if is_banked else self.hidden_beats
        self.normed = self.states + (shape.layers * self.hidden_beats if is_hgrn else 0)
        scratch = self.normed + (self.hidden_beats if is_hgrn else 0)
        self.q, self.k, self.v = scratch, scratch + self.q_beats, scratch + self.q_beats + self.kv_beats
        self.i, self.f, self.g = (scratch + part * self.hidden_beats for part in range(3))
        self.gate, self.up = scratch, scratch + self.feed_beats
        self.o, self.logits = self.q, scratch
        mixer = 3 * self.hidden_beats if is_hgrn else self.q_beats + 2 * self.kv_beats
        self.delta = scratch + max(2 * self.feed_beats, mixer)
        if is_banked:
            # Of gate and up projection, that in whose place the hidden vector is not.
            self.delta = max(self.up if shape.activation == "relu2" else self.gate, scratch + mixer)
        self.gain = self.delta + self.hidden_beats
        self.digit = self.gain + gain_beats
        return max(self.up + self.feed_beats, self.digit + (gain_beats if gain_digits > 1 else 0))

    def _place_side_by_side(self) -> int:
        """Attention and feed-forward at once; returns the first beat behind all.

        What the engine leaves before the up projection and after it share a place. Groups of several slots need gates
        and ups until the last is done.
        """
        self.beside = self.kv_beats + self.q_beats
        self.k = self.x + self.hidden_beats
        self.q = self.o = self.k + self.kv_beats
        self.gate = self.logits = 0 if self._config.bank_beats else self.x + self.hidden_beats + self.beside
        self.up = self.gate + self.feed_beats
        mixer = self.q_beats + 2 * self.kv_beats
        self.raw = self.up + max(0, self.feed_beats - mixer)
        self.delta = self.up + (self.feed_beats if self._shape.most_groups > 1 else 0)
        step = written_beats(self._config, self.hidden_beats)
        self.deltas = self.delta + step, self.delta + 2 * step
        return max(self.up + self.feed_beats, self.deltas[1] + step, self.raw + mixer)

    def _place_groups(self) -> int:
        """The same, a group of the hidden vector at a time: each lies where keys and the last queries were.

        The engine leaves gates and ups of two groups in turn, what is to be added where it left keys, queries and
        values, and that of attention in place of the first pair.
        """
        word = self._config.query_groups * self._config.word_beats
        self.q = self.o = self.x + self.hidden_beats
        self.k = self.q + self.q_beats
        self.hidden = self.k - word
        self.beside = max(self.q_beats + self.kv_beats, self.q_beats - word + self.group_beats)
        self.delta = self.logits = 0 if self._config.bank_beats else self.x + self.hidden_beats + self.beside
        pair, step = written_beats(self._config, 2 * self.group_beats), written_beats(self._config, self.hidden_beats)
        self.pairs = self.delta, self.delta + pair
        self.raw = self.delta + max(2 * pair, step)
        self.deltas = self.raw, self.raw + step
        return self.raw + max(2 * step, self.q_beats + 2 * self.kv_beats)

    def _read(self, beats: int, *, first: int = 0) -> int:
        """Beats up to the last that a fill of so many reads, in whole column blocks."""
        return first + ceil(beats / self._config.block_beats) * self._config.block_beats

    def _check_limits(self, end: int) -> None:
        shape, config = self._shape, self._config
        hidden = self._read(self.group_beats, first=self.hidden_activations + self._last_place)
        active = max(hidden, *(self._read(beats) for beats in (self.hidden_beats, self.q_beats)))
        blocks = max(self.hidden_beats, self.group_beats if shape.most_groups > 1 else 0) / config.block_beats
        limits = (
            ("vector memory beats", max(end, self.logits + ceil(shape.vocab / config.lanes)), config.engine_beats),
            ("beats of the residual stream and what lies beside it", self.hidden_beats + self.beside,
             config.bank_beats or config.vector_depth),
            ("activation beats", active, config.activation_depth),
            ("column blocks of the hidden size or of a group", ceil(blocks), config.table_blocks),
            ("operations, at the least", LAYER_OPERATIONS * shape.layers, config.program_depth),
            ("KV cache slots", shape.caches(shape.layers) * self.kv_words, config.kv_slots),
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
    if shape.most_groups > 1:
        _check_groups(shape, config)
    if config.has_sparse_codes:
        if not shape.is_sparse:
            raise TritloomError(f"the model's weights are not 3:4-sparse, and {config.name} holds no others; use "
                                "another configuration")
        _check_padding(shape, config)


def _check_groups(shape: Shape, config: Config) -> None:
    """Groups of the hidden vector have whole beats, and a register each."""
    if shape.feed_forward % (shape.most_groups * config.lanes):
        raise TritloomError(f"the model's feed-forward of {shape.feed_forward} in {shape.most_groups} groups does "
                            f"not fit {config.name}, which takes groups of whole beats of {config.lanes}")
    scalars = GROUP_SCALARS - config.heads_parallel + IDLE_SCALARS
    if shape.most_groups > scalars:
        raise TritloomError(f"the model's feed-forward is in {shape.most_groups} groups, {config.name} has registers "
                            f"for {scalars}")


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
