"""Ternary weight formats of published checkpoints, decoded exactly: bytes to trits and scales.

``u = trit + 1`` is 0, 1 or 2. Sources: the quantisers of gguf-py and ggml for TQ1_0 and TQ2_0, ``quantize_to_i2_s`` of
bitnet.cpp for I2_S, and the BitNet integration of Hugging Face transformers for the packed and the master weights.
"""

from dataclasses import dataclass

import numpy as np

BLOCK = 256                     # elements of a TQ1_0 or TQ2_0 block
TQ1_BYTES, TQ2_BYTES = 54, 66   # of a block: digits, then the scale as fp16
I2S_BLOCK, I2S_TAIL_BYTES = 128, 32
SMALLEST_MEAN = 1e-5            # below it the absmean quantiser of BitNet stops dividing


@dataclass(frozen=True)
class TernaryMatrix:
    """A ternary matrix; the real weight is ``trits * scales``.

    Members
    -------
    trits : int8 [rows, columns] of -1, 0, 1.
    scales : float32, [1, 1] for one scale, [rows, 1] for one per output channel, [1, columns] for one per input.
    """

    trits: np.ndarray
    scales: np.ndarray


def unpack_row_planes(packed: np.ndarray) -> np.ndarray:
    """Trits int8 [4 * n, columns] of Hugging Face's packed uint8 [n, columns].

    A byte holds u of four rows that lie n apart, two bits each, the first plane in the low bits.

    Raises
    ------
    ValueError: a two-bit code is 3.
    """
    return _codes_to_trits(np.concatenate([packed >> shift & 3 for shift in (0, 2, 4, 6)]))


