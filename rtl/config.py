"""The one configuration of a Tritloom accelerator. Pure Python: host, golden model and gateware share it.

A *lane* is one element position of the vector datapath; a *beat* is one word of ``lanes`` elements.
Vectors are stored in beats: element ``i`` is lane ``i % lanes`` of beat ``i // lanes``.
"""

import hashlib
from dataclasses import dataclass, fields, replace
from math import ceil, gcd

ELEMENT_BITS = 18          # vector element, signed; the native operand width of an ECP5 multiplier
QKV_FRACTION = 10          # fraction bits of queries, keys and values before block floating point
SCORE_FRACTION = 10        # fraction bits of attention scores, in units of log2
SCORE_BITS = 21            # of a score, signed: up to 1,024 units, more than any softmax can tell apart
CODE_TERMS = 3             # activations that a table code adds at most
SPARSE_GROUP = 4           # weights of a row of which 3:4-sparse models have exactly one zero
CODE_BITS = 5              # a sign and a 4-bit index into the sums of these
CODE_INDICES = {3: 14, 4: 16}   # how many of these indices codes of so many trits use
SIGN = CODE_BITS - 1       # position of the sign
GROUP_CODES = 7            # codes that the adder tree joins before others, with relative signs
WORD_BITS = 36             # of a block-RAM word
ACTIVATION_BITS = 8
PROGRAM_VERSION = 5        # of what the words of a program mean
ADDRESS_BITS = 8           # of a beat that a vector operation reads or writes
TILE_ADDRESS_BITS = 11     # of the first tile of an operation in block RAM
UNFILLED_BITS = 3          # of the number of its last beats that count as zero
EXPONENT_BITS = 4          # block-floating-point exponent of a KV beat
DRAFT_TOKENS = 4           # the longest context that the drafter knows tokens after
DRAFT_WAYS = 4             # contexts in a set of its learned table
DRAFT_TAG_BITS = 9
RECENT_TOKENS = (2, 3)     # lengths of contexts that it remembers from the text itself
RECENT_TAG_BITS = 8
RECENT_WORDS = 4           # words of that memory per position of the context: few contexts share one


