"""Loader writes of memories whose words are wider than those of the loader."""

from amaranth import Cat, Module, Signal, Value
from amaranth.utils import ceil_log2

PIECE_BITS = 32


def wide_write(m: Module, load: Value, width: int) -> tuple[Value, Value, Value]:
    """Enable, address and data of the write that the last piece of a word makes.

    Parameters
    ----------
    load : loader port; its address is ``word | piece``, low bits of the word first.
    width : bits of a word, more than one piece.
    """
    pieces = -(-width // PIECE_BITS)
    piece_bits = ceil_log2(pieces)
    piece = load.address[:piece_bits]
    held = Signal((pieces - 1) * PIECE_BITS, reset_less=True)
    with m.If(load.enable):
        m.d.sync += held.word_select(piece, PIECE_BITS).eq(load.data)
    return load.enable & (piece == pieces - 1), load.address[piece_bits:], Cat(held, load.data)[:width]
