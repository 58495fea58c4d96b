"""Reads the headers of GGUF files, versions 2 and 3, without trusting anything they say.

Format, little-endian: ``GGUF``, u32 version, u64 tensors, u64 metadata entries, the entries (key, u32 type, value),
the tensors (name, u32 rank, u64 per dimension with the contiguous one first, u32 type, u64 offset), padding, data.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from host.errors import TritloomError
from host.tensor_entry import TensorEntry, check_layout, open_regular

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 1 << 25
MAX_TENSORS = 1 << 16
MAX_METADATA = 1 << 12
MAX_KEY_BYTES = 1 << 12
MAX_STRING_BYTES = 1 << 20
MAX_ARRAY = 1 << 20             # the largest vocabularies have a quarter of that
MAX_ARRAY_ELEMENTS = 1 << 21    # walked one by one in a whole header: about a second
MAX_ARRAY_DEPTH = 4
KEPT_ELEMENTS = 256             # longer arrays are vocabularies, which no header question needs
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
ALIGNMENT_KEY, ARCHITECTURE_KEY = "general.alignment", "general.architecture"

U64 = struct.Struct("<Q")
SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
BOOL, STRING, ARRAY = 7, 8, 9
# Name, elements and bytes of a block. The Q formats are those in which ternary files keep embedding and head.
BLOCKS = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
          8: ("Q8_0", 32, 34), 12: ("Q4_K", 256, 144), 14: ("Q6_K", 256, 210)}
I2_S = 36
I2_S_BLOCK = 128                # elements whose two-bit codes interleave
I2_S_TAIL_BYTES = 32            # the tensor's scale, fp32, and padding
I2_S_ARCHITECTURES = ("bitnet", "bitnet-25", "bitnet-b1.58")
LUT_TYPES = {38: "TL1", 39: "TL2"}
INSTEAD = "use the I2_S, TQ1_0 or TQ2_0 file of the same model, or its safetensors"


@dataclass(frozen=True)
class GgufArray:
    """A metadata array; ``values`` is empty where it is nested or has more than ``KEPT_ELEMENTS`` elements."""

    count: int
    values: tuple[object, ...]


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF header says.

    Members
    -------
    metadata : integers, floats, booleans, strings and `GgufArray`, by key.
    tensors : entries by name; shapes are outermost dimension first, as numpy has them.
    """

    metadata: dict[str, object]
    tensors: dict[str, TensorEntry]


def read_gguf(path: Path) -> GgufFile:
    """The header of a GGUF file, every count, length, type and offset checked against the file's size.

    Raises
    ------
    TritloomError: not GGUF, damaged, or a tensor is in a format that cannot be read exactly; the message names it.
    """
    file, file_bytes = open_regular(path)
    try:
        with file:
            data = file.read(MAX_HEADER_BYTES)
        return _read(path, _Reader(data), file_bytes)
    except (ValueError, OSError) as error:
        raise TritloomError(f"{path}: not a readable GGUF file ({error}); fetch it again") from error


class _Reader:
    """Takes values from the front of a file, of which at most ``MAX_HEADER_BYTES`` are read."""

    def __init__(self, data: bytes) -> None:
        self._data, self.position, self._walked = data, 0, 0

    def require(self, size: int) -> None:
        if size > len(self._data) - self.position:
            raise ValueError(f"its header is truncated at byte {self.position}, or larger than {MAX_HEADER_BYTES}")

    def take(self, size: int) -> bytes:
        self.require(size)
        self.position += size
        return self._data[self.position - size : self.position]

    def skip(self, size: int) -> None:
        self.require(size)
        self.position += size

    def skip_strings(self, count: int) -> None:
        data, position, last = self._data, self.position, len(self._data) - 8
        for _ in range(count):
            if position > last:
                raise ValueError(f"its header is truncated at byte {position}, or larger than {MAX_HEADER_BYTES}")
            size = U64.unpack_from(data, position)[0]
            if size > MAX_STRING_BYTES:
                raise ValueError(f"a string length of {size}, the most is {MAX_STRING_BYTES}")
            position += 8 + size
        self.skip(position - self.position)

    def scalar(self, kind: int) -> object:
        format_ = SCALARS[kind]
        data = self.take(struct.calcsize(format_))
        if kind == BOOL and data[0] > 1:
            raise ValueError(f"a boolean of {data[0]}")
        return struct.unpack(format_, data)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return U64.unpack(self.take(8))[0]

    def count(self, limit: int, what: str) -> int:
        value = self.u64()
        if value > limit:
            raise ValueError(f"{what} of {value}, the most is {limit}")
        return value

    def text(self, limit: int, what: str) -> str:
        return self.take(self.count(limit, what)).decode("utf-8")

    def value(self, kind: int, depth: int = 0) -> object:
        if kind in SCALARS:
            return self.scalar(kind)
        if kind == STRING:
            return self.text(MAX_STRING_BYTES, "a string length")
        if kind != ARRAY:
            raise ValueError(f"the unknown metadata type {kind}")
        if depth == MAX_ARRAY_DEPTH:
            raise ValueError(f"arrays nested deeper than {MAX_ARRAY_DEPTH}")
        return self._array(depth)

    def _array(self, depth: int) -> GgufArray:
        kind, count = self.u32(), self.count(MAX_ARRAY, "an array length")
        if kind in SCALARS:
            if count > KEPT_ELEMENTS:
                self.skip(count * struct.calcsize(SCALARS[kind]))
                return GgufArray(count, ())
            return GgufArray(count, tuple(self.scalar(kind) for _ in range(count)))
        self._walked += count
        if self._walked > MAX_ARRAY_ELEMENTS:
            raise ValueError(f"arrays of more than {MAX_ARRAY_ELEMENTS} elements together")
        self.require(8 * count)
        if kind == STRING and count <= KEPT_ELEMENTS:
            return GgufArray(count, tuple(self.value(kind) for _ in range(count)))
        if kind == STRING:
            self.skip_strings(count)
        else:
            for _ in range(count):
                self.value(kind, depth + 1)
        return GgufArray(count, ())


