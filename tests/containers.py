"""Writes small safetensors and GGUF files from bytes, valid and damaged, for tests and the fuzzer."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path

STRUCTS = {"u8": (0, "<B"), "u32": (4, "<I"), "f32": (6, "<f"), "bool": (7, "<B"), "u64": (10, "<Q")}
GGUF_TYPES = {"F32": 0, "F16": 1, "BF16": 30, "TQ1_0": 34, "TQ2_0": 35, "I2_S": 36, "TL1": 38, "TL2": 39,
              "Q8_0": 8, "Q4_K": 12, "Q6_K": 14}

Stored = tuple[str, Sequence[int], bytes]      # dtype, shape, bytes


def safetensors_bytes(tensors: dict[str, Stored], **changes: dict[str, object]) -> bytes:
    """A safetensors file; ``changes`` replaces fields of a tensor's entry, by its name."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
        header[name] |= changes.get(name, {})
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def gguf_string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def gguf_value(value: object) -> bytes:
    """Type number and value of a string, a (name, number) scalar of `STRUCTS`, or a list of strings or scalars."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    if isinstance(value, tuple):
        kind, format_ = STRUCTS[value[0]]
        return struct.pack("<I", kind) + struct.pack(format_, value[1])
    assert isinstance(value, list)
    parts = [gguf_value(element) for element in value]
    kind = parts[0][:4] if parts else struct.pack("<I", 4)
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(parts)) + b"".join(part[4:] for part in parts)


def gguf_bytes(metadata: dict[str, object], tensors: dict[str, Stored], *, version: int = 3, alignment: int = 32,
               offsets: dict[str, int] | None = None) -> bytes:
    """A GGUF file; shapes are outermost dimension first, ``offsets`` replaces those of tensors by name."""
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        header += gguf_string(key) + gguf_value(value)
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        offset = (offsets or {}).get(name, len(data))
        header += gguf_string(name) + struct.pack("<I", len(shape))
        header += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        header += struct.pack("<IQ", GGUF_TYPES.get(dtype, 0) if isinstance(dtype, str) else dtype, offset)
        data += content + bytes(-len(content) % alignment)
    return header + bytes(-len(header) % alignment) + data


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def write_model(folder: Path, config: dict[str, object], tensors: dict[str, Stored]) -> Path:
    """A model directory of Hugging Face: config.json and the weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write(folder / "model.safetensors", safetensors_bytes(tensors))
    return folder


def write_sparse(path: Path, header: bytes, size_bytes: int) -> Path:
    """A file of that size of which only the header takes room on the disk."""
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(size_bytes)
    return path
