"""Which bit of which memory lies where in the block RAMs of a routed chip.

Synthesis cuts memories into blocks as it likes, and place and route numbers the blocks. Both are found out and not
assumed: the chip is routed with noise in every memory, and each column of a block is recognised by its noise.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from host.block_memory import Memories
from host.ecp5_bitstream import VALUE_BITS, VALUES, Bitstream
from host.errors import TritloomError

WIDTHS = (36, 18, 9, 4, 2, 1)      # of a block's words; below 9 the ninth bit of each value is unused


class Column(NamedTuple):
    """One bit of all words of a block: bit ``bit`` of the words ``first``, ``first + step``, ... of a memory."""

    memory: str
    bit: int
    first: int
    step: int


class Block(NamedTuple):
    """One block RAM: its number in the bitstream, the width of its words, and what each bit of them holds."""

    number: int
    width: int
    columns: tuple[Column | None, ...]


def find_blocks(contents: Mapping[int, np.ndarray], memories: Memories) -> list[Block]:
    """The blocks that hold the memories.

    Parameters
    ----------
    contents : of each block RAM of a chip that was made with ``memories``, as from `Bitstream.contents`.
    memories : noise.

    Raises
    ------
    TritloomError: part of a memory is not in block RAM, or a block holds more than memories.
    """
    known = {width: _known_columns(memories, _depth(width)) for width in WIDTHS}
    blocks = []
    for number, values in contents.items():
        block = _recognise(number, values, known)
        if block is not None:
            blocks.append(block)
    found = {name: np.zeros(bits.shape, bool) for name, bits in memories.items()}
    for block in blocks:
        for column in filter(None, block.columns):
            found[column.memory][_rows(column, _depth(block.width)), column.bit] = True
    for name, bits in found.items():
        if not bits.all():
            raise TritloomError(f"memory {name!r}: {np.count_nonzero(~bits)} of {bits.size} bits are not in block RAM, "
                                "so the bitstream could not take another model")
    return blocks


def fill_blocks(bitstream: Bitstream, blocks: Sequence[Block], memories: Memories) -> None:
    """Write the memories into the blocks that hold them.

    Parameters
    ----------
    bitstream : of the chip in which ``blocks`` were found.
    blocks : from `find_blocks`.
    memories : new contents, of the shapes that ``blocks`` were found with.
    """
    for block in blocks:
        bits = np.zeros((_depth(block.width), block.width), np.uint8)
        for at, column in enumerate(block.columns):
            if column is not None:
                values = memories[column.memory][_rows(column, len(bits)), column.bit]
                bits[:len(values), at] = values
        bitstream.replace(block.number, _to_values(bits))


def _depth(width: int) -> int:
    """Words of a block; the ninth bits of values do not make it deeper."""
    return VALUES * (VALUE_BITS - 1) // (width - width // VALUE_BITS)


def _rows(column: Column, depth: int) -> slice:
    """Words of the memory that a column of a block of that depth holds."""
    return slice(column.first, column.first + column.step * depth, column.step)


def _words_of(values: np.ndarray, width: int) -> np.ndarray:
    """The bits of a block as words, [depth, width]."""
    used = values if width >= VALUE_BITS else values[:, :VALUE_BITS - 1]
    return used.reshape(-1, width)


def _to_values(words: np.ndarray) -> np.ndarray:
    """The bits of a block's words as the bitstream has them."""
    if words.shape[1] >= VALUE_BITS:
        return words.reshape(VALUES, VALUE_BITS)
    return np.pad(words.reshape(VALUES, VALUE_BITS - 1), ((0, 0), (0, 1)))


def _keys(bits: np.ndarray, depth: int) -> list[bytes]:
    """What identifies each column of a table of at most ``depth`` words."""
    padded = np.pad(bits, ((0, depth - len(bits)), (0, 0)))
    return [column.tobytes() for column in np.packbits(padded, axis=0).T]


def _known_columns(memories: Memories, depth: int) -> dict[bytes, Column | None]:
    """Every column that a block of that depth can hold; None where there are several such.

    A memory that is deeper is cut into parts of consecutive words, or dealt out to parts in turn.
    """
    known: dict[bytes, Column | None] = {}
    for name, bits in memories.items():
        parts = -(-len(bits) // depth)
        turns = 1 << (parts - 1).bit_length()
        cuts = {(part * depth, 1) for part in range(parts)} | {(part, turns) for part in range(turns)}
        for first, step in sorted(cuts):
            for bit, key in enumerate(_keys(bits[_rows(Column(name, 0, first, step), depth)], depth)):
                known[key] = None if key in known else Column(name, bit, first, step)
    return known


def _recognise(number: int, values: np.ndarray, known: dict[int, dict[bytes, Column | None]]) -> Block | None:
    """The block with those contents; None if no memory is in it."""
    seen = 0
    for width in WIDTHS:
        words = _words_of(values, width)
        used = words.any(axis=0)
        columns = tuple(known[width].get(key) if in_use else None
                        for key, in_use in zip(_keys(words, len(words)), used, strict=True))
        seen = max(seen, sum(column is not None for column in columns))
        if seen and all(column is not None for column, in_use in zip(columns, used, strict=True) if in_use):
            return Block(number, width, columns)
    if seen:
        raise TritloomError(f"block RAM {number} holds part of a memory, and something else that is not known")
    return None
