"""What the block RAMs of an accelerator hold for a model: every memory as a table of bits."""

import math
from collections.abc import Mapping

import numpy as np

from host.errors import TritloomError
from host.image import Image
from rtl.config import CODE_BITS, DRAFT_TAG_BITS, DRAFT_WAYS, WORD_BITS, Config
from rtl.csr_map import RAM_BYTES, Space
from rtl.firmware_build import with_image_id
from rtl.isa import PROGRAM_BITS

NOISE_SEED = 1
PIECE_BITS = 32
ROTARY_BITS = 32           # a cosine and a sine
PROGRAM_PIECE_BITS = tuple(min(32, PROGRAM_BITS - first) for first in range(0, PROGRAM_BITS, 32))

Memories = Mapping[str, np.ndarray]     # uint8 [depth, width] of bits, low bit first, by name


def block_memories(image: Image, firmware: bytes) -> Memories:
    """Contents of every memory that a bitstream fills for a model, as loading it over the link would leave them.

    Parameters
    ----------
    image : the model.
    firmware : of the CPU, from `rtl.firmware_build.build_firmware`.

    Raises
    ------
    TritloomError: the model does not fit the memories of its configuration.
    """
    c = image.config
    held = 0 if c.weight_source == "sdram" else image.image_id
    ram = np.frombuffer(with_image_id(firmware, held), "<u4")
    memories = {"firmware": _table("firmware", _bits(ram[:, None]), RAM_BYTES // 4, PIECE_BITS)}
    for space, _, words in image.load_words():
        match space:
            case Space.PROGRAM:
                bits = _bits(words.reshape(-1, _stride(len(PROGRAM_PIECE_BITS))))
                memories["program"] = _table("program", bits, c.program_depth, PROGRAM_BITS)
            case Space.WEIGHTS:
                memories |= _weights(c, words)
            case Space.EMBEDDING:
                depth, width = c.embed_rows * c.embed_beats, c.lanes * c.embed_bits
                bits = _bits(words.reshape(-1, _stride(math.ceil(width / PIECE_BITS))))
                memories["embedding"] = _table("embedding", bits, depth, width)
            case Space.ROTARY:
                depth = 2 * (1 << _rotary_index_bits(c)) * _stride(c.head_dim // 2)
                factors = words.astype(np.uint16).reshape(-1, 2).view(np.uint32)
                memories["rotary"] = _table("rotary", _bits(factors), depth, ROTARY_BITS)
            case Space.DRAFTS:
                width = DRAFT_WAYS * (DRAFT_TAG_BITS + c.token_bits)
                bits = _bits(words.reshape(-1, _stride(math.ceil(width / PIECE_BITS))))
                memories["drafts"] = _table("drafts", bits, c.draft_sets, width)
    return memories


def noise(config: Config) -> tuple[Image, bytes]:
    """An image and a firmware that fill every memory with noise, always the same.

    In a chip that was routed with it each memory's contents can be recognised, see `host.block_map`.
    """
    c, chance = config, np.random.default_rng(NOISE_SEED)
    limits = [1 << bits for bits in PROGRAM_PIECE_BITS]
    sections = {
        "program": chance.integers(0, limits, (c.program_depth, len(limits)), np.uint64).astype(np.uint32),
        "embedding": chance.integers(0, 1 << c.embed_bits, (c.embed_rows, c.embed_beats * c.lanes), np.uint8),
        "rotary": chance.integers(-1 << 15, 1 << 15, (2, 1 << _rotary_index_bits(c), c.head_dim // 2, 2), np.int16),
        "tokenizer": np.zeros(0, np.uint8)}
    if c.draft_sets:
        limit = 1 << DRAFT_TAG_BITS + c.token_bits
        sections["drafts"] = chance.integers(0, limit, (c.draft_sets, DRAFT_WAYS), np.uint32)
    if c.weight_source == "sdram":
        sections["stream"] = np.zeros(0, np.uint8)
    else:
        widths = [1 << _word_bits(c, word) for _ in range(c.rows) for word in range(c.row_words)]
        sections["weights"] = chance.integers(0, widths, (c.weight_depth, len(widths)), np.uint64)
    return Image(c, {"name": "noise"}, sections), chance.bytes(RAM_BYTES)


def _weights(c: Config, words: np.ndarray) -> Memories:
    """One memory for each word of each row."""
    tiles = words.reshape(-1, _stride(c.rows), _stride(c.row_words), 2)
    return {f"weights {row} {word}": _table("weights", _bits(tiles[:, row, word]), c.weight_depth, _word_bits(c, word))
            for row in range(c.rows) for word in range(c.row_words)}


def _word_bits(c: Config, word: int) -> int:
    """Bits of one word of a row of weights; the last one may be short."""
    return min(WORD_BITS, CODE_BITS * c.codes - word * WORD_BITS)


def _rotary_index_bits(c: Config) -> int:
    return (c.context_log2 + 1) // 2


def _stride(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _bits(words: np.ndarray) -> np.ndarray:
    """Bits of rows of 32-bit words, low bit first."""
    return np.unpackbits(np.ascontiguousarray(words, "<u4").view(np.uint8), axis=1, bitorder="little")


def _table(name: str, bits: np.ndarray, depth: int, width: int) -> np.ndarray:
    """The bits as a memory of that many words, zeros behind the last one given.

    Raises
    ------
    TritloomError: there are too many words.
    """
    if len(bits) > depth:
        raise TritloomError(f"the model does not fit: {len(bits)} words of {name}, the memory has {depth}")
    return np.pad(bits[:, :width], ((0, depth - len(bits)), (0, 0)))
