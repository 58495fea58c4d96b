"""Reads the headers of safetensors checkpoints, one file or sharded, without trusting anything they say.

Format: u64 little-endian header length, header (JSON object: tensor name to dtype, shape and data_offsets), data.
"""

import math
from pathlib import Path

from host.errors import TritloomError
from host.tensor_entry import MAX_RANK, TensorEntry, check_layout, open_regular, parse_json_object, read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 1 << 24      # over a hundred thousand tensors
MAX_SHARDS = 1024
MAX_NAME = 512
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4,
    "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}


def read_safetensors(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of a safetensors file, or of a directory with one or with an index and its shards, by name.

    Only headers are read, and they are checked against the sizes of the files before anything is allocated from
    them. In a sharded checkpoint the index decides which tensors there are.

    Raises
    ------
    TritloomError: a file is missing, truncated or contradicts itself; the message names it and what to do.
    """
    if not path.is_dir():
        return read_safetensors_file(path)
    if (path / SINGLE_FILE).exists():
        return read_safetensors_file(path / SINGLE_FILE)
    if (path / INDEX_FILE).exists():
        return _read_shards(path / INDEX_FILE)
    if any(path.glob("pytorch_model*.bin")) or any(path.glob("*.pt")):
        raise TritloomError(f"{path}: holds pickled weights, which can run code when read; convert them to safetensors")
    raise TritloomError(f"{path}: holds neither {SINGLE_FILE} nor {INDEX_FILE}; fetch the checkpoint again")


def read_safetensors_file(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of one safetensors file, by name.

    Raises
    ------
    TritloomError: the file is missing, truncated or contradicts itself.
    """
    file, file_bytes = open_regular(path)
    try:
        with file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if file_bytes < 8:
                raise ValueError(f"only {file_bytes} bytes")
            if header_bytes > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {header_bytes} bytes, the most is {MAX_HEADER_BYTES}")
            if header_bytes > file_bytes - 8:
                raise ValueError("truncated inside its header")
            header = parse_json_object(file.read(header_bytes))
        header.pop("__metadata__", None)
        entries = [_entry(path, 8 + header_bytes, name, fields) for name, fields in header.items()]
        check_layout(entries, start=8 + header_bytes, end=file_bytes)
        used = sum(entry.size_bytes for entry in entries)
        if used != file_bytes - 8 - header_bytes:
            raise ValueError(f"{file_bytes - 8 - header_bytes - used} bytes belong to no tensor")
    except (ValueError, OSError) as error:
        raise TritloomError(f"{path}: not a readable safetensors file ({error}); fetch it again") from error
    return {entry.name: entry for entry in entries}


def _entry(path: Path, data_start: int, name: str, fields: object) -> TensorEntry:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(f"a tensor name of {len(name)} characters, or unprintable ones")
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise ValueError(f"tensor {name!r} has the unknown dtype {str(dtype)[:20]!r}")
    if not _are_counts(shape) or len(shape) > MAX_RANK:
        raise ValueError(f"tensor {name!r} has a shape that is not up to {MAX_RANK} counts")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r} has data_offsets that are not two counts")
    begin, end = offsets
    size_bytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != size_bytes:
        raise ValueError(f"tensor {name!r} has {end - begin} bytes, its shape asks for {size_bytes}")
    return TensorEntry(name, dtype, tuple(shape), path, data_start + begin, size_bytes)


def _are_counts(values: object) -> bool:
    """Whether this is a list of integers that a 64-bit file offset can hold."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _read_shards(index: Path) -> dict[str, TensorEntry]:
    weight_map = read_json(index, MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise TritloomError(f"{index}: has no weight_map; fetch it again")
    names: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not _is_file_name(shard):
            raise TritloomError(f"{index}: {str(shard)[:80]!r} is not the name of a .safetensors file beside it; "
                                "fetch it again")
        names.setdefault(shard, []).append(tensor)
    if len(names) > MAX_SHARDS:
        raise TritloomError(f"{index}: {len(names)} shards, the most is {MAX_SHARDS}")
    missing = [shard for shard in sorted(names) if not (index.parent / shard).exists()]
    if missing:
        raise TritloomError(f"{index.parent}: {_some(missing, 'shard')} missing; fetch the checkpoint again")
    found: dict[str, TensorEntry] = {}
    for shard in sorted(names):
        entries = read_safetensors_file(index.parent / shard)
        absent = [tensor for tensor in names[shard] if tensor not in entries]
        if absent:
            raise TritloomError(f"{index.parent / shard}: {_some(absent, 'tensor')} missing, which {index.name} "
                                "places there; fetch both again")
        found |= {tensor: entries[tensor] for tensor in names[shard]}
    return found


def _is_file_name(name: object) -> bool:
    return (isinstance(name, str) and len(name) <= 255 and name.isprintable() and name.endswith(".safetensors")
            and "/" not in name and "\\" not in name)


def _some(names: list[str], what: str) -> str:
    """``tensors 'a', 'b' and 7 more are``, for a message of one line."""
    listed = ", ".join(repr(name[:80]) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}{'s' if len(names) > 1 else ''} {listed}{more} {'are' if len(names) > 1 else 'is'}"
