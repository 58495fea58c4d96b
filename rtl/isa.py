"""The token program: macro-operations that the sequencer issues, one 72-bit word each.

Pure Python: the compiler encodes, the golden model interprets and the gateware decodes from these tables.
Operations issue in order. One issues when every unit named in its ``wait`` mask is idle, and its own unit is too, which
the mask of a program word names as well.
Where tokens share a pass, what lies between two operations of ``JOINT`` is done for one slot after the other; these
themselves serve all slots at once.
"""

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

from rtl.config import TILE_ADDRESS_BITS, UNFILLED_BITS

PROGRAM_BITS = 72
SCALARS = 32               # scalar registers; each holds mantissa * 2**exponent
MANTISSA_BITS = 16         # in [2**15, 2**16)
SCALAR_EXPONENT_BITS = 9   # signed


class Opcode(IntEnum):
    """What the sequencer dispatches."""

    END = 0       # token finished: counters latch, the next token starts or the run ends
    EMBED = 1     # vector unit: scaled row of the embedding memory (of the token, or ``row``) -> vector memory
    MATVEC = 2    # engine: activations x weight tiles -> vector memory
    VECTOR = 3    # vector unit
    SCALAR = 4    # scalar unit
    ATTEND = 5    # attention unit over its position and ``reach`` before it: sums of its heads -> S(rd), S(rd + 1), ...
    SAMPLE = 6    # sampler
    ROTARY = 7    # rotary unit: sine and cosine of the current position
    SECTION = 8   # all slots get here before one goes on; with ``reads`` a pass ends that only reads the prompt


class Unit(IntFlag):
    """Units that an operation may wait for."""

    ENGINE = 1
    VECTOR = 2
    SCALAR = 4
    ATTENTION = 8
    SAMPLER = 16
    ROTARY = 32


UNIT_OF = {
    Opcode.END: Unit(0), Opcode.EMBED: Unit.VECTOR, Opcode.MATVEC: Unit.ENGINE, Opcode.VECTOR: Unit.VECTOR,
    Opcode.SCALAR: Unit.SCALAR, Opcode.ATTEND: Unit.ATTENTION, Opcode.SAMPLE: Unit.SAMPLER,
    Opcode.ROTARY: Unit.ROTARY, Opcode.SECTION: Unit(0),
}


JOINT = (Opcode.END, Opcode.MATVEC, Opcode.SECTION)


class VectorFn(IntEnum):
    """Functions of the vector unit; every one leaves the peak ``max |out|`` in ``S(rd)``, but for NO_SCALAR.

    ``a`` is VM[src+i], ``b`` is VM[src2+i], ``S(r)`` a scalar register; from ``Config.attention_beat`` on, VM are the
    beats of the attention unit.
    """

    SCALE = 0     # out = a * S(ra)
    ADD = 1       # out = b + a * S(ra)
    SQUARE = 2    # out = a; the sum of a**2 >> SQUARE_SHIFT plus (dst << 8 | src2) -> S(rb)
    ROTATE = 3    # out = rotary(a)
    GATE = 4      # out = relu(a)**2 * b, block-scaled by the peaks S(ra), S(rb); the block scale -> S(rc)
    PRODUCT = 5   # out = a * b, block-scaled by the peak S(rb); the block scale -> S(rc); ra is NO_SCALAR
    SILU = 6      # out = silu(a), a and out with SILU_FRACTION fraction bits
    SIGMOID = 7   # out = (sigmoid(a) - 1) * SIGMOID_ONE, a with SILU_FRACTION fraction bits


class Target(IntEnum):
    """Where the vector unit writes."""

    VECTOR = 0      # vector memory, 18 bits
    ACTIVATION = 1  # activation buffer of the engine, int8
    QUERY = 2       # query registers of the attention unit, int8; block exponent from S(rb)
    KEY = 3         # KV cache, keys of slot dst, int8; block exponent from S(rb)
    VALUE = 4       # KV cache, values of slot dst, int8; block exponent from S(rb)
    NONE = 5        # only the statistics are wanted