def largest_sum(columns: int, planes: int) -> int:
    """Largest magnitude of a sum of ``columns`` activations, each times a weight of ``planes`` trits."""
    return columns * ((1 << ACTIVATION_BITS - 1) - 1) * (3**planes // 2)


def sum_shift(columns: int, planes: int) -> int:
    """Least rounding right shift that brings such a sum into an element."""
    shift, largest = 0, largest_sum(columns, planes)
    while (largest + (1 << shift >> 1)) >> shift >> ELEMENT_BITS - 1:
        shift += 1
    return shift


def sign_reference(code: int) -> int:
    """The code to whose sign that of ``code`` is relative; itself if the sign is absolute.

    The adder tree needs the exclusive or of the first signs of two branches wherever branches meet, and the first
    sign of the whole. Inside each group of seven codes these come with the tile, so the tree has no gates there.
    """
    return code - code % GROUP_CODES + (code % GROUP_CODES & code % GROUP_CODES - 1)


def entry_trits(entry: int, code_trits: int) -> list[int]:
    """Trits of the canonical code with this index, whose last trit that is not zero is 1.

    Three trits of any value are the balanced-ternary number ``entry``. Of four the one at ``entry % 4`` is zero, and
    the bits above say which of the first two others are -1.
    """
    if code_trits == CODE_TERMS:
        return [(entry + 13) // 3**place % 3 - 1 for place in range(code_trits)]
    signs = [1 - 2 * (entry >> 2 & 1), 1 - 2 * (entry >> 3 & 1), 1]
    zero = entry % code_trits
    return [*signs[:zero], 0, *signs[zero:]]


@dataclass(frozen=True)
class Config:
    """Geometry of one accelerator.

    Parameters
    ----------
    name : name on the command line of the build.
    lanes : elements per beat; width of vector unit and vector memory.
    block_beats : beats per column block, so a tile has ``lanes * block_beats`` columns.
    rows : rows of a tile.
    table_blocks : column blocks whose lookup tables are held at once (1: distributed RAM).
    weight_source : ``"ebr"`` (resident) or ``"sdram"`` (stream).
    weight_planes : most trit planes of a matrix.
    weight_depth : tiles held in block RAM (resident only, else 0).
    vector_depth : beats of vector memory.
    activation_depth : beats of the int8 activation buffer.
    head_dim : elements per attention head; ``lanes`` is a multiple of it.
    word_beats : beats in a word of the KV cache; width of each attention group.
    query_groups : query heads that share one KV head and are computed in parallel.
    context : positions the KV cache holds; a power of two.
    kv_slots : words per position (layers x words per layer) the cache holds.
    vocab : rows of the embedding memory.
    embed_beats : beats of one embedding row.
    embed_planes : trit planes of the embedding (3 planes: 5-bit codes).
    program_depth : operations the program memory holds.
    sampler_lanes : logits examined per clock.
    stream_fifo_words : 32-bit words of weight prefetch (stream only, else 0).
    slots : tokens that share a pass over the weights, each with vectors and scalars of its own (stream only).
    block_slots : slots whose activations lie in block RAM; those of the others in distributed RAM.
    gain_rows : rows of the embedding memory after the vocabulary, for gains of norms (0: no gains).
    has_silu : whether the vector unit can gate by SiLU, besides the square of ReLU.
    has_recurrence : whether there is what the layers of HGRN need besides SiLU: the sigmoid, and a scalar register that
        lets their states begin from nothing.
    draft_sets : sets of the drafter's learned table, ``DRAFT_WAYS`` contexts each; a power of two (0: no drafter).
    bank_beats : beats at the end of vector memory that only the vector unit writes, while the engine may write the
        others (0: one writes at a time).
    code_trits : weights of a table code: 3, each of any value, or 4 of which exactly one is zero (3:4-sparse; block RAM
        only).
    """

    name: str
    lanes: int
    block_beats: int
    rows: int
    table_blocks: int
    weight_source: str
    weight_planes: int
    weight_depth: int
    vector_depth: int
    activation_depth: int
    head_dim: int
    word_beats: int
    query_groups: int
    context: int
    kv_slots: int
    vocab: int
    embed_beats: int
    embed_planes: int
    program_depth: int
    sampler_lanes: int
    stream_fifo_words: int
    gain_rows: int = 0
    has_silu: bool = False
    has_recurrence: bool = False
    slots: int = 1
    block_slots: int = 0
    draft_sets: int = 0
    bank_beats: int = 0
    code_trits: int = CODE_TERMS

    def __post_init__(self) -> None:
        if self.rows // self.part > self.lanes // self.part:
            raise ValueError(f"rows {self.rows} must not exceed lanes {self.lanes}")
        if self.lanes % self.head_dim:
            raise ValueError(f"lanes {self.lanes} must be a multiple of head_dim {self.head_dim}")
        if self.lanes % self.sampler_lanes:
            raise ValueError(f"lanes {self.lanes} must be a multiple of sampler_lanes {self.sampler_lanes}")
        if self.context & (self.context - 1):
            raise ValueError(f"context {self.context} must be a power of two")
        if self.has_recurrence and not self.has_silu:
            raise ValueError("has_recurrence needs has_silu")
        if self.draft_sets & (self.draft_sets - 1) or self.draft_sets == 1:
            raise ValueError(f"draft_sets {self.draft_sets} must be 0 or a power of two from 2 on")
        if self.vector_depth > self.attention_beat:
            raise ValueError(f"vector_depth {self.vector_depth} must not exceed {self.attention_beat}, where the beats "
                             "of the attention unit follow")
        if self.bank_beats and (self.bank_beats.bit_count() > 1 or self.vector_depth.bit_count() > 1
                                or self.bank_beats >= self.vector_depth):
            raise ValueError(f"bank_beats {self.bank_beats} and vector_depth {self.vector_depth} must be powers of "
                             "two, the former smaller")
        if self.weight_source not in ("ebr", "sdram"):
            raise ValueError(f"weight_source must be ebr or sdram, got {self.weight_source!r}")
        if self.weight_depth > 1 << TILE_ADDRESS_BITS:
            raise ValueError(f"weight_depth must be at most {1 << TILE_ADDRESS_BITS}, got {self.weight_depth}")
        if self.code_trits not in (CODE_TERMS, SPARSE_GROUP):
            raise ValueError(f"code_trits must be {CODE_TERMS} or {SPARSE_GROUP}, got {self.code_trits}")
        if self.has_sparse_codes and (self.weight_source != "ebr" or self.lanes % SPARSE_GROUP
                                      or self.word_lanes % self.rows or self.block_beats > 1 << UNFILLED_BITS):
            raise ValueError(f"code_trits {self.code_trits} needs weight_source ebr, a multiple of it as lanes, rows "
                             f"that divide a word of the KV cache, and at most {1 << UNFILLED_BITS} block_beats")
        if self.slots < 1:
            raise ValueError(f"slots must be positive, got {self.slots}")
        if self.slots > 1 and (self.weight_source, self.rows, self.block_beats) != ("sdram", 1, 1):
            raise ValueError(f"slots {self.slots} need weight_source sdram, rows 1 and block_beats 1")
        if self.slots > 1 and (self.bank_beats or self.has_recurrence):
            raise ValueError(f"slots {self.slots} allow neither bank_beats nor has_recurrence")
        if self.slots > 1 and self.activation_depth & (self.activation_depth - 1):
            raise ValueError(f"activation_depth {self.activation_depth} must be a power of two if there are slots")

    @property
    def columns(self) -> int:
        """Activations that one tile meets."""
        return self.lanes * self.block_beats

    @property
    def codes(self) -> int:
        """Table codes per tile row (the last of three trits may cover fewer columns)."""
        return ceil(self.columns / self.code_trits)

    @property
    def has_sparse_codes(self) -> bool:
        """Whether exactly one in each four weights is zero, so that no code stands for nothing."""
        return self.code_trits == SPARSE_GROUP

    @property
    def row_words(self) -> int:
        """36-bit words per tile row in block RAM; codes lie in them without gaps."""
        return ceil(self.codes * CODE_BITS / WORD_BITS)

    @property
    def macs(self) -> int:
        """Ternary multiply-accumulates per clock, in all slots."""
        return self.rows * self.codes * self.code_trits if self.slots == 1 else self.slots * self.columns

    @property
    def accumulator_bits(self) -> int:
        """Bits of the largest sum of one operation, with its sign and the half that rounds it."""
        half = 1 << self.shift_max >> 1
        return (largest_sum(self.columns * self.table_blocks, self.weight_planes) + half).bit_length() + 1

    @property
    def shift_max(self) -> int:
        """Rounding shift of the largest sum of one operation; no operation needs more."""
        return sum_shift(self.columns * self.table_blocks, self.weight_planes)

    @property
    def part(self) -> int:
        """Lanes that the engine always writes together: its rows reach over several such parts of a beat."""
        return gcd(self.rows, self.lanes)

    @property
    def segments(self) -> int:
        """Heads side by side in one beat."""
        return self.lanes // self.head_dim

    @property
    def word_lanes(self) -> int:
        """Elements in a word of the KV cache; multipliers of an attention group."""
        return self.lanes * self.word_beats

    @property
    def word_heads(self) -> int:
        """KV heads side by side in a word of the KV cache."""
        return self.word_lanes // self.head_dim

    @property
    def heads_parallel(self) -> int:
        """Query heads computed at once; head ``g * word_heads + s`` of an operation."""
        return self.query_groups * self.word_heads

    @property
    def attention_beat(self) -> int:
        """First address at which a vector operation reads what the attention unit holds, not vector memory."""
        return (1 << ADDRESS_BITS) - (1 << (self.query_groups * self.word_beats - 1).bit_length())

    @property
    def engine_beats(self) -> int:
        """Beats of vector memory that the engine can write."""
        return self.vector_depth - self.bank_beats

    @property
    def has_products(self) -> bool:
        """Whether the vector unit multiplies vectors."""
        return self.gain_rows > 0 or self.has_silu

    @property
    def embed_rows(self) -> int:
        """Rows of the embedding memory."""
        return self.vocab + self.gain_rows

    @property
    def embed_bits(self) -> int:
        """Bits of one embedding element (an offset-binary number of ``3**embed_planes`` levels)."""
        return (3**self.embed_planes - 1).bit_length()

    @property
    def slot_bits(self) -> int:
        """Bits of a slot's number; they lead in addresses of beats, scalars and activations."""
        return (self.slots - 1).bit_length()

    @property
    def vector_beats(self) -> int:
        """Beats of vector memory, over all slots."""
        return self.vector_depth if self.slots == 1 else self.slots << ADDRESS_BITS

    @property
    def context_log2(self) -> int:
        return self.context.bit_length() - 1

    @property
    def token_bits(self) -> int:
        return (self.vocab - 1).bit_length()

    @property
    def recent_words(self) -> int:
        """Contexts of the text that the drafter remembers; a power of two."""
        return RECENT_WORDS * self.context

    @property
    def geometry(self) -> int:
        """32-bit fingerprint of everything an image depends on; options count where they are taken."""
        free = ("stream_fifo_words", "block_slots")
        chosen = [f for f in fields(self) if f.name not in free and getattr(self, f.name) != f.default]
        text = ",".join([f"program={PROGRAM_VERSION}", *(f"{f.name}={getattr(self, f.name)}" for f in chosen)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


RESIDENT = Config(
    name="resident", lanes=20, block_beats=8, rows=8, table_blocks=1, weight_source="ebr", weight_planes=2,
    weight_depth=1024, vector_depth=64, activation_depth=32, head_dim=20, word_beats=2, query_groups=2, context=256,
    kv_slots=4, vocab=512, embed_beats=8, embed_planes=3, program_depth=512, sampler_lanes=4, stream_fifo_words=0,
    bank_beats=16)

# For weights of which one in four is zero: an engine of the same tiles with a quarter fewer codes.
SPARSE = replace(RESIDENT, name="sparse", code_trits=4)

STREAM = Config(
    name="stream", lanes=20, block_beats=1, rows=1, table_blocks=64, weight_source="sdram", weight_planes=3,
    weight_depth=0, vector_depth=252, activation_depth=64, head_dim=20, word_beats=1, query_groups=2, context=256,
    kv_slots=12, vocab=512, embed_beats=20, embed_planes=3, program_depth=512, sampler_lanes=4, stream_fifo_words=2048,
    slots=8, block_slots=2, draft_sets=1024)

TINY = Config(
    name="tiny", lanes=8, block_beats=3, rows=8, table_blocks=1, weight_source="ebr", weight_planes=2,
    weight_depth=512, vector_depth=128, activation_depth=16, head_dim=4, word_beats=1, query_groups=1, context=64,
    kv_slots=2, vocab=512, embed_beats=3, embed_planes=3, program_depth=512, sampler_lanes=2, stream_fifo_words=0)

# A story model for the smallest FPGA: as wide as a tile.
POCKET = Config(
    name="pocket", lanes=8, block_beats=5, rows=8, table_blocks=1, weight_source="ebr", weight_planes=2,
    weight_depth=512, vector_depth=128, activation_depth=32, head_dim=8, word_beats=1, query_groups=2, context=128,
    kv_slots=8, vocab=512, embed_beats=5, embed_planes=3, program_depth=512, sampler_lanes=2, stream_fifo_words=0)

# For a microGPT: 16 wide, one layer, four heads, letters. A word of the cache holds all heads, a tile any whole row.
NANO = Config(
    name="nano", lanes=8, block_beats=6, rows=4, table_blocks=1, weight_source="ebr", weight_planes=2,
    weight_depth=64, vector_depth=32, activation_depth=8, head_dim=4, word_beats=2, query_groups=1, context=16,
    kv_slots=1, vocab=27, embed_beats=2, embed_planes=3, program_depth=64, sampler_lanes=2, stream_fifo_words=0)

# A Llama of the size of stories260K in trit planes: heads of 8, SiLU. No board has clocks for it, so it is simulated.
LLAMA = Config(
    name="llama", lanes=8, block_beats=5, rows=1, table_blocks=8, weight_source="sdram", weight_planes=5,
    weight_depth=0, vector_depth=128, activation_depth=32, head_dim=8, word_beats=4, query_groups=2, context=512,
    kv_slots=8, vocab=512, embed_beats=8, embed_planes=5, program_depth=512, sampler_lanes=4, stream_fifo_words=2048,
    has_silu=True)

# A small MatMul-free language model with all its gains. Simulated only, too.
HGRN = Config(
    name="hgrn", lanes=8, block_beats=3, rows=8, table_blocks=2, weight_source="ebr", weight_planes=1,
    weight_depth=1024, vector_depth=128, activation_depth=16, head_dim=4, word_beats=1, query_groups=1, context=64,
    kv_slots=2, vocab=512, embed_beats=6, embed_planes=5, program_depth=512, sampler_lanes=2, stream_fifo_words=0,
    gain_rows=72, has_silu=True, has_recurrence=True)

# Least capable first: the first that holds a model is the smallest.
CONFIGS = {config.name: config for config in (NANO, TINY, POCKET, SPARSE, RESIDENT, STREAM)}
SIMULATED_CONFIGS = CONFIGS | {config.name: config for config in (LLAMA, HGRN)}
