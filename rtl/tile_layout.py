"""Layout of a weight tile on its way from the weight source to the tile engine."""

from amaranth.hdl import Value
from amaranth.lib import data

from rtl.config import CODE_BITS, sign_reference

TRIT = data.StructLayout({"nonzero": 1, "negative": 1})     # negative only if nonzero


def tile_layout(rows: int, codes: int) -> data.ArrayLayout:
    """Rows of table codes, in which the sign of each code is relative: see `rtl.config.sign_reference`."""
    return data.ArrayLayout(data.ArrayLayout(CODE_BITS, codes), rows)


def trits_layout(columns: int) -> data.ArrayLayout:
    """The one row of a tile where no tables are looked up: its trits."""
    return data.ArrayLayout(TRIT, columns)


def relative_signs(signs: list[Value]) -> list[Value]:
    """Relative signs of absolute ones, in the order of their codes."""
    return [sign if sign_reference(code) == code else sign ^ signs[sign_reference(code)]
            for code, sign in enumerate(signs)]