def unpack_i2s(data: np.ndarray, shape: tuple[int, int]) -> TernaryMatrix:
    """I2_S as published: byte g of 32 holds elements g, g + 32, g + 64, g + 96 of 128, the first in the high bits.

    Parameters
    ----------
    data : uint8 [elements / 4 + 32]; fp32 scale at elements / 4.
    shape : rows and columns; blocks run over the flattened matrix.

    Raises
    ------
    ValueError: a two-bit code is 3, or the scale is not positive and finite.
    """
    count = shape[0] * shape[1] // 4
    blocks = data[:count].reshape(-1, 1, I2S_BLOCK // 4)
    codes = blocks >> np.array([6, 4, 2, 0], np.uint8)[:, None] & 3
    scale = data[count : count + 4].view("<f4").reshape(1, 1)
    return TernaryMatrix(_codes_to_trits(codes.reshape(shape)), positive_scales(scale))


def unpack_tq2(data: np.ndarray, shape: tuple[int, int]) -> TernaryMatrix:
    """TQ2_0: per half block of 128, byte b of 32 holds elements b, b + 32, b + 64, b + 96, the first in the low bits.

    Raises
    ------
    ValueError: a two-bit code is 3, or the block scales are no scales of a tensor, its rows or its columns.
    """
    blocks = data.reshape(-1, TQ2_BYTES)
    halves = blocks[:, : BLOCK // 4].reshape(-1, 2, 1, 32)
    codes = halves >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    return _join_scales(_codes_to_trits(codes.reshape(shape)), blocks[:, -2:])


def unpack_tq1(data: np.ndarray, shape: tuple[int, int]) -> TernaryMatrix:
    """TQ1_0: a byte is ``ceil(v * 256 / 243)`` of five base-3 digits v, most significant first.

    Byte b of 32 holds elements b + 32 j, byte b of the next 16 elements 160 + b + 16 j, byte b of the last four
    elements 240 + b + 4 j with j below 4 and a last digit of 0.

    Raises
    ------
    ValueError: a byte stands for no digits, or the block scales are no scales of a tensor, its rows or its columns.
    """
    blocks = data.reshape(-1, TQ1_BYTES)
    codes, short = blocks[:, :48], blocks[:, 48:52]
    if not (_TQ1_VALID[codes].all() and _TQ1_VALID_SHORT[short].all()):
        raise ValueError("a byte that is no TQ1_0 code")
    parts = [_TQ1_TRITS[codes[:, :32]], _TQ1_TRITS[codes[:, 32:]], _TQ1_TRITS[short][..., :4]]
    trits = np.concatenate([part.transpose(0, 2, 1).reshape(len(blocks), -1) for part in parts], axis=1)
    return _join_scales(trits.reshape(shape), blocks[:, -2:])


def to_float32(data: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of stored F32, F16 or BF16 bytes; every number is represented exactly."""
    if dtype == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    with np.errstate(invalid="ignore"):     # a signalling NaN becomes a quiet one
        return data.view({"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32).reshape(shape)


def quantise_absmean(weights: np.ndarray) -> TernaryMatrix:
    """BitNet b1.58's quantiser of master weights [rows, columns]: round(W / mean|W|), half to even, one scale.

    Arithmetic is float32 as in training; the mean is summed in float64, where the order of summands does not matter.

    Raises
    ------
    ValueError: a weight is not finite.
    """
    if not np.isfinite(weights).all():
        raise ValueError("a weight that is not finite")
    mean = np.abs(weights).mean(dtype=np.float64)
    inverse = np.float32(1) / np.float32(max(mean, SMALLEST_MEAN))
    trits = np.clip(np.rint(weights * inverse), -1, 1).astype(np.int8)
    return TernaryMatrix(trits, positive_scales(np.full((1, 1), 1 / float(inverse))))


def from_scaled_floats(weights: np.ndarray) -> TernaryMatrix:
    """Weights [rows, columns] that are ternary already, each -s, 0 or s, stored as floats (TriLM "unpacked").

    Raises
    ------
    ValueError: they have no one magnitude per tensor, row or column.
    """
    if not np.isfinite(weights).all():
        raise ValueError("a weight that is not finite")
    size = np.abs(weights)
    for axes in ((0, 1), (1,), (0,)):
        scales = size.max(axis=axes, keepdims=True, initial=0)
        if ((size == scales) | (size == 0)).all():
            return TernaryMatrix(np.sign(weights).astype(np.int8), np.where(scales == 0, np.float32(1), scales))
    raise ValueError("weights that are not -s, 0 and s with one s per tensor, row or column")


def packed_scale(stored: float, linear_class: object) -> float:
    """What to multiply trits with, given the stored ``weight_scale`` of a packed Hugging Face checkpoint.

    Layers of class ``autobitlinear`` multiply with it, those of class ``bitlinear`` divide by it.

    Raises
    ------
    ValueError: another class, or a scale that is not positive and finite.
    """
    if linear_class not in ("autobitlinear", "bitlinear"):
        raise ValueError(f"quantization_config.linear_class {linear_class!r}, supported: 'autobitlinear', 'bitlinear'")
    positive_scales(np.float64(stored))
    return stored if linear_class == "autobitlinear" else 1 / stored


def _codes_to_trits(codes: np.ndarray) -> np.ndarray:
    if codes.max(initial=0) > 2:
        raise ValueError("a two-bit code 3, which is no trit")
    return codes.astype(np.int8) - 1


def positive_scales(scales: np.ndarray) -> np.ndarray:
    """The same as float32.

    Raises
    ------
    ValueError: one is not positive and finite there.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = scales.astype(np.float32)
    if not (np.isfinite(rounded) & (rounded > 0)).all():
        raise ValueError("a scale that is not positive and finite")
    return rounded


def _join_scales(trits: np.ndarray, stored: np.ndarray) -> TernaryMatrix:
    """One scale per tensor, row or column from the fp16 ones of blocks; blocks without a weight have no say."""
    rows, columns = trits.shape
    scales = to_float32(np.ascontiguousarray(stored), "F16", (rows, -1))
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise ValueError("a block scale that is negative or not finite")
    trits = np.where(np.repeat(scales == 0, BLOCK, axis=1), np.int8(0), trits)
    live = trits.reshape(rows, -1, BLOCK).any(axis=2)
    for axes in ((0, 1), (1,), (0,)):
        joined = np.where(live, scales, 0).max(axis=axes, keepdims=True, initial=0)
        if ((scales == joined) | ~live).all():
            joined = np.where(joined == 0, np.float32(1), joined)
            return TernaryMatrix(trits, joined if axes != (0,) else np.repeat(joined, BLOCK, axis=1))
    raise ValueError("block scales that are neither one per tensor nor one per row or column")


def _tq1_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trits int8 [256, 5] of a byte; which bytes stand for five digits; which for four and a last 0."""
    codes = np.arange(256)[:, None]
    trits = ((codes * 3 ** np.arange(5) & 255) * 3 >> 8) - 1
    values = np.arange(243)
    valid, short = np.zeros(256, bool), np.zeros(256, bool)
    valid[(values * 256 + 242) // 243] = True
    short[(values[::3] * 256 + 242) // 243] = True
    return trits.astype(np.int8), valid, short


_TQ1_TRITS, _TQ1_VALID, _TQ1_VALID_SHORT = _tq1_tables()
