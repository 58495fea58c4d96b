"""Sizes a model for a board from the headers of its files: what goes where, and what does not fit."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod

from boards import BOARDS, Board
from host.checkpoint import Shape, layer_shapes
from host.errors import TritloomError
from host.layout import Layout, group_places, written_beats
from host.model_files import ModelFiles, logical_shape
from host.packing import BASE3_TRITS
from rtl.config import CONFIGS, ELEMENT_BITS, WORD_BITS, Config
from rtl.sdram_parts import WORD_HALVES

STREAM, EMBEDDING, HEAD, GAINS = "ternary stream", "embedding planes", "head planes", "norm gains"
WORD_BYTES = 4
HALF_BYTES = WORD_BYTES // WORD_HALVES


@dataclass(frozen=True)
class Placed:
    """One tensor on the accelerator.

    Members
    -------
    name, dtype, shape : as its file has it; packed weights have the shape they unpack to.
    placement : class of memory.
    size_bytes : bytes it takes there, with its padding.
    token_bytes : bytes of it that one token reads.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    placement: str
    size_bytes: int
    token_bytes: int


@dataclass(frozen=True)
class Limit:
    """One memory: what the model needs and what there is, in bytes."""

    what: str
    needed_bytes: int
    available_bytes: int

    @property
    def missing_bytes(self) -> int:
        return max(0, self.needed_bytes - self.available_bytes)


@dataclass(frozen=True)
class Fit:
    """How a model lies in one configuration of one board.

    Members
    -------
    board, config : for which it was sized.
    placed : every tensor of the model.
    limits : every memory.
    objections : why the model cannot run although its bytes may fit.
    smallest : board and configuration that hold the model, or None.
    peak_bytes_s : of the SDRAM, 0 where weights are resident.
    """

    board: str
    config: str
    placed: tuple[Placed, ...]
    limits: tuple[Limit, ...]
    objections: tuple[str, ...]
    smallest: str | None
    peak_bytes_s: float

    @property
    def stream_bytes(self) -> int:
        """Bytes of weights that one token reads, projections and head."""
        return sum(tensor.token_bytes for tensor in self.placed if tensor.placement in (STREAM, HEAD))

    @property
    def tokens_per_second(self) -> float | None:
        """Estimated bound: the SDRAM's peak over the bytes of a token; None where weights are resident."""
        return self.peak_bytes_s / self.stream_bytes if self.peak_bytes_s else None

    @property
    def fits(self) -> bool:
        return not self.objections and not any(limit.missing_bytes for limit in self.limits)

    @property
    def refusal(self) -> str:
        """Why not, in one line."""
        short = [f"{limit.what} needs {limit.needed_bytes} bytes, {limit.missing_bytes} more than there are"
                 for limit in self.limits if limit.missing_bytes]
        return "; ".join([*short, *self.objections])


def fit(model: ModelFiles, board_name: str, config_name: str | None = None) -> Fit:
    """Size a model for a board.

    Parameters
    ----------
    model : from headers alone.
    board_name : a key of `boards.BOARDS`.
    config_name : None takes the smallest configuration that holds the model, else the largest.

    Raises
    ------
    TritloomError: there is no such board or configuration.
    """
    if board_name not in BOARDS:
        raise TritloomError(f"there is no board {board_name!r}; choose {', '.join(BOARDS)}")
    if config_name is not None and config_name not in CONFIGS:
        raise TritloomError(f"there is no configuration {config_name!r}; choose {', '.join(CONFIGS)}")
    board, shape = BOARDS[board_name], model.architecture.shape
    holders = [(board, name) for board in BOARDS.values() for name in CONFIGS
               if name in board.clocks and not any(_misfits(shape, board, CONFIGS[name]))]
    own = [name for holder, name in holders if holder is board]
    config = CONFIGS[config_name or next(iter(own), tuple(CONFIGS)[-1])]
    geometry = _layout_objection(shape, config)
    limits = tuple(memory_limits(shape, board, config))
    objections = (*([geometry] if geometry else []), *model.objections)
    return Fit(board.name, config.name, tuple(_placed(model, config)), limits, objections,
               next((f"{holder.name} {_device(holder, name)} {name}" for holder, name in holders), None),
               HALF_BYTES * board.clocks[config.name].sdram_hz if config.weight_source == "sdram" else 0.0)


def _device(board: Board, config: str) -> str:
    return board.default_devices.get(config, board.default_device)


def _layout_objection(shape: Shape, config: Config) -> str | None:
    try:
        Layout(shape, config)
    except TritloomError as error:
        return str(error)
    return None


def _misfits(shape: Shape, board: Board, config: Config) -> Iterator[bool]:
    yield _layout_objection(shape, config) is not None
    yield from (limit.missing_bytes > 0 for limit in memory_limits(shape, board, config))


