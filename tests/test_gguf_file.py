"""GGUF headers: counts, lengths, types and offsets checked; formats that cannot be read exactly refused by name."""

import struct
from pathlib import Path

import pytest

from host.errors import TritloomError
from host.gguf_file import MAX_ARRAY_DEPTH, GgufArray, read_gguf
from tests.containers import gguf_bytes, gguf_string, write, write_sparse

METADATA = {"general.architecture": "bitnet-b1.58", "bitnet-b1.58.block_count": ("u32", 30),
            "general.flag": ("bool", 1), "tokenizer.ggml.tokens": ["a", "bc"]}
TENSORS = {
    "f": ("F32", (2, 3), bytes(range(24))),
    "one": ("TQ1_0", (2, 256), bytes(range(108))),
    "two": ("TQ2_0", (1, 512), bytes(range(132))),
    "int": ("I2_S", (4, 64), bytes(range(64)) + bytes(32)),
}
HEADER = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k")


def refusal(path: Path) -> str:
    with pytest.raises(TritloomError) as refused:
        read_gguf(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [32, 64])
def test_header_is_read(tmp_path: Path, version: int, alignment: int) -> None:
    """Dimensions in file order, offsets counted from the wrong place, or another alignment than the file's."""
    metadata = METADATA | {"general.alignment": ("u32", alignment)}
    file = read_gguf(write(tmp_path / "m.gguf", gguf_bytes(metadata, TENSORS, version=version, alignment=alignment)))
    assert file.metadata["bitnet-b1.58.block_count"] == 30
    assert file.metadata["general.flag"] is True
    assert file.metadata["tokenizer.ggml.tokens"] == GgufArray(2, ("a", "bc"))
    for name, (dtype, shape, content) in TENSORS.items():
        entry = file.tensors[name]
        assert (entry.dtype, entry.shape) == (dtype, shape)
        assert entry.read().tobytes() == content, name


def test_vocabularies_are_passed_over(tmp_path: Path) -> None:
    """A long array read as the next key, or kept in memory."""
    metadata = METADATA | {"tokenizer.ggml.tokens": ["token"] * 1000, "tokenizer.ggml.types": [("u32", 1)] * 1000}
    file = read_gguf(write(tmp_path / "m.gguf", gguf_bytes(metadata, TENSORS)))
    assert file.metadata["tokenizer.ggml.tokens"] == GgufArray(1000, ())
    assert file.tensors["f"].read().tobytes() == TENSORS["f"][2]


@pytest.mark.parametrize(("data", "message"), [
    (b"", "truncated at byte 0"),
    (b"GGML" + bytes(40), "does not start with GGUF"),
    (gguf_bytes(METADATA, TENSORS, version=1), "version 1; little-endian versions 2 and 3"),
    (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "a number of tensors of"),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "a number of metadata entries of"),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 63), "a key length of"),
    (HEADER + struct.pack("<IQ", 8, 1 << 40), "a string length of"),
    (HEADER + struct.pack("<I", 99), "unknown metadata type 99"),
    (HEADER + struct.pack("<IB", 7, 2), "a boolean of 2"),
    (HEADER + struct.pack("<IIQ", 9, 4, 1 << 50), "an array length of"),
    (HEADER + struct.pack("<IIQ", 9, 10, 1 << 19), "truncated at byte"),
    (HEADER + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * (MAX_ARRAY_DEPTH + 1), "nested deeper than 4"),
    (gguf_bytes({"k": "v"}, {}).replace(b"v", b"\xff"), "utf-8"),
    (gguf_bytes(METADATA, TENSORS)[:100], "truncated at byte"),
    (gguf_bytes(METADATA, TENSORS)[:-40], "truncated: tensor 'int' ends"),
    (gguf_bytes({"general.alignment": ("u32", 48)}, {}), "general.alignment of 48"),
    (gguf_bytes({"general.alignment": ("u32", 0)}, {}), "general.alignment of 0"),
    (gguf_bytes({}, {"f": ("F32", (), b"")}), "has 0 dimensions"),
    (gguf_bytes({}, {"f": ("F32", (1, 1, 1, 1, 1), b"")}), "has 5 dimensions"),
    (gguf_bytes({}, {"f": ("F32", (0, 3), b"")}), "a dimension of 0"),
    (gguf_bytes({}, {"f": ("F32", (1 << 63, 1 << 63), b"")}), "truncated: tensor 'f' ends"),
    (gguf_bytes({}, {"f": ("TQ1_0", (2, 128), bytes(54))}), "rows of 128, TQ1_0 has blocks of 256"),
    (gguf_bytes({}, TENSORS | {"a\nb": TENSORS["f"]}), "unprintable"),
    (gguf_bytes(METADATA, TENSORS, offsets={"one": 0}), "tensors 'f' and 'one' overlap"),
    (gguf_bytes(METADATA, TENSORS, offsets={"one": 40}), "tensor 'one' is not aligned"),
    (gguf_bytes(METADATA, TENSORS, offsets={"one": 1 << 62}), "truncated: tensor 'one' ends"),
])
def test_damaged_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """A traceback, a hang, or memory taken for a count that the file cannot hold."""
    assert message in refusal(write(tmp_path / "m.gguf", data))


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    """The second one silently taking the place of the first."""
    data = gguf_bytes(METADATA, TENSORS).replace(gguf_string("two"), gguf_string("one"))
    assert "one tensor name twice" in refusal(write(tmp_path / "m.gguf", data))


def test_long_arrays_of_a_sparse_file_end_soon(tmp_path: Path) -> None:
    """Minutes spent in a file of zeros, each eight of which are an empty string."""
    entry = gguf_string("k") + struct.pack("<IIQ", 9, 8, 1 << 20)
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 4) + entry
    assert "key" in refusal(write_sparse(tmp_path / "m.gguf", header, 1 << 40))


@pytest.mark.parametrize(("kind", "message"), [
    ("TL1", "is TL1, tiled for one processor's kernel; use the I2_S, TQ1_0 or TQ2_0 file"),
    ("TL2", "is TL2, tiled for one processor's kernel; use the I2_S, TQ1_0 or TQ2_0 file"),
    (10, "is type 10, no ternary format known here; use the I2_S"),
])
def test_formats_that_cannot_be_read_are_named(tmp_path: Path, kind: str | int, message: str) -> None:
    """Weights decoded with another format's layout, which gives a model that speaks nonsense."""
    data = gguf_bytes(METADATA, TENSORS | {"w": (kind, (4, 256), bytes(256))})
    assert message in refusal(write(tmp_path / "m.gguf", data))


@pytest.mark.parametrize(("metadata", "shape", "size", "message"), [
    ({"general.architecture": "llama"}, (4, 64), 96, "general.architecture is 'llama'"),
    ({}, (4, 64), 96, "general.architecture is 'None'"),
    (METADATA, (4, 65), 97, "260 elements, not a multiple of 128"),
    (METADATA, (4, 64), 144, "160 bytes of room, it would take 96"),
])
def test_ambiguous_i2s_is_refused(tmp_path: Path, metadata: dict[str, object], shape: tuple[int, int], size: int,
                                  message: str) -> None:
    """Another program's type 36, or another build's interleaving, taken for the published layout."""
    data = gguf_bytes(metadata, {"w": ("I2_S", shape, bytes(size)), "f": TENSORS["f"]})
    answer = refusal(write(tmp_path / "m.gguf", data))
    assert message in answer and "use the TQ1_0 or TQ2_0 file" in answer
