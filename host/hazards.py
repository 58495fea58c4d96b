"""What each operation of a token program reads and writes, and where two that overlap would disturb each other."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil

from host.predict import Span
from rtl import timing
from rtl.config import Config
from rtl.isa import JOINT, NO_SCALAR, TEMPERATURE_SCALAR, Op, Opcode, Target, VectorFn

# Where a value lies: a kind of memory, and the place in it.
Place = tuple[str, int]
SLOT_SHIFT = 16            # the slot's number leads a place of its own
CONSTANTS = frozenset((NO_SCALAR, TEMPERATURE_SCALAR))
PAIRED = (VectorFn.ADD, VectorFn.GATE, VectorFn.PRODUCT)     # functions of two vectors
NARROW = (Target.QUERY, Target.KEY, Target.VALUE)


@dataclass(frozen=True)
class Access:
    """The places that an operation reads and writes, and the ports of vector memory that it needs for itself."""

    reads: frozenset[Place]
    writes: frozenset[Place]
    ports: frozenset[str]

    def clash(self, later: "Access") -> frozenset:
        """Why a later operation must not begin before this one has ended; nothing if it may."""
        return (self.writes & (later.reads | later.writes)) | (self.reads & later.writes) | (self.ports & later.ports)


def access(config: Config, op: Op) -> Access:
    """What an operation touches."""
    reads, writes = set(_reads(config, op)), set(_writes(config, op))
    ports = set()
    if op.opcode == Opcode.SAMPLE or op.opcode == Opcode.VECTOR:
        ports.add("read")
    # With slots the engine's beats wait in a queue for a cycle in which the vector unit writes nothing.
    if config.slots == 1 and any(kind == "vector" and beat < config.engine_beats for kind, beat in writes):
        ports.add("write")
    return Access(frozenset(reads), frozenset(writes), frozenset(ports))


def _reads(config: Config, op: Op) -> Iterator[Place]:
    match op.opcode:
        case Opcode.MATVEC:
            yield "tables", 0
            if op.fill:
                yield from places("activation", op.src, op.blocks * config.block_beats)
        case Opcode.VECTOR:
            yield from places("vector", op.src, op.beats)
            if op.fn in PAIRED:
                yield from places("vector", op.src2, op.beats)
            if op.fn == VectorFn.ROTATE:
                yield "factors", 0
            yield from scalars(_factors(config, op))
        case Opcode.EMBED:
            yield "token", 0
            yield from scalars((op.ra,))
        case Opcode.SCALAR:
            yield from scalars((op.ra, op.rb))
        case Opcode.ATTEND:
            yield "query", 0
            yield from places("key", op.slot, 1)
            yield from places("value", op.slot, 1)
        case Opcode.SAMPLE:
            yield from places("vector", op.src, ceil(op.count / config.lanes))
            yield from scalars((op.ra,))


def _factors(config: Config, op: Op) -> tuple[int, ...]:
    """Scalar registers that a vector operation reads."""
    match op.fn:
        case VectorFn.SCALE if op.segmented:
            return tuple(range(op.ra, op.ra + op.beats * config.segments))
        case VectorFn.SCALE if op.target in NARROW:
            return op.ra, op.rb
        case VectorFn.SCALE | VectorFn.ADD:
            return (op.ra,)
        case VectorFn.GATE:
            return op.ra, op.rb
        case VectorFn.PRODUCT:
            return (op.rb,)
    return ()


def _writes(config: Config, op: Op) -> Iterator[Place]:
    match op.opcode:
        case Opcode.MATVEC:
            if op.fill:
                yield "tables", 0
            yield from places("vector", op.dst, ceil(op.groups * config.rows / config.lanes))
            yield "scalar", op.rd
        case Opcode.VECTOR:
            kind = {Target.VECTOR: "vector", Target.ACTIVATION: "activation", Target.KEY: "key", Target.VALUE: "value",
                    Target.QUERY: "query"}.get(op.target)
            if kind:
                whole = kind in ("vector", "activation")
                yield from places(kind, 0 if kind == "query" else op.dst, op.beats if whole else 1)
            yield "scalar", op.rd
            if op.fn == VectorFn.SQUARE:
                yield "scalar", op.rb
            if op.fn in (VectorFn.GATE, VectorFn.PRODUCT):
                yield "scalar", op.rc
        case Opcode.EMBED:
            yield from places("vector", op.dst, op.beats)
            yield "scalar", op.rd
        case Opcode.SCALAR:
            yield "scalar", op.rd
        case Opcode.ATTEND:
            yield from places("vector", config.attention_beat, config.query_groups * config.word_beats)
            yield from scalars(range(op.rd, op.rd + config.heads_parallel))
        case Opcode.SAMPLE:
            yield "token", 0
        case Opcode.ROTARY:
            yield "factors", 0


def places(kind: str, first: int, count: int) -> Iterator[Place]:
    """Neighbours in one memory."""
    return ((kind, first + index) for index in range(count))


def scalars(registers: Iterable[int]) -> Iterator[Place]:
    """Registers, but for those that no operation writes."""
    return (("scalar", register) for register in registers if register not in CONSTANTS)


def accesses(config: Config, program: list[Op]) -> list[Access]:
    """What each operation touches, without scalars that none reads: they may be written in any order."""
    found = [access(config, op) for op in program]
    read = {place for one in found for place in one.reads}
    return [Access(one.reads, frozenset(place for place in one.writes if place[0] != "scalar" or place in read),
                   one.ports) for one in found]


def in_slots(config: Config, touched: Access, slots: Iterable[int]) -> Access:
    """What an operation touches for some slots: vectors, scalars and activations of their own, all else in common."""
    def own(places: frozenset[Place]) -> frozenset[Place]:
        return frozenset((kind, place | slot << SLOT_SHIFT if _is_own(config, kind, place) else place)
                         for kind, place in places for slot in slots)
    return Access(own(touched.reads), own(touched.writes), touched.ports)


def _is_own(config: Config, kind: str, place: int) -> bool:
    return kind in ("scalar", "activation") or kind == "vector" and place < config.attention_beat


def check_hazards(config: Config, spans: list[Span]) -> None:
    """Prove that no two operations of a pass that run at once disturb each other.

    A SAMPLE may read what a MATVEC still writes if it stays behind it, see `timing.sample_delay`.

    Raises
    ------
    ValueError: two do; the message names them and what both touch.
    """
    slots = range(1 + max(span.slot for span in spans))
    touched = [in_slots(config, one, slots if span.op.opcode in JOINT else [span.slot])
               for span, one in zip(spans, accesses(config, [span.op for span in spans]), strict=True)]
    running: list[int] = []
    for later, span in enumerate(spans):
        running = [earlier for earlier in running if spans[earlier].end > span.start]
        for earlier in running:
            clash = touched[earlier].clash(touched[later])
            if clash and not _follows(config, spans[earlier], span):
                raise ValueError(f"operation {later} {span.op} starts in cycle {span.start}, while operation {earlier} "
                                 f"{spans[earlier].op} runs until {spans[earlier].end}: {min(map(str, clash))}")
        running.append(later)


def _follows(config: Config, earlier: Span, later: Span) -> bool:
    """Whether a sampler reads logits behind the engine that writes them."""
    if config.weight_source != "ebr" or (earlier.op.opcode, later.op.opcode) != (Opcode.MATVEC, Opcode.SAMPLE):
        return False
    return earlier.op.dst == later.op.src and (
        later.start - earlier.start >= timing.sample_delay(config, earlier.op, later.op))
