"""Cycles each operation keeps its unit busy. Pure Python: the compiler predicts with it, tests assert it."""

from fractions import Fraction

from rtl.config import DRAFT_TOKENS, GROUP_CODES, RECENT_TOKENS, Config
from rtl.isa import NO_SCALAR, Op, Opcode, ScalarFn, VectorFn

ISSUE_CYCLES = 2           # between two operations that wait for nothing
WAIT_CYCLES = 1            # more until an operation is issued after a unit it waited for
SLOT_CYCLES = 3            # more until the first operation of a section is issued again for the next slot
RECORD_CYCLES = 2          # at the end of a pass, for each token that follows one of its inputs
QUEUE_CYCLES = 3           # from a token of the prompt to the next
START_CYCLES = 2           # from the last of the cycles that gather the tokens of a pass to its first operation



def gather_cycles(config: Config, given: int, guessed: int = 0, *, speculates: bool = False) -> int:
    """Token loop: until a pass has its tokens.

    Parameters
    ----------
    given : how many are of the prompt; none if the first is the latest sample.
    guessed : how many are drafts.
    speculates : whether there is a drafter that learns the text, and is asked for drafts where slots are left.
    """
    if config.slots == 1:
        return 1
    learn = max(QUEUE_CYCLES, remember_cycles(config, first=False)) if speculates else QUEUE_CYCLES
    last = 1 + learn * (given - 1)
    if given == config.slots:
        return last
    # The latest sample was learned, and its record left, in the cycle before these.
    look = last + learn if given else max(QUEUE_CYCLES, learn)
    if not speculates:
        return look
    full = max(given, 1) + guessed == config.slots
    return look + DRAFT_CYCLES * (guessed - 1 if full else guessed)


def token_cycles(config: Config, given: int = 0, guessed: int = 0, *, kept: int = 1, speculates: bool = False) -> int:
    """From the issue of END to that of the first operation of the next pass, if that takes and keeps as many tokens."""
    later = 0 if config.slots == 1 else 1      # no offer before the sequencer knows whether the operation is joint
    gather = gather_cycles(config, given, guessed, speculates=speculates)
    return RECORD_CYCLES * kept + gather + START_CYCLES + later


SDRAM_CLOCKS = Fraction(5, 3)   # SDRAM clocks in one engine clock of the stream configuration
WORD_SDRAM_CLOCKS = 2      # in which its 16-bit bus carries a word
DECODED_TILES = 3          # tiles that the decoder of the SDRAM stream holds ready
BASE3_WORD_TRITS = 20      # trits in one 32-bit word of the SDRAM stream
TABLE_ENTRIES = {3: 13, 4: 16}     # sums that are written into the lookup table of a code of so many trits
TABLE_LEAD = {3: 0, 4: 1}  # cycles before the first of them: of four trits it needs all activations, of three one
DRAFT_CYCLES = DRAFT_TOKENS + 4     # from one draft to the next
TABLE_READY_CYCLES = 3     # from the end of a fill to the first read; also the least latency of a weight source


