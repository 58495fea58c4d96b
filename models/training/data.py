"""Tokenizer in the llama2.c layout, token streams of the corpora, and random training windows."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path

import numpy as np

from host import tokenizer
from host.tokenizer import BYTE_PIECE, CONTROL_PIECES

UNKNOWN = 0
NEWLINE = b"<0x0A>"        # the only raw byte in the texts
SEPARATOR = "<|endoftext|>"
# The held-out text has no separators: a line opening with one of these starts a story.
STORY_OPENING = re.compile(r"^(?=Once upon a time|Once there )", re.MULTILINE)

TRAIN_FILE = "tinystories_train_clean.txt"
HELD_OUT_FILE = "tinystories_val_clean.txt"
TEACHER_FILE = "stories260K.bin"
TOKENIZER_FILE = "tok512.bin"


class Tokenizer(tokenizer.Tokenizer):
    """Greedy merging by score, as llama2.c's ``encode``, one word at a time with a cache.

    No piece has a space after its first byte, so merges never cross a space and the words of a
    text can be merged independently; the constructor checks this.

    Raises
    ------
    TritloomError: the file is no tokenizer; or a text has a character of which it has neither a piece nor the bytes.
    ValueError: a piece has a space after its first byte.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.read_bytes())
        if any(b" " in piece[1:] for piece in self.pieces):
            raise ValueError(f"{path}: a piece holds a space after its first byte")
        self._cache = {" ": super().encode(" ", bos=False)[:1]}

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """BOS, a leading space, then the merged pieces of ``text``."""
        tokens = [self.bos] if bos else []
        for word in re.findall(r" [^ ]*", " " + text):
            found = self._cache.get(word)
            if found is None:
                found = self._cache[word] = super().encode(word[1:], bos=False)
            tokens += found
        return tokens


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
    ValueError: the vocabulary has fewer pieces, or no more would be left than those that control.
    """

    def __init__(self, whole: Tokenizer, size: int) -> None:
        if not len(CONTROL_PIECES) < size <= len(whole.pieces):
            raise ValueError(f"a vocabulary of {len(whole.pieces)} pieces cannot be cut to {size}")
        raw = [i for i, piece in enumerate(whole.pieces) if BYTE_PIECE.fullmatch(piece) and piece != NEWLINE]
        others = sorted(set(range(len(CONTROL_PIECES), len(whole.pieces))) - set(raw))
        dropped = (others + raw)[size - len(CONTROL_PIECES) :]
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
