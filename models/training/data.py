"""Tokenizer in the llama2.c layout, token streams of the corpora, and random training windows."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path

import numpy as np

UNKNOWN, BOS = 0, 1
BYTE_PIECE = re.compile(rb"<0x([0-9A-F]{2})>")      # of a raw byte, for characters that have no piece
NEWLINE = b"<0x0A>"                                 # the only raw byte in the texts
SEPARATOR = "<|endoftext|>"
# The held-out text has no separators: a line opening with one of these starts a story.
STORY_OPENING = re.compile(r"^(?=Once upon a time|Once there )", re.MULTILINE)

TRAIN_FILE = "tinystories_train_clean.txt"
HELD_OUT_FILE = "tinystories_val_clean.txt"
TEACHER_FILE = "stories260K.bin"
TOKENIZER_FILE = "tok512.bin"


class Tokenizer:
    """Greedy merging by score, as llama2.c's ``encode``, one word at a time with a cache.

    No piece has a space after its first byte, so merges never cross a space and the words of a
    text can be merged independently; the constructor checks this.

    Raises
    ------
    KeyError: a text has a character of which the vocabulary has neither a piece nor the bytes.
    """

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        self.pieces: list[bytes] = []
        self.scores: list[float] = []
        offset = 4
        while offset < len(raw):
            score, length = struct.unpack_from("<fi", raw, offset)
            self.pieces.append(raw[offset + 8 : offset + 8 + length])
            self.scores.append(score)
            offset += 8 + length
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}
        self._raw = {bytes([int(found[1], 16)]): i for i, piece in enumerate(self.pieces)
                     if (found := BYTE_PIECE.fullmatch(piece))}
        if any(b" " in piece[1:] for piece in self.pieces):
            raise ValueError(f"{path}: a piece holds a space after its first byte")
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """BOS, a leading space, then the merged pieces of ``text``."""
        tokens = [BOS]
        for word in re.findall(r" [^ ]*|^[^ ]+", " " + text):
            found = self._cache.get(word)
            if found is None:
                found = self._cache[word] = self._merge(word)
            tokens += found
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """Text of ``tokens``; the space that follows BOS is dropped."""
        parts: list[bytes] = []
        previous = 0
        for token in tokens:
            piece = self.pieces[token]
            if found := BYTE_PIECE.fullmatch(piece):
                piece = bytes([int(found[1], 16)])
            if previous == BOS and piece.startswith(b" "):
                piece = piece[1:]
            if token != BOS:
                parts.append(piece)
            previous = token
        return b"".join(parts).decode("utf-8", errors="replace")

    def _merge(self, word: str) -> list[int]:
        ids: list[int] = []
        for character in word:
            encoded = character.encode()
            known = self._ids.get(encoded)
            ids += [known] if known is not None else [self._raw[bytes([byte])] for byte in encoded]
        while True:
            best, where, merged = -1e10, -1, -1
            for i in range(len(ids) - 1):
                pair = self._ids.get(self.pieces[ids[i]] + self.pieces[ids[i + 1]])
                if pair is not None and self.scores[pair] > best:
                    best, where, merged = self.scores[pair], i, pair
            if where < 0:
                return ids
            ids[where : where + 2] = [merged]


class Vocabulary:
    """The pieces of a vocabulary that a smaller one keeps, in their order.

    Raw bytes go first, but for the newline, then the rarest characters, which are the last pieces. The texts have no
    character that is neither a newline nor a piece of its own, so the vocabulary of 512 pieces that the teacher has
    spends half of its embedding and head on nothing.

    Parameters
    ----------
    whole : the vocabulary.
    size : number of pieces to keep.

    Members
    -------
    kept : int64 [size], numbers that the pieces have in the whole vocabulary.

    Raises
    ------
    ValueError: the vocabulary has fewer pieces.
    """

    def __init__(self, whole: Tokenizer, size: int) -> None:
        if size > len(whole.pieces):
            raise ValueError(f"a vocabulary of {len(whole.pieces)} pieces has no {size}")
        droppable = [i for i, piece in enumerate(whole.pieces) if BYTE_PIECE.fullmatch(piece) and piece != NEWLINE]
        rare = sorted(set(range(len(whole.pieces))) - set(droppable), reverse=True)
        dropped = (droppable[::-1] + rare)[: len(whole.pieces) - size]
        self.kept = np.setdiff1d(np.arange(len(whole.pieces)), dropped)
        self._whole = whole

    def own(self, tokens: np.ndarray, *, whole: bool = False) -> np.ndarray:
        """Tokens of the whole vocabulary as those of this one; what it has not kept becomes `UNKNOWN`.

        Raises
        ------
        ValueError: there are such, and the text is asked for ``whole``.
        """
        places = np.full(len(self._whole.pieces), UNKNOWN)
        places[self.kept] = np.arange(len(self.kept))
        if whole and (lost := np.setdiff1d(tokens, self.kept)).size:
            raise ValueError(f"the text has the piece {self._whole.pieces[lost[0]]!r}, which is not among the "
                             f"{len(self.kept)} pieces of the model")
        return places[tokens]

    def file(self) -> bytes:
        """The pieces as a tokenizer in the llama2.c layout."""
        pieces = [(self._whole.scores[i], self._whole.pieces[i]) for i in self.kept]
        return struct.pack("<i", max(len(piece) for _, piece in pieces)) + b"".join(
            struct.pack("<fi", score, len(piece)) + piece for score, piece in pieces)


def training_stories(directory: Path) -> list[str]:
    """Stories of the training text, stripped."""
    text = (directory / TRAIN_FILE).read_text()
    return [story.strip() for story in text.split(SEPARATOR) if story.strip()]


def held_out_stories(directory: Path) -> list[str]:
    """Stories of the held-out text, split at the usual openings, stripped."""
    text = (directory / HELD_OUT_FILE).read_text()
    return [story.strip() for story in STORY_OPENING.split(text) if story.strip()]


def token_stream(tokenizer: Tokenizer, stories: list[str]) -> np.ndarray:
    """Concatenated tokens of all stories, each with its BOS: uint16 [n]."""
    return np.concatenate([np.array(tokenizer.encode(story), dtype=np.uint16) for story in stories])


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
