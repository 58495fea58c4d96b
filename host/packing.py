"""Trit packings: 5-bit table codes for block RAM, base-3 bytes for SDRAM."""

import numpy as np

from rtl.config import CODE_BITS, CODE_INDICES, CODE_TERMS, SIGN, SPARSE_GROUP, WORD_BITS, entry_trits, sign_reference

BASE3_TRITS = 5


def to_codes(trits: np.ndarray, code_trits: int = CODE_TERMS) -> np.ndarray:
    """Table codes of trits [..., columns]: uint8 [..., ceil(columns/code_trits)], see `rtl.config.entry_trits`.

    Raises
    ------
    ValueError: four trits of a code have not exactly one zero.
    """
    columns = trits.shape[-1]
    padding = [(0, 0)] * (trits.ndim - 1) + [(0, -columns % code_trits)]
    groups = np.pad(trits.astype(np.int8), padding).reshape(*trits.shape[:-1], -1, code_trits)
    if code_trits == CODE_TERMS:
        value = groups @ np.array([1, 3, 9], np.int8)
        return np.where(value < 0, 1 << SIGN, 0).astype(np.uint8) | np.abs(value).astype(np.uint8)
    if not has_one_zero_in_four(groups):
        raise ValueError("each four trits of a code must have exactly one zero")
    zero = np.argmin(np.abs(groups), -1)
    terms = np.argsort(groups == 0, -1, kind="stable")[..., :CODE_TERMS]       # columns of the three that are not zero
    negative = np.take_along_axis(groups, terms, -1) < 0
    relative = negative[..., :2] != negative[..., 2:]
    return (zero | relative[..., 0] << 2 | relative[..., 1] << 3 | negative[..., 2] << SIGN).astype(np.uint8)


def has_one_zero_in_four(trits: np.ndarray) -> bool:
    """Whether each four neighbours in the rows of trits [..., columns] have exactly one zero."""
    if trits.shape[-1] % SPARSE_GROUP:
        return False
    return bool(((trits.reshape(*trits.shape[:-1], -1, SPARSE_GROUP) == 0).sum(-1) == 1).all())


def from_codes(codes: np.ndarray, columns: int, code_trits: int = CODE_TERMS) -> np.ndarray:
    """Trits int8 [..., columns] of table codes; the inverse of `to_codes`.

    Raises
    ------
    ValueError: an index stands for no trits.
    """
    index = codes & (1 << SIGN) - 1
    table = np.array([entry_trits(entry, code_trits) for entry in range(CODE_INDICES[code_trits])], np.int8)
    if index.max(initial=0) >= len(table):
        raise ValueError("weights hold a code that is not ternary: the image is damaged, compile it again")
    trits = table[index] * np.where(codes >> SIGN, -1, 1).astype(np.int8)[..., None]
    return trits.reshape(*codes.shape[:-1], -1)[..., :columns]


def relative_signs(codes: np.ndarray) -> np.ndarray:
    """Codes [..., codes] of a row with the sign of each relative to that of its `sign_reference`."""
    out = codes.copy()
    for code in range(codes.shape[-1]):
        if (reference := sign_reference(code)) != code:
            out[..., code] ^= codes[..., reference] & 1 << SIGN
    return out


def absolute_signs(codes: np.ndarray) -> np.ndarray:
    """The inverse of `relative_signs`."""
    out = codes.copy()
    for code in range(codes.shape[-1]):
        if (reference := sign_reference(code)) != code:
            out[..., code] ^= out[..., reference] & 1 << SIGN
    return out


def codes_to_words(codes: np.ndarray) -> np.ndarray:
    """36-bit words uint64 [..., words] of codes [..., n], which follow each other without gaps, first code lowest."""
    bits = np.unpackbits(codes[..., None], axis=-1, count=CODE_BITS, bitorder="little")
    row = bits.reshape(*codes.shape[:-1], -1)
    padded = np.pad(row, [(0, 0)] * (row.ndim - 1) + [(0, -row.shape[-1] % WORD_BITS)])
    words = padded.reshape(*codes.shape[:-1], -1, WORD_BITS)
    wide = np.pad(words, [(0, 0)] * (words.ndim - 1) + [(0, 64 - WORD_BITS)])
    return np.packbits(wide, axis=-1, bitorder="little").view("<u8")[..., 0]


def words_to_codes(words: np.ndarray, count: int) -> np.ndarray:
    """Codes uint8 [..., count] of 36-bit words; the inverse of `codes_to_words`."""
    pieces = np.ascontiguousarray(words, "<u8")[..., None].view(np.uint8)
    bits = np.unpackbits(pieces, axis=-1, count=WORD_BITS, bitorder="little")
    row = bits.reshape(*words.shape[:-1], -1)[..., : CODE_BITS * count]
    return np.packbits(row.reshape(*row.shape[:-1], count, CODE_BITS), axis=-1, bitorder="little")[..., 0]


def to_base3(trits: np.ndarray) -> np.ndarray:
    """Bytes of a flat trit sequence, five per byte, low power first; padded with zero trits."""
    digits = np.pad(trits.astype(np.int16).ravel(), (0, -trits.size % BASE3_TRITS)).reshape(-1, BASE3_TRITS) + 1
    return (digits @ np.array([1, 3, 9, 27, 81], np.int16)).astype(np.uint8)


def from_base3(data: np.ndarray) -> np.ndarray:
    """Trits int8 of base-3 bytes; the inverse of `to_base3`.

    Raises
    ------
    ValueError: a byte is above 242.
    """
    if data.max(initial=0) > 242:
        raise ValueError("weights hold a byte that is not base-3: the image is damaged, compile it again")
    powers = np.array([1, 3, 9, 27, 81], np.uint8)
    return (data[:, None] // powers % 3).astype(np.int8).ravel() - 1
