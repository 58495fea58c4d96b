"""Safetensors headers: every field checked before it is used, shards joined as their index says."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from host.errors import TritloomError
from host.safetensors_files import MAX_HEADER_BYTES, read_safetensors, read_safetensors_file
from tests.containers import safetensors_bytes, write, write_sparse

TENSORS = {"a": ("F32", (2, 3), bytes(range(24))), "b": ("U8", (4,), b"wxyz")}


def refusal(path: Path) -> str:
    with pytest.raises(TritloomError) as refused:
        read_safetensors(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_tensors_are_those_the_format_s_own_library_writes(tmp_path: Path) -> None:
    """An offset counted from the wrong place, or a shape or dtype read from another tensor."""
    rng = np.random.default_rng(0)
    tensors = {"x": rng.normal(size=(3, 5)).astype(np.float32), "y": rng.integers(0, 255, (7, 2), np.uint8),
               "empty": np.zeros((0, 4), np.float16), "scalar": np.array(2.5, np.float64)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "np"})
    entries = read_safetensors(tmp_path)
    assert set(entries) == set(tensors)
    for name, tensor in tensors.items():
        assert entries[name].shape == tensor.shape
        assert entries[name].read().tobytes() == tensor.tobytes(), name
    assert entries["x"].dtype == "F32"


@pytest.mark.parametrize(("changes", "message"), [
    ({"dtype": "Q4"}, "unknown dtype 'Q4'"),
    ({"dtype": ["F32"]}, "unknown dtype"),
    ({"shape": [2, 4]}, "has 24 bytes, its shape asks for 32"),
    ({"shape": [-2, -3]}, "shape that is not up to 8 counts"),
    ({"shape": [True] * 6}, "shape that is not up to 8 counts"),
    ({"shape": [1 << 40, 1 << 40, 1 << 40]}, "has 24 bytes, its shape asks for"),
    ({"shape": [1] * 9}, "shape that is not up to 8 counts"),
    ({"shape": 6}, "shape that is not up to 8 counts"),
    ({"data_offsets": [0, 1 << 64]}, "data_offsets that are not two counts"),
    ({"data_offsets": [0]}, "data_offsets that are not two counts"),
    ({"data_offsets": [24, 0]}, "has -24 bytes"),
    ({"data_offsets": [4, 28]}, "tensors 'a' and 'b' overlap"),
    ({"data_offsets": [1 << 40, (1 << 40) + 24]}, "truncated: tensor 'a' ends"),
    ({"strides": [1]}, "needs exactly dtype, shape and data_offsets"),
])
def test_contradictory_entries_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    """A field of the header trusted: an allocation of its size, or bytes of another tensor."""
    path = write(tmp_path / "model.safetensors", safetensors_bytes(TENSORS, a=changes))
    assert message in refusal(path)


@pytest.mark.parametrize(("data", "message"), [
    (b"", "only 0 bytes"),
    (b"\xff" * 8, "a header of 18446744073709551615 bytes"),
    (struct.pack("<Q", 100) + b"{}", "truncated inside its header"),
    (struct.pack("<Q", 2) + b"[]", "not an object"),
    (struct.pack("<Q", 4) + b"\xff\xfe{}", "utf-8"),
    (struct.pack("<Q", 6000) + b'{"a":' + b"[" * 5995, "nested too deep"),
    (struct.pack("<Q", 15) + b'{"a":1,"a":NaN}', "NaN is no JSON number"),
    (struct.pack("<Q", 13) + b'{"a":1,"a":2}', "one key twice"),
    (struct.pack("<Q", 5005) + b'{"a":' + b"9" * 4999 + b"}", "limit"),
    (safetensors_bytes(TENSORS)[:-1], "truncated: tensor 'b' ends 1 bytes after the file"),
    (safetensors_bytes(TENSORS) + b"!", "1 bytes belong to no tensor"),
    (safetensors_bytes({"two\nlines": TENSORS["a"]}), "unprintable"),
])
def test_damaged_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """A traceback, or memory taken for a length that the file cannot hold."""
    assert message in refusal(write(tmp_path / "model.safetensors", data))


def test_large_headers_are_refused_unread(tmp_path: Path) -> None:
    """Gigabytes of header read because the file is long enough."""
    header = struct.pack("<Q", MAX_HEADER_BYTES + 1)
    assert "a header of" in refusal(write_sparse(tmp_path / "model.safetensors", header, 1 << 40))


def test_pipes_are_refused(tmp_path: Path) -> None:
    """A hang: opening a pipe waits for its other end."""
    os.mkfifo(tmp_path / "model.safetensors")
    assert "not a regular file" in refusal(tmp_path)


def write_shards(folder: Path, weight_map: dict[str, object]) -> Path:
    write(folder / "one.safetensors", safetensors_bytes({"a": TENSORS["a"]}))
    write(folder / "two.safetensors", safetensors_bytes({"b": TENSORS["b"]}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_shards_are_joined(tmp_path: Path) -> None:
    """A tensor read from the first shard at the offset it has in its own."""
    entries = read_safetensors(write_shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}))
    assert {name: entry.read().tobytes() for name, entry in entries.items()} == {
        "a": bytes(range(24)), "b": b"wxyz"}


@pytest.mark.parametrize(("weight_map", "message"), [
    ({"a": "one.safetensors", "b": "lost.safetensors"}, "shard 'lost.safetensors' is missing"),
    ({"a": "two.safetensors"}, "tensor 'a' is missing, which model.safetensors.index.json places there"),
    ({"a": "../one.safetensors"}, "is not the name of a .safetensors file beside it"),
    ({"a": "/etc/passwd"}, "is not the name of a .safetensors file beside it"),
    ({"a": 1}, "is not the name of a .safetensors file beside it"),
    ({}, "has no weight_map"),
])
def test_contradictory_indexes_are_refused(tmp_path: Path, weight_map: dict[str, object], message: str) -> None:
    """A shard or tensor silently left out, or a file outside the checkpoint opened."""
    assert message in refusal(write_shards(tmp_path, weight_map))


def test_truncated_shards_are_named(tmp_path: Path) -> None:
    """A download that stopped in the second shard noticed only when its tensor is read."""
    folder = write_shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    shard = folder / "two.safetensors"
    shard.write_bytes(shard.read_bytes()[:-2])
    assert "two.safetensors: not a readable safetensors file (truncated: tensor 'b'" in refusal(folder)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    """A traceback for a wrong path, and pickled weights opened."""
    assert "cannot be read" in refusal(tmp_path / "none")
    assert "holds neither" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    assert "convert them to safetensors" in refusal(tmp_path)


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    """Fewer bytes than the header promised returned as the tensor."""
    path = write(tmp_path / "model.safetensors", safetensors_bytes(TENSORS))
    entry = read_safetensors_file(path)["b"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TritloomError, match="tensor b ends early"):
        entry.read()