def matrix_tiles(shape: Shape, config: Config, name: str) -> int:
    """Tiles of a layer's projection ``{i}.q``, or of the head, padded as the compiler pads it.

    ``gate_up`` is cut in two.
    """
    layer, _, part = name.rpartition(".")
    if part == "gate_up":
        return 2 * matrix_tiles(shape, config, f"{layer}.gate")
    if shape.most_groups > 1 and config.slots == 1 and part in ("gate", "up"):
        # Of each group, gate and up projection are one matrix.
        group = shape.feed_forward // shape.most_groups
        pairs = shape.groups(int(layer)) * ceil(2 * group / config.rows)
        return (pairs + (part == "gate")) // 2 * ceil(shape.hidden / config.columns)
    if part == "head":
        whole = config.lanes if config.slots > 1 else 1
        rows, columns, planes = ceil(shape.vocab / whole) * whole, shape.hidden, shape.head_planes
    else:
        (rows, columns), planes = layer_shapes(shape, int(layer))[part], 1
        beat = config.word_lanes if part in ("k", "v") else config.lanes
        rows = ceil(rows / beat) * beat
    groups = shape.groups(int(layer)) if part == "down" else 1
    if shape.mixer == "attention" and shape.head_dim == config.head_dim:
        # Query heads are laid out by words of the KV cache, so what KV heads leave unfilled is unfilled here, too.
        queries = ceil(shape.kv_heads / config.word_heads) * (shape.heads // shape.kv_heads) * config.word_lanes
        rows, columns = (queries if part == "q" else rows), (queries if part == "o" else columns)
    return ceil(rows / config.rows) * groups * ceil(columns / groups / config.columns) * planes


def tiles_to_bytes(config: Config, tiles: int) -> int:
    """Bytes that tiles take in block RAM (36-bit words of codes) or in the SDRAM stream (base 3)."""
    if config.weight_source == "ebr":
        return ceil(tiles * config.rows * config.row_words * WORD_BITS / 8)
    return ceil(tiles * config.rows * config.columns / BASE3_TRITS)


def memory_limits(shape: Shape, board: Board, config: Config) -> Iterator[Limit]:
    """Every memory of the accelerator, that of the weights first, as a model of this shape would fill it."""
    tiles = sum(matrix_tiles(shape, config, f"{layer}.{part}")
                for layer in range(shape.layers) for part in layer_shapes(shape, layer))
    tiles += matrix_tiles(shape, config, "head")
    weights = tiles_to_bytes(config, tiles)
    if config.weight_source == "ebr":
        yield Limit("weight memory", weights, tiles_to_bytes(config, config.weight_depth))
    else:
        yield Limit("SDRAM", weights + -weights % WORD_BYTES, board.sdram.words * WORD_BYTES)
    lanes = config.lanes
    hidden, feed = ceil(shape.hidden / lanes), ceil(shape.feed_forward / lanes)
    row_bits = lanes * (3**shape.embed_planes - 1).bit_length()
    yield Limit("embedding memory", shape.vocab * hidden * row_bits // 8,
                config.vocab * config.embed_beats * lanes * config.embed_bits // 8)
    kv_bytes = 2 * config.context           # keys and values, one byte per element
    is_hgrn = shape.mixer == "hgrn"
    kv_elements = 0 if is_hgrn else ceil(shape.kv_heads * shape.head_dim / config.word_lanes) * config.word_lanes
    yield Limit("KV cache", shape.caches(shape.layers) * kv_elements * kv_bytes,
                config.kv_slots * config.word_lanes * kv_bytes)
    queries = kv_elements // lanes * (shape.heads // shape.kv_heads)
    mixer = 3 * hidden if is_hgrn else queries + 2 * kv_elements // lanes
    # Of x, and with a recurrence of the states and of what several norms read.
    kept = (2 + shape.layers) * hidden if is_hgrn else hidden
    scratch, beside = max(2 * feed, mixer) + hidden, 0
    if shape.is_parallel:
        step, beside = written_beats(config, hidden), queries + kv_elements // lanes
        later = feed if shape.most_groups > 1 else 0
        scratch = max(2 * feed, feed + later + 3 * step, mixer + feed)
    if shape.most_groups > 1 and config.slots == 1:
        group, word = ceil(feed / shape.most_groups), config.query_groups * config.word_beats
        beside = max(beside, queries - word + group)
        scratch = max(2 * written_beats(config, 2 * group), step) + max(2 * step, mixer)
    kept += beside
    beat_bits = lanes * ELEMENT_BITS
    if config.bank_beats:
        yield Limit("second bank of vector memory", kept * beat_bits // 8, config.bank_beats * beat_bits // 8)
        kept = 0
        if not shape.is_parallel:
            scratch = max(2 * feed, max(feed, mixer) + hidden)
    beats = kept + max(scratch, ceil(shape.vocab / lanes))
    yield Limit("vector memory", beats * beat_bits // 8, config.engine_beats * beat_bits // 8)
    active = max(hidden, group_places(shape, config) * ceil(feed / shape.most_groups), queries)
    yield Limit("activation memory", active * lanes, config.activation_depth * lanes)


def _placed(model: ModelFiles, config: Config) -> Iterator[Placed]:
    shape = model.architecture.shape
    lanes = config.lanes
    row_bits = ceil(shape.hidden / lanes) * lanes * (3**shape.embed_planes - 1).bit_length()
    head_bytes = tiles_to_bytes(config, matrix_tiles(shape, config, "head"))
    for key, entry in model.matrices.items():
        common = entry.name, entry.dtype, logical_shape(entry)
        if key == "embed":
            yield Placed(*common, EMBEDDING, shape.vocab * row_bits // 8, ceil(row_bits / 8))
        elif key == "head":
            yield Placed(*common, HEAD, head_bytes, head_bytes)
        else:
            size = tiles_to_bytes(config, matrix_tiles(shape, config, key))
            yield Placed(*common, STREAM, size, size)
    if model.architecture.tied:
        entry = model.matrices["embed"]
        yield Placed(f"{entry.name} (as head)", entry.dtype, entry.shape, HEAD, head_bytes, head_bytes)
    for entry in (*model.gains, *([model.bounds] if model.bounds else [])):
        size = ceil(prod(entry.shape) * ELEMENT_BITS / 8)
        yield Placed(entry.name, entry.dtype, entry.shape, GAINS, size, size)
