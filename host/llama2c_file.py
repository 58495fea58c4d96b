"""Reads the headers of llama2.c checkpoints (``.bin``, the layout before versions), without trusting what they say.

Format, little-endian: seven int32 (hidden size, feed-forward size, layers, heads, KV heads, vocabulary, negative if the
head is a tensor of its own, context), then float32 tensors in a fixed order, each for all layers at once.
"""

import math
import struct
from pathlib import Path

from host.errors import TritloomError
from host.tensor_entry import TensorEntry, check_layout, open_regular

HEADER = struct.Struct("<7i")
FIELDS = ("hidden", "feed_forward", "layers", "heads", "kv_heads", "vocab", "context")
MAX_SIZE = 1 << 20
FLOAT_BYTES = 4


def read_llama2c(path: Path) -> tuple[dict[str, int], dict[str, TensorEntry]]:
    """Sizes and tensors of a llama2.c file; tensors have the names they would have in GGUF.

    Raises
    ------
    TritloomError: not such a file, or its length is not what its header asks for.
    """
    file, file_bytes = open_regular(path)
    try:
        with file:
            header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            raise ValueError(f"only {file_bytes} bytes")
        sizes = dict(zip(FIELDS, HEADER.unpack(header), strict=True))
        tied = sizes["vocab"] > 0
        sizes["vocab"] = abs(sizes["vocab"])
        for field, size in sizes.items():
            if not 0 < size <= MAX_SIZE:
                raise ValueError(f"a {field} of {size}; a file of pickled weights looks like that, convert it to "
                                 "safetensors")
        if sizes["hidden"] % (2 * sizes["heads"]) or sizes["heads"] % sizes["kv_heads"]:
            raise ValueError(f"{sizes['heads']} heads over {sizes['kv_heads']} KV heads in {sizes['hidden']} channels")
        tensors = _tensors(sizes, tied)
        wanted = HEADER.size + FLOAT_BYTES * sum(layers * math.prod(shape) for _, shape, layers in tensors)
        if wanted != file_bytes:
            raise ValueError(f"{file_bytes} bytes, its header asks for {wanted}")
        entries = _entries(path, tensors)
        check_layout(entries, start=HEADER.size, end=file_bytes)
    except (ValueError, OSError) as error:
        raise TritloomError(f"{path}: not a readable llama2.c file ({error}); fetch it again") from error
    return sizes, {entry.name: entry for entry in entries}


def _tensors(sizes: dict[str, int], tied: bool) -> list[tuple[str, tuple[int, ...], int]]:
    """Name, shape of one, and number of every kind of tensor, in the order of the file."""
    hidden, feed, layers = sizes["hidden"], sizes["feed_forward"], sizes["layers"]
    head_dim = hidden // sizes["heads"]
    keys = sizes["kv_heads"] * head_dim
    tables = sizes["context"], head_dim // 2
    found = [
        ("token_embd", (sizes["vocab"], hidden), 1), ("attn_norm", (hidden,), layers),
        ("attn_q", (hidden, hidden), layers), ("attn_k", (keys, hidden), layers), ("attn_v", (keys, hidden), layers),
        ("attn_output", (hidden, hidden), layers), ("ffn_norm", (hidden,), layers),
        ("ffn_gate", (feed, hidden), layers), ("ffn_down", (hidden, feed), layers), ("ffn_up", (feed, hidden), layers),
        ("output_norm", (hidden,), 1), ("rotary_emb.inv_freq", tables, 1), ("rotary_emb.inv_freq", tables, 1),
    ]
    return found if tied else [*found, ("output", (sizes["vocab"], hidden), 1)]


def _entries(path: Path, tensors: list[tuple[str, tuple[int, ...], int]]) -> list[TensorEntry]:
    """Those that hold weights; the tables of cosines and sines are passed over."""
    entries, offset = [], HEADER.size
    for name, shape, layers in tensors:
        size_bytes = FLOAT_BYTES * math.prod(shape)
        for layer in range(layers):
            if name != "rotary_emb.inv_freq":
                full = f"blk.{layer}.{name}.weight" if name.startswith(("attn", "ffn")) else f"{name}.weight"
                entries.append(TensorEntry(full, "F32", shape, path, offset, size_bytes))
            offset += size_bytes
    return entries
