"""Imports models: from files in any container that can be read to a checkpoint that can be compiled."""

from pathlib import Path

import numpy as np

from host.checkpoint import Checkpoint, Tensor
from host.decode import FLOATS, decode_projection, decode_scale
from host.errors import TritloomError
from host.integrity import Inspector, Integrity, projections
from host.model_files import ModelFiles, open_model
from host.tensor_entry import open_regular
from host.trit_formats import to_float32

PLANES_DTYPE = "I8"
TOKENIZER_FILE = "tokenizer.bin"
MAX_TOKENIZER_BYTES = 1 << 24


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a model; see `import_checkpoint`."""
    return import_checkpoint(Path(path))[0]


def import_checkpoint(path: Path, *, force: bool = False) -> tuple[Checkpoint, Integrity]:
    """Read a model that the program generator can run, and look for damage on the way.

    Parameters
    ----------
    path : a directory with config.json and safetensors, or a GGUF file; tokenizer.bin beside it is taken along.
    force : let projections pass that are all zero or hold one value.

    Raises
    ------
    TritloomError: something is missing, damaged, contradicts the configuration, or cannot run; the message names it.
    """
    model = open_model(path)
    objections = [*model.objections, *_plane_objections(model)]
    if objections:
        raise TritloomError(f"{model.name} cannot run: {'; '.join(objections)}")
    _check_gains(model)
    shape, inspector = model.architecture.shape, Inspector(force=force)
    tensors = {"embed": _planes(model, "embed", shape.embed_planes), "head": _planes(model, "head", shape.head_planes)}
    for key in projections(model):
        matrix, name = decode_projection(model, key), model.matrices[key].name
        inspector.inspect(key, name, matrix)
        if matrix.scales.size > 1:
            kind = "row" if matrix.scales.shape[1] == 1 else "column"
            raise TritloomError(f"tensor {name} has one scale per {kind}; supported: one per tensor")
        trits = matrix.trits
        if model.architecture.rotate_half and key.endswith((".q", ".k")):
            trits = interleave_pairs(trits, shape.head_dim)
        tensors[key] = Tensor(trits, float(matrix.scales[0, 0]))
    folder = path if path.is_dir() else path.parent
    checkpoint = Checkpoint(model.name, shape, tensors, _read_tokenizer(folder / TOKENIZER_FILE))
    return checkpoint, inspector.result(model)


def interleave_pairs(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of queries or keys [heads * head_dim, columns] whose rotary pairs are halves of a head, made neighbours.

    The angle of a pair and the dot product of a head stay the same, so every score does.
    """
    heads = rows.reshape(-1, 2, head_dim // 2, rows.shape[1])
    return heads.transpose(0, 2, 1, 3).reshape(rows.shape)


def _plane_objections(model: ModelFiles) -> list[str]:
    """Why embedding and head, which are stored as integers of trit planes with a scale, cannot be taken."""
    return [f"tensor {model.matrices[key].name} is {model.matrices[key].dtype} (supported: {PLANES_DTYPE} trit planes)"
            for key in ("embed", "head") if key in model.matrices and model.matrices[key].dtype != PLANES_DTYPE]


def _check_gains(model: ModelFiles) -> None:
    """Refuse gains that change anything; the accelerator has none."""
    for entry in model.gains:
        if entry.dtype not in FLOATS or (to_float32(entry.read(), entry.dtype, entry.shape) != 1).any():
            raise TritloomError(f"tensor {entry.name} is a norm gain with values other than 1; supported: ones")


def _planes(model: ModelFiles, key: str, count: int) -> Tensor:
    entry = model.matrices[key]
    integers = entry.read().view(np.int8).reshape(entry.shape)
    limit = 3**count // 2
    if integers.max() > limit or integers.min() < -limit:
        raise TritloomError(f"tensor {entry.name} holds values beyond {limit}, the limit of {count} trit planes")
    return Tensor(integers, decode_scale(model, key))


def _read_tokenizer(path: Path) -> bytes:
    if not path.exists():
        return b""
    file, size = open_regular(path)
    with file:
        if size > MAX_TOKENIZER_BYTES:
            raise TritloomError(f"{path}: larger than {MAX_TOKENIZER_BYTES} bytes; this is not a tokenizer")
        return file.read(MAX_TOKENIZER_BYTES)
