"""Decodes the matrices of a model, one at a time, whatever format their file has."""

import numpy as np

from host.errors import TritloomError
from host.model_files import PACKED, ModelFiles, logical_shape
from host.tensor_entry import TensorEntry
from host.trit_formats import (
    TernaryMatrix,
    from_scaled_floats,
    packed_scale,
    positive_scales,
    quantise_absmean,
    to_float32,
    unpack_i2s,
    unpack_row_planes,
    unpack_tq1,
    unpack_tq2,
)

BLOCK_FORMATS = {"TQ1_0": unpack_tq1, "TQ2_0": unpack_tq2, "I2_S": unpack_i2s}
FLOATS = ("F32", "F16", "BF16")


def decode_projection(model: ModelFiles, key: str) -> TernaryMatrix:
    """Trits and scales of a projection ``{layer}.q`` ... ``{layer}.down``.

    Raises
    ------
    TritloomError: its bytes are damaged, or are no ternary weights; the message names the tensor.
    """
    entry = model.matrices[key]
    try:
        return _decode(model, key, entry)
    except ValueError as error:
        raise TritloomError(f"{entry.path}: tensor {entry.name} has {error}; fetch the checkpoint again, or use "
                            "another format of it") from error


def decode_matrix(model: ModelFiles, key: str) -> TernaryMatrix | np.ndarray:
    """A projection as `decode_projection` gives it, or float32 [rows, columns] if it holds ordinary weights.

    Raises
    ------
    TritloomError: its bytes are damaged; the message names the tensor.
    """
    entry = model.matrices[key]
    if entry.dtype not in FLOATS or not model.architecture.is_ordinary or key in model.scales:
        return decode_projection(model, key)
    weights = decode_floats(model, key)
    try:
        matrix = from_scaled_floats(weights)
    except ValueError:
        return weights
    # Trits with a scale per row or column (TriLM) are ordinary weights to a machine that has one scale per tensor.
    return matrix if matrix.scales.size == 1 else weights


def decode_floats(model: ModelFiles, key: str) -> np.ndarray:
    """float32 [rows, columns] of a matrix of floats.

    Raises
    ------
    TritloomError: a weight is not finite, or there is a scale beside them.
    """
    entry = model.matrices[key]
    if key in model.scales:
        raise TritloomError(f"tensor {entry.name} is {entry.dtype} and has a scale tensor; supported: one or the other")
    weights = to_float32(entry.read(), entry.dtype, entry.shape)
    if not np.isfinite(weights).all():
        raise TritloomError(f"{entry.path}: tensor {entry.name} has a weight that is not finite; fetch the checkpoint "
                            "again")
    return weights


def decode_scale(model: ModelFiles, key: str) -> float:
    """The one number in the scale tensor of a matrix.

    Raises
    ------
    TritloomError: it is missing, is not one floating-point number, or is not positive and finite.
    """
    matrix, entry = model.matrices[key], model.scales.get(key)
    if entry is None:
        raise TritloomError(f"tensor {matrix.name} has no scale tensor {matrix.name}_scale; the checkpoint is "
                            "incomplete")
    if entry.dtype not in FLOATS or entry.shape not in ((), (1,)):
        raise TritloomError(f"tensor {entry.name} is {entry.dtype} {list(entry.shape)}; a scale is one "
                            f"{', '.join(FLOATS)} number")
    value = float(to_float32(entry.read(), entry.dtype, (1,))[0])
    if not (np.isfinite(value) and value > 0):
        raise TritloomError(f"tensor {entry.name} is {value}; a scale must be positive and finite")
    return value


def _decode(model: ModelFiles, key: str, entry: TensorEntry) -> TernaryMatrix:
    data, shape = entry.read(), logical_shape(entry)
    if entry.dtype == PACKED:
        scale = packed_scale(decode_scale(model, key), model.architecture.linear_class)
        return TernaryMatrix(unpack_row_planes(data.reshape(entry.shape)), positive_scales(np.full((1, 1), scale)))
    if entry.dtype in BLOCK_FORMATS:
        matrix = BLOCK_FORMATS[entry.dtype](data, shape)
    else:
        weights = to_float32(data, entry.dtype, shape)
        # Layers of transformers that are not quantised as they run store trits as floats, beside their scale.
        is_master = model.architecture.is_master and key not in model.scales
        matrix = quantise_absmean(weights) if is_master else from_scaled_floats(weights)
    if key in model.scales:
        scales = positive_scales(matrix.scales.astype(np.float64) * decode_scale(model, key))
        matrix = TernaryMatrix(matrix.trits, scales)
    return matrix
