"""Packings: exact inverses, exact layouts, damage found."""

import itertools

import numpy as np
import pytest

from host.packing import (
    absolute_signs,
    codes_to_words,
    from_base3,
    from_codes,
    has_one_zero_in_four,
    relative_signs,
    to_base3,
    to_codes,
    words_to_codes,
)
from rtl.config import entry_trits


def test_codes_are_sign_and_canonical_index() -> None:
    """A code that does not mean sign * |t0 + 3 t1 + 9 t2|."""
    for trits in itertools.product((-1, 0, 1), repeat=3):
        value = trits[0] + 3 * trits[1] + 9 * trits[2]
        code = int(to_codes(np.array(trits, np.int8))[0])
        assert code == (abs(value) | (16 if value < 0 else 0)), trits


def test_sparse_codes_are_sign_zero_and_relative_signs() -> None:
    """The 32 ways of one zero in four trits are the 32 codes, as `entry_trits` lists them."""
    ways = [way for way in itertools.product((-1, 0, 1), repeat=4) if way.count(0) == 1]
    codes = to_codes(np.array(ways, np.int8), 4)[:, 0]
    assert sorted(codes.tolist()) == list(range(32))
    for way, code in zip(ways, codes.tolist(), strict=True):
        sign = -1 if code & 16 else 1
        assert [sign * trit for trit in entry_trits(code & 15, 4)] == list(way)
    assert np.array_equal(from_codes(codes[:, None], 4, 4), np.array(ways))


@pytest.mark.parametrize("trits", [(0, 0, 1, 1), (1, 1, 1, 1), (0, 0, 0, 0)])
def test_other_than_one_zero_in_four_is_refused(trits: tuple[int, ...]) -> None:
    """A weight lost or made up on the way into a code."""
    assert not has_one_zero_in_four(np.array(trits))
    with pytest.raises(ValueError, match="exactly one zero"):
        to_codes(np.array(trits, np.int8), 4)


@pytest.mark.parametrize("seed", range(20))
def test_codes_and_words_are_inverse(seed: int) -> None:
    """Trits lost at the padding of a row or of a word."""
    rng = np.random.default_rng(seed)
    columns = int(rng.integers(1, 200))
    trits = rng.integers(-1, 2, (3, columns), np.int8)
    codes = to_codes(trits)
    words = codes_to_words(codes)
    assert words.shape == (3, -(-codes.shape[1] * 5 // 36))
    assert int(words.max()) < 1 << 36
    assert np.array_equal(words_to_codes(words, codes.shape[1]), codes)
    assert np.array_equal(absolute_signs(relative_signs(codes)), codes)
    assert np.array_equal(from_codes(codes, columns), trits)


def test_codes_fill_words_without_gaps() -> None:
    """A gap at the end of a word, or the wrong end first: bit ``5 i`` of a row starts code ``i``."""
    codes = np.arange(16, dtype=np.uint8)
    row = sum(int(word) << 36 * index for index, word in enumerate(codes_to_words(codes)))
    assert [row >> 5 * code & 31 for code in range(17)] == [*codes.tolist(), 0]


def test_base3_puts_the_low_power_first() -> None:
    """Another digit order, or another zero byte than 121."""
    assert to_base3(np.zeros(5, np.int8))[0] == 121
    assert to_base3(np.array([1, 0, 0, 0, 0], np.int8))[0] == 122
    assert to_base3(np.array([0, 0, 0, 0, -1], np.int8))[0] == 121 - 81


@pytest.mark.parametrize("seed", range(20))
def test_base3_is_inverse(seed: int) -> None:
    """Trits lost or moved."""
    rng = np.random.default_rng(seed)
    trits = rng.integers(-1, 2, int(rng.integers(1, 40)) * 5, np.int8)
    assert np.array_equal(from_base3(to_base3(trits)), trits)


def test_damage_is_found() -> None:
    """Bytes and codes that no packer writes accepted as weights."""
    with pytest.raises(ValueError, match="not base-3"):
        from_base3(np.array([243], np.uint8))
    with pytest.raises(ValueError, match="not ternary"):
        from_codes(np.array([14], np.uint8), 3)
