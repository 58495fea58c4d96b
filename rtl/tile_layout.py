"""Layout of a weight tile on its way from the weight source to the tile engine."""

from amaranth.hdl import Value
from amaranth.lib import data

from rtl.config import CODE_BITS, sign_reference


def tile_layout(rows: int, codes: int) -> data.ArrayLayout:
    """Rows of table codes, in which the sign of each code is relative: see `rtl.config.sign_reference`."""
    return data.ArrayLayout(data.ArrayLayout(CODE_BITS, codes), rows)


def relative_signs(signs: list[Value]) -> list[Value]:
    """Relative signs of absolute ones, in the order of their codes."""
    return [sign if sign_reference(code) == code else sign ^ signs[sign_reference(code)]
            for code, sign in enumerate(signs)]
