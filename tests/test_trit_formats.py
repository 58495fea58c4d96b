"""Ternary formats decoded exactly, against packers written element by element from their definitions."""

from pathlib import Path

import numpy as np
import pytest

from host.gguf_file import read_gguf
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

# Written by gguf 0.19.0: GGUFWriter with gguf.quants.quantize of float32 trits(shape) * 0.375, see `packaged`.
PACKAGED = Path(__file__).parent / "data" / "gguf_0_19_0.gguf"
UNPACK = {"TQ1_0": unpack_tq1, "TQ2_0": unpack_tq2}


def trits(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, 2, shape, np.int8)


def pack_tq1(block: np.ndarray, scale: float) -> bytes:
    """Element by element: three groups of first element, bytes, and digits."""
    out = bytearray()
    for base, count, digits in ((0, 32, 5), (160, 16, 5), (240, 4, 4)):
        for byte in range(count):
            value = 0
            for digit in range(5):
                value = value * 3 + (int(block[base + digit * count + byte]) + 1 if digit < digits else 0)
            out.append((value * 256 + 242) // 243)
    return bytes(out) + np.float16(scale).tobytes()


def pack_tq2(block: np.ndarray, scale: float) -> bytes:
    out = bytearray(64)
    for half in range(2):
        for byte in range(32):
            for plane in range(4):
                out[32 * half + byte] |= int(block[128 * half + 32 * plane + byte] + 1) << 2 * plane
    return bytes(out) + np.float16(scale).tobytes()


def pack_i2s(matrix: np.ndarray, scale: float) -> bytes:
    flat, out = matrix.ravel(), bytearray(matrix.size // 4)
    for index, trit in enumerate(flat):
        block, within = divmod(index, 128)
        out[32 * block + within % 32] |= int(trit + 1) << 6 - 2 * (within // 32)
    return bytes(out) + np.float32(scale).tobytes() + b"\xaa" * 28


PACK = {"TQ1_0": pack_tq1, "TQ2_0": pack_tq2}


def packed_blocks(kind: str, matrix: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Bytes of a matrix with one scale per block, [rows, columns / 256]."""
    blocks = zip(matrix.reshape(-1, 256), scales.ravel(), strict=True)
    return np.frombuffer(b"".join(PACK[kind](block, scale) for block, scale in blocks), np.uint8)


def check(found: TernaryMatrix, expected: np.ndarray, scales: object) -> None:
    assert found.trits.dtype == np.int8
    assert np.array_equal(found.trits, expected)
    assert found.scales.dtype == np.float32
    assert np.array_equal(found.scales, np.array(scales, np.float32))


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
def test_block_formats_give_back_their_trits(kind: str) -> None:
    """Planes or digits in the wrong order, or the scale taken from the front of a block."""
    matrix = trits(3, 512)
    check(UNPACK[kind](packed_blocks(kind, matrix, np.full((3, 2), 0.5)), (3, 512)), matrix, [[0.5]])


def test_every_tq1_code_is_decoded() -> None:
    """A code whose rounding up spills into the digit above."""
    every = np.array([[value // 3 ** (4 - digit) % 3 - 1 for value in range(243)] for digit in range(5)], np.int8)
    for start in range(0, 243, 32):
        block = np.zeros((5, 32), np.int8)
        columns = every[:, start : start + 32]
        block[:, : columns.shape[1]] = columns
        matrix = np.concatenate([block.ravel(), np.ones(96, np.int8)])[None]
        check(unpack_tq1(packed_blocks("TQ1_0", matrix, np.ones((1, 1))), (1, 256)), matrix, [[1]])


def packaged(name: str) -> tuple[np.ndarray, TernaryMatrix]:
    """What the packaged writer was given for a tensor, and what is read back."""
    entry = read_gguf(PACKAGED).tensors[name]
    return trits(*entry.shape, seed=7), UNPACK[entry.dtype](entry.read(), entry.shape)


@pytest.mark.parametrize("name", ["tq1", "tq2"])
def test_files_of_the_gguf_package_are_read(name: str) -> None:
    """A misreading of the format that packer and unpacker here share."""
    given, found = packaged(name)
    check(found, given, [[0.375]])


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
def test_block_scales_are_joined(kind: str) -> None:
    """A matrix with scales per row or per shard of its columns read as if it had one; zero blocks taken for another."""
    matrix = trits(2, 512)
    by_row, by_column = np.array([[0.5, 0.5], [2, 2]]), np.array([[0.5, 2], [0.5, 2]])
    check(UNPACK[kind](packed_blocks(kind, matrix, by_row), (2, 512)), matrix, [[0.5], [2]])
    check(UNPACK[kind](packed_blocks(kind, matrix, by_column), (2, 512)), matrix, [[0.5] * 256 + [2] * 256])
    with pytest.raises(ValueError, match="neither one per tensor nor one per row or column"):
        UNPACK[kind](packed_blocks(kind, matrix, np.array([[0.5, 2], [2, 0.5]])), (2, 512))
    with pytest.raises(ValueError, match="negative or not finite"):
        UNPACK[kind](packed_blocks(kind, matrix, np.array([[0.5, -0.5], [0.5, 0.5]])), (2, 512))
    silent = np.array([[0.5, 0], [0.5, 0.5]])
    quiet = matrix.copy()
    quiet[0, 256:] = 0
    check(UNPACK[kind](packed_blocks(kind, matrix, silent), (2, 512)), quiet, [[0.5]])


def test_bytes_that_are_no_code_are_refused() -> None:
    """A damaged file decoded to trits that look well."""
    valid = packed_blocks("TQ1_0", np.zeros((1, 256), np.int8), np.ones((1, 1)))
    for position, byte in ((0, 1), (47, 1), (48, 2)):     # 2 is the digits 00001, but the last group has four
        damaged = valid.copy()
        damaged[position] = byte
        with pytest.raises(ValueError, match="no TQ1_0 code"):
            unpack_tq1(damaged, (1, 256))
    with pytest.raises(ValueError, match="code 3"):
        unpack_tq2(np.full(66, 0x55 | 0xC0, np.uint8), (1, 256))
    with pytest.raises(ValueError, match="code 3"):
        unpack_i2s(np.full(64 + 32, 0x0C, np.uint8), (1, 256))
    with pytest.raises(ValueError, match="code 3"):
        unpack_row_planes(np.array([[0x03]], np.uint8))


@pytest.mark.parametrize("shape", [(4, 128), (8, 96), (2, 64)])
def test_i2s_gives_back_its_trits(shape: tuple[int, int]) -> None:
    """Planes from the low bits, a stride of another build, or blocks that start anew with each row."""
    matrix = trits(*shape)
    check(unpack_i2s(np.frombuffer(pack_i2s(matrix, 1.25), np.uint8), shape), matrix, [[1.25]])


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_i2s_scales_are_checked(scale: float) -> None:
    """A damaged tail that makes every activation infinite."""
    with pytest.raises(ValueError, match="positive and finite"):
        unpack_i2s(np.frombuffer(pack_i2s(trits(4, 128), scale), np.uint8), (4, 128))


def test_row_planes_give_back_their_trits() -> None:
    """Neighbouring rows taken for the four of a byte, which lie a quarter of the matrix apart."""
    matrix = trits(16, 8)
    packed = np.zeros((4, 8), np.uint8)
    for plane in range(4):
        for row in range(4):
            packed[row] |= ((matrix[4 * plane + row] + 1) << 2 * plane).astype(np.uint8)
    assert np.array_equal(unpack_row_planes(packed), matrix)


def test_floats_are_exact() -> None:
    """bf16 read as fp16, or its bytes swapped."""
    values = np.array([0, -1.5, 3.0e38, 2.0**-130], np.float32)
    bf16 = (values.view(np.uint32) >> 16).astype("<u2")
    expected = (bf16.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(to_float32(bf16.view(np.uint8), "BF16", (2, 2)), expected.reshape(2, 2))
    assert to_float32(np.float16([1.5]).view(np.uint8), "F16", (1,)) == 1.5
    assert to_float32(np.float32([-2.5]).view(np.uint8), "F32", (1,)) == -2.5


def test_absmean_rounds_half_to_even() -> None:
    """Half a mean rounded up to a weight, or three halves clipped after rounding to two down to zero."""
    weights = np.array([[0.5, -0.5, 1.5, 1.5]], np.float32)     # mean 1
    check(quantise_absmean(weights), np.array([[0, 0, 1, 1]]), [[1]])
    tiny = np.array([[1e-6, -1e-6]], np.float32)                # the mean is held at 1e-5
    check(quantise_absmean(tiny), np.array([[0, 0]]), [[np.float32(1) / (np.float32(1) / np.float32(1e-5))]])
    with pytest.raises(ValueError, match="not finite"):
        quantise_absmean(np.array([[np.nan]], np.float32))


def test_scaled_floats_give_back_their_trits() -> None:
    """Scales per output channel or per shard of the inputs averaged into one."""
    matrix = trits(4, 6)
    matrix[:, 0] = matrix[0] = 1
    rows, columns = np.array([[0.5], [1], [2], [4]]), np.array([[1, 1, 1, 2, 2, 2]])
    check(from_scaled_floats((matrix * 0.25).astype(np.float32)), matrix, [[0.25]])
    check(from_scaled_floats((matrix * rows).astype(np.float32)), matrix, rows)
    check(from_scaled_floats((matrix * columns).astype(np.float32)), matrix, columns)
    with pytest.raises(ValueError, match="not -s, 0 and s"):
        from_scaled_floats(np.array([[1, 2], [3, 1]], np.float32))


def test_both_scale_conventions() -> None:
    """A scale multiplied with where the layer divides: every activation off by its square."""
    assert packed_scale(0.25, "autobitlinear") == 0.25
    assert packed_scale(0.25, "bitlinear") == 4
    with pytest.raises(ValueError, match="positive and finite"):
        positive_scales(np.array([[packed_scale(1e-45, "bitlinear")]]))     # beyond float32
    with pytest.raises(ValueError, match="linear_class None"):
        packed_scale(0.25, None)
    with pytest.raises(ValueError, match="positive and finite"):
        packed_scale(0.0, "bitlinear")