def tree_levels(codes: int) -> int:
    """Levels of an adder tree that joins the codes of a group first, then the groups."""
    return (min(codes, GROUP_CODES) - 1).bit_length() + (-(-codes // GROUP_CODES) - 1).bit_length()


def table_latency(table_blocks: int) -> int:
    """Cycles from a table address to its value."""
    return 0 if table_blocks == 1 else 2


def table_cycles(code_trits: int) -> int:
    """Cycles of a column block in which its tables are filled, after those in which its activations are read."""
    return TABLE_LEAD[code_trits] + TABLE_ENTRIES[code_trits]


def peak_steps(rows: int) -> int:
    """Cycles in which the peaks of the rows become one."""
    return (rows - 1).bit_length()


def row_latency(config: Config) -> int:
    """Cycles from a tile to the sums of its rows."""
    return table_latency(config.table_blocks) + (tree_levels(config.codes) + 1) // 2


def accumulator_cycles(config: Config) -> int:
    """Cycles from the sum of a tile row to an element: accumulate and, where sums can be too wide, round and shift."""
    return 3 if config.shift_max else 1


SLOT_READ_CYCLES = 2       # in a slot, from the number of a beat to its activations
SLOT_DOT_CYCLES = 2        # in a slot, from trits to the sum of a tile
SLOT_REPORT_CYCLES = 1     # from the last element of an operation to the first peak


def fill_cycles(config: Config, op: Op) -> int:
    """Engine: until it takes the first tile."""
    if config.slots > 1:
        return 0
    block = config.block_beats + table_cycles(config.code_trits)
    return TABLE_READY_CYCLES + (1 + op.blocks * block if op.fill else 0)


def tile_cycles(config: Config, op: Op, slots: int = 1) -> int:
    """Engine: in which it takes the tiles of an operation if they are there, with this many slots in use.

    Slots share the way of their elements, so one element of each takes as many cycles as there are slots, or more.
    """
    tiles = op.groups * op.planes * op.blocks
    if config.slots > 1:
        element = op.planes * op.blocks
        return element + (op.groups - 1) * max(element, slots)
    if config.weight_source == "sdram" and tiles > DECODED_TILES:
        return DECODED_TILES + (tiles - DECODED_TILES) * tile_words(config)
    return tiles


def tile_words(config: Config) -> int:
    """Words of the SDRAM stream in one tile."""
    return config.rows * config.columns // BASE3_WORD_TRITS


def slot_latency(config: Config) -> int:
    """Cycles from a tile to the element of the first slot: on the way into the slot, in it, and between all slots."""
    return 1 + SLOT_READ_CYCLES + SLOT_DOT_CYCLES + 1 + accumulator_cycles(config)


def engine_cycles(config: Config, op: Op, slots: int = 1) -> int:
    """Engine: while its weight source never starves it and the scalar unit takes each peak at once.

    An engine with slots takes a tile per cycle and ends with an element and a peak of each slot in use.
    """
    if config.slots > 1:
        drain = slot_latency(config) + slots + SLOT_REPORT_CYCLES + slots - 1
    else:
        drain = row_latency(config) + accumulator_cycles(config) + 1 + peak_steps(config.rows)
    return fill_cycles(config, op) + tile_cycles(config, op, slots) + drain


def written_cycle(config: Config, op: Op, group: int) -> int:
    """Cycles from the acceptance of a MATVEC to the write of a group of rows, while weights never starve it."""
    tiles = op.planes * op.blocks * (group + 1)
    return fill_cycles(config, op) + tiles + row_latency(config) + accumulator_cycles(config)


REDUCTION_FAN_IN = 4       # values that one stage of a reduction over lanes combines


def reduction_stages(lanes: int) -> int:
    """Cycles of a pipelined reduction; its last stage leaves one input to the running result."""
    stages = 1
    while lanes >= REDUCTION_FAN_IN:
        lanes = -(-lanes // REDUCTION_FAN_IN)
        stages += 1
    return stages


SILU_CYCLES = 3            # of the look-up before a lane's operands, for SILU and SIGMOID
VECTOR_PIPELINE_CYCLES = 7  # address, data, operands, multiply, shift, add, saturate


def vector_cycles(config: Config, op: Op) -> int:
    """Vector unit, VECTOR: while no other unit delivers a scalar in the cycles in which it does."""
    beats, start = op.beats, 1
    match VectorFn(op.fn):
        case VectorFn.SCALE if op.segmented:
            start, finish = 3, config.segments * beats - 1
        case VectorFn.SCALE:
            start, finish = 3, beats - 1
        case VectorFn.ADD:
            start, finish = 3, 2 * beats - 2
        case VectorFn.SQUARE:
            finish = beats - 2
        case VectorFn.ROTATE:
            finish = 2 * beats - 1
        case VectorFn.GATE:
            finish = 2 * beats + 1
        case VectorFn.PRODUCT:
            start, finish = 3, 2 * beats + 1
        case VectorFn.SILU | VectorFn.SIGMOID:
            finish = beats - 1 + SILU_CYCLES
    return start + finish + VECTOR_PIPELINE_CYCLES + peak_cycles(config, op)


def peak_cycles(config: Config, op: Op) -> int:
    """Vector unit: from the last write to the scalar that ends an operation."""
    return reduction_stages(config.lanes) if ends_with_scalar(op) else 0


def ends_with_scalar(op: Op) -> bool:
    """Whether a unit delivers a scalar as its last deed: every operation of those that can, but for unwanted peaks."""
    has_sum = op.opcode == Opcode.VECTOR and op.fn == VectorFn.SQUARE
    return op.opcode not in (Opcode.VECTOR, Opcode.EMBED) or op.rd != NO_SCALAR or has_sum


def embed_cycles(config: Config, op: Op) -> int:
    """Vector unit, EMBED: as `vector_cycles`."""
    return 2 + op.beats + VECTOR_PIPELINE_CYCLES + peak_cycles(config, op)


def scalar_cycles(config: Config, op: Op) -> int:
    """Scalar unit."""
    interpolate = 3 if op.fn in (ScalarFn.RECIPROCAL, ScalarFn.RSQRT) else 0
    return 4 + interpolate + (0 if op.rb == NO_SCALAR else 2)


def rotary_cycles(config: Config, op: Op) -> int:
    """Rotary unit."""
    return 5 * (config.head_dim // 2) + 5


EXP2_CYCLES = 5
SCORE_SHIFT_CYCLES = 3     # after the adder tree: fine shift, rounding, coarse shift
RESULT_SLACK = 4           # cycles left to the sums of the heads, which go after the scalars of all other units
OPERAND_CYCLES = 4         # from an address of the KV cache to its word in the multipliers' operand registers


def score_cycles(head_dim: int) -> int:
    """Attention unit, from products to a score."""
    return (head_dim - 1).bit_length() + SCORE_SHIFT_CYCLES


def attention_cycles(config: Config, op: Op, position: int) -> int:
    """Attention unit: while other units deliver at most `RESULT_SLACK` scalars in the cycles in which it does."""
    score = OPERAND_CYCLES + 1 + score_cycles(config.head_dim)
    probability = 1 + 2 + EXP2_CYCLES
    return 2 * min(position, op.reach) + 2 + score + probability + config.heads_parallel + RESULT_SLACK


SAMPLER_PIPELINE_CYCLES = 9  # start, address, data, logit, product, rounding, shift, saturation, key


def sampler_cycles(config: Config, op: Op, greedy: bool) -> int:
    """Sampler: the same with and without noise."""
    chunks = -(-op.count // config.sampler_lanes)
    return chunks + SAMPLER_PIPELINE_CYCLES + (config.sampler_lanes - 1).bit_length()


def remember_cycles(config: Config, *, first: bool) -> int:
    """Drafter: from a token to its first draft and to the next token; the first one lets it forget the text before."""
    return DRAFT_CYCLES + len(RECENT_TOKENS) + (config.recent_words if first else 0)


def sample_delay(config: Config, matvec: Op, sample: Op) -> int:
    """Least cycles from the acceptance of a MATVEC to that of a SAMPLE that reads its elements as they are written."""
    chunks = range(0, sample.count, config.sampler_lanes)
    last_read = ((min(first + config.sampler_lanes, sample.count) - 1) // config.rows for first in chunks)
    # An address given two cycles after a write reads what it wrote; that of the first chunk is given after two.
    return max(written_cycle(config, matvec, group) - chunk for chunk, group in enumerate(last_read))