class ScalarFn(IntEnum):
    """``S(rd) = fn(S(ra)) * S(rb) * immediate``; ``rb == NO_SCALAR`` counts as one."""

    MUL = 0
    RECIPROCAL = 1
    RSQRT = 2
    BLOCK = 3     # 2**-k with k = max(0, bits - 7): maps a peak of that many bits to int8


NO_SCALAR = 31             # register index that reads as one
TEMPERATURE_SCALAR = 30    # register index that reads the run's inverse temperature
HISTORY_SCALAR = 29        # reads one, and at position 0 nothing; an ordinary register without has_recurrence
SQUARE_SHIFT = 8           # low bits dropped from each square
SCALE_MANTISSA_BITS = 14   # bits of a scalar's mantissa that reach the lanes
SCALE_SHIFT_STEP = 4       # lane shifts are multiples of this ...
SCALE_SHIFT_MAX = 28       # ... up to this

# name, width; packed from bit 0 upwards in this order after the common fields. MATVEC with ``fill`` takes its last
# ``unfilled`` beats of activations as zero, until the next that fills; only where codes are of four trits.
COMMON = (("opcode", 4), ("wait", 6))
FIELDS: dict[Opcode, tuple[tuple[str, int], ...]] = {
    Opcode.END: (),
    Opcode.EMBED: (("dst", 8), ("beats", 7), ("ra", 5), ("rd", 5), ("row", 16), ("fixed", 1)),
    Opcode.MATVEC: (("src", 8), ("blocks", 7), ("fill", 1), ("groups", 12), ("planes", 3), ("dst", 8),
                    ("shift", 4), ("rd", 5), ("address", TILE_ADDRESS_BITS), ("unfilled", UNFILLED_BITS)),
    Opcode.VECTOR: (("fn", 3), ("target", 3), ("src", 8), ("src2", 8), ("dst", 8), ("beats", 7), ("ra", 5),
                    ("rb", 5), ("rc", 5), ("rd", 5), ("segmented", 1)),
    Opcode.SCALAR: (("fn", 2), ("ra", 5), ("rb", 5), ("rd", 5), ("mantissa", 16), ("exponent", 9)),
    Opcode.ATTEND: (("slot", 8), ("rd", 5), ("reach", 16)),
    Opcode.SAMPLE: (("src", 8), ("count", 13), ("ra", 5)),
    Opcode.ROTARY: (),
    Opcode.SECTION: (("reads", 1),),
}


@dataclass(frozen=True)
class Op:
    """One macro-operation: an opcode, the units it waits for, and its fields by name."""

    opcode: Opcode
    wait: Unit = Unit(0)
    fields: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Fields are read as attributes; an instance dictionary is several times faster than __getattr__.
        self.__dict__.update(self.fields)

    def encode(self) -> int:
        """The 72-bit program word.

        Raises
        ------
        ValueError: a field is missing, unknown, or out of range.
        """
        layout = COMMON + FIELDS[self.opcode]
        values = {"opcode": int(self.opcode), "wait": int(self.wait | UNIT_OF[self.opcode]), **self.fields}
        if unknown := set(values) - {name for name, _ in layout}:
            raise ValueError(f"{self.opcode.name} has no field {sorted(unknown)}")
        word, position = 0, 0
        for name, width in layout:
            value = values.get(name)
            if value is None:
                raise ValueError(f"{self.opcode.name} needs field {name!r}")
            if name == "exponent":
                value &= (1 << width) - 1
            if not 0 <= value < 1 << width:
                raise ValueError(f"{self.opcode.name}.{name} = {value} does not fit {width} bits")
            word |= value << position
            position += width
        return word

    @staticmethod
    def decode(word: int) -> "Op":
        """The operation behind a program word."""
        opcode = Opcode(word & 15)
        values, position = {}, 0
        for name, width in COMMON + FIELDS[opcode]:
            values[name] = word >> position & (1 << width) - 1
            position += width
        del values["opcode"]
        wait = Unit(values.pop("wait")) & ~UNIT_OF[opcode]
        if "exponent" in values and values["exponent"] >= 1 << SCALAR_EXPONENT_BITS - 1:
            values["exponent"] -= 1 << SCALAR_EXPONENT_BITS
        return Op(opcode, wait, values)


assert all(sum(width for _, width in COMMON + layout) <= PROGRAM_BITS for layout in FIELDS.values())