def _read(path: Path, reader: _Reader, file_bytes: int) -> GgufFile:
    if reader.take(4) != MAGIC:
        raise ValueError("it does not start with GGUF")
    version = reader.u32()
    if version not in VERSIONS:
        order = "big-endian" if version & 0xFFFF == 0 else f"version {version}"
        raise ValueError(f"{order}; little-endian versions 2 and 3 can be read")
    tensor_count = reader.count(MAX_TENSORS, "a number of tensors")
    metadata: dict[str, object] = {}
    for _ in range(reader.count(MAX_METADATA, "a number of metadata entries")):
        key = reader.text(MAX_KEY_BYTES, "a key length")
        if not key or key in metadata:
            raise ValueError(f"the metadata key {key[:80]!r} twice, or an empty one")
        metadata[key] = reader.value(reader.u32())
    infos = [_tensor_info(reader) for _ in range(tensor_count)]
    start = reader.position + -reader.position % _alignment(metadata)
    entries = [_entry(path, info, start, metadata) for info in infos]
    if len({entry.name for entry in entries}) != len(entries):
        raise ValueError("one tensor name twice")
    check_layout(entries, start=start, end=file_bytes)
    _check_i2s(entries, metadata, file_bytes)
    return GgufFile(metadata, {entry.name: entry for entry in entries})


def _alignment(metadata: dict[str, object]) -> int:
    alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= MAX_ALIGNMENT or alignment & alignment - 1:
        raise ValueError(f"{ALIGNMENT_KEY} of {str(alignment)[:40]}, which is no power of two from 8 to "
                         f"{MAX_ALIGNMENT}")
    return alignment


def _tensor_info(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape with the contiguous dimension last, type number, offset in the data."""
    name = reader.text(MAX_KEY_BYTES, "a tensor name length")
    if not name or not name.isprintable():
        raise ValueError("a tensor name that is empty or unprintable")
    rank = reader.u32()
    if not 1 <= rank <= MAX_DIMENSIONS:
        raise ValueError(f"tensor {name[:80]!r} has {rank} dimensions, the most is {MAX_DIMENSIONS}")
    shape = tuple(reader.u64() for _ in range(rank))[::-1]
    if not all(shape):
        raise ValueError(f"tensor {name[:80]!r} has a dimension of 0")
    return name, shape, reader.u32(), reader.u64()


def _entry(path: Path, info: tuple[str, tuple[int, ...], int, int], start: int,
           metadata: dict[str, object]) -> TensorEntry:
    name, shape, kind, offset = info
    if offset % _alignment(metadata):
        raise ValueError(f"tensor {name[:80]!r} is not aligned")
    elements = math.prod(shape)
    if kind in BLOCKS:
        dtype, block, block_bytes = BLOCKS[kind]
        if shape[-1] % block:
            raise ValueError(f"tensor {name[:80]!r} has rows of {shape[-1]}, {dtype} has blocks of {block}")
        return TensorEntry(name, dtype, shape, path, start + offset, elements // block * block_bytes)
    if kind != I2_S:
        found = LUT_TYPES.get(kind, f"type {kind}")
        why = "tiled for one processor's kernel" if kind in LUT_TYPES else "no ternary format known here"
        raise TritloomError(f"{path}: tensor {name[:80]!r} is {found}, {why}; {INSTEAD}")
    if elements % I2_S_BLOCK:
        raise _ambiguous(path, name, f"{elements} elements, not a multiple of {I2_S_BLOCK}")
    return TensorEntry(name, "I2_S", shape, path, start + offset, elements // 4 + I2_S_TAIL_BYTES)


def _ambiguous(path: Path, name: str, reason: str) -> TritloomError:
    return TritloomError(f"{path}: tensor {name[:80]!r} is not the published I2_S layout ({reason}); use the TQ1_0 or "
                         "TQ2_0 file of the same model, or its safetensors")


def _check_i2s(entries: list[TensorEntry], metadata: dict[str, object], file_bytes: int) -> None:
    """Refuse what only shares its type number with I2_S.

    Other programs number another format 36, and other builds of bitnet.cpp interleave I2_S otherwise. The header
    cannot tell all of them apart, but a foreign architecture or a tensor whose room is not a quarter byte per element
    plus the tail is certainly not the published layout.
    """
    architecture, alignment = metadata.get(ARCHITECTURE_KEY), _alignment(metadata)
    ordered = sorted(entries, key=lambda entry: entry.offset)
    ends = [entry.offset for entry in ordered[1:]] + [file_bytes]
    for entry, end in zip(ordered, ends, strict=False):
        if entry.dtype != "I2_S":
            continue
        if architecture not in I2_S_ARCHITECTURES:
            raise _ambiguous(entry.path, entry.name, f"{ARCHITECTURE_KEY} is {str(architecture)[:40]!r}")
        if end - entry.offset - entry.size_bytes >= alignment:
            raise _ambiguous(entry.path, entry.name, f"{end - entry.offset} bytes of room, it would take "
                             f"{entry.size_bytes}")
