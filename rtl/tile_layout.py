"""Layout of a weight tile on its way from the weight source to the tile engine."""

import numpy as np
from amaranth.hdl import Value
from amaranth.lib import data

from rtl.config import CODE_BITS, WORD_CODES

SIGN = CODE_BITS - 1       # position of the sign in a code


def tile_layout(rows: int, codes: int) -> data.ArrayLayout:
    """Rows of table codes, in which the sign of each code is relative: see `sign_reference`."""
    return data.ArrayLayout(data.ArrayLayout(CODE_BITS, codes), rows)


def sign_reference(code: int) -> int:
    """The code to whose sign that of ``code`` is relative; itself if the sign is absolute.

    The adder tree needs the exclusive or of the first signs of two branches wherever branches meet, and the first
    sign of the whole. Inside each group of seven codes the weight source has these ready, so the tree has no gates.
    """
    return code - code % WORD_CODES + (code % WORD_CODES & code % WORD_CODES - 1)


def relative_signs(signs: list[Value]) -> list[Value]:
    """Relative signs of absolute ones, in the order of their codes."""
    return [sign if sign_reference(code) == code else sign ^ signs[sign_reference(code)]
            for code, sign in enumerate(signs)]


def relative_words(words: np.ndarray) -> np.ndarray:
    """The same for 36-bit words of seven codes, uint64."""
    out = words.copy()
    for code in range(WORD_CODES):
        if sign_reference(code) != code:
            reference = words >> np.uint64(CODE_BITS * sign_reference(code) + SIGN) & np.uint64(1)
            out ^= reference << np.uint64(CODE_BITS * code + SIGN)
    return out
