"""Words of the stories as sequences of letters: corpus, held-out split, tokenizer file and simple baselines."""

from __future__ import annotations

import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from models.training.data import HELD_OUT_FILE, TRAIN_FILE

SEPARATOR = 0              # before each word and after it; the letters a to z are tokens 1 to 26
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = 1 + len(LETTERS)
SHORTEST, LONGEST = 3, 12  # letters
# Parts of words with an apostrophe are no words.
WORD = re.compile(rf"(?<![a-z'])[a-z]{{{SHORTEST},{LONGEST}}}(?![a-z'])")
HELD_OUT_SHARE = 10        # one word of so many


def encode(word: str) -> list[int]:
    """Tokens of a word, with the separator before it."""
    return [SEPARATOR, *(LETTERS.index(letter) + 1 for letter in word)]


def words(directory: Path) -> tuple[list[str], list[str]]:
    """Distinct words of all stories, in alphabetical order: those to train on, and every tenth or so held out."""
    text = "\n".join((directory / name).read_text() for name in (TRAIN_FILE, HELD_OUT_FILE)).lower()
    found = sorted(set(WORD.findall(text)))
    held_out = [word for word in found if zlib.crc32(word.encode()) % HELD_OUT_SHARE == 0]
    return sorted(set(found) - set(held_out)), held_out


def stream(chosen: list[str]) -> np.ndarray:
    """Tokens of words one after the other, with a last separator: int64 [n]."""
    return np.array([token for word in chosen for token in encode(word)] + [SEPARATOR])


def tokenizer_file() -> bytes:
    """The vocabulary in the layout of llama2.c: longest piece, then score, length and bytes of each."""
    pieces = [b"<s>", *(letter.encode() for letter in LETTERS)]
    body = b"".join(struct.pack("<fi", 0.0, len(piece)) + piece for piece in pieces)
    return struct.pack("<i", max(map(len, pieces))) + body


def baselines(train: list[str], held_out: list[str]) -> dict[str, float]:
    """Nats per character of held-out words by counts of letters alone, of pairs, and of triples in training words.

    Each count begins at one for pairs, and for triples at the pair's probability, so nothing is impossible.
    """
    seen, judged = stream(train), stream(held_out)
    unigram = np.bincount(seen, minlength=VOCABULARY) / len(seen)
    pairs = np.ones((VOCABULARY, VOCABULARY))
    np.add.at(pairs, (seen[:-1], seen[1:]), 1)
    bigram = pairs / pairs.sum(1, keepdims=True)
    # What lies before a separator says nothing about the next word.
    before = np.where(seen[1:-1] == SEPARATOR, SEPARATOR, seen[:-2])
    triples = np.broadcast_to(VOCABULARY * bigram, (VOCABULARY,) * 3).copy()
    np.add.at(triples, (before, seen[1:-1], seen[2:]), 1)
    trigram = triples / triples.sum(2, keepdims=True)
    last, middle, target = np.concatenate([[SEPARATOR], judged[:-2]]), judged[:-1], judged[1:]
    last = np.where(middle == SEPARATOR, SEPARATOR, last)
    return {
        "uniform": math.log(VOCABULARY),
        "letters": -float(np.log(unigram[target]).mean()),
        "pairs": -float(np.log(bigram[middle, target]).mean()),
        "triples": -float(np.log(trigram[last, middle, target]).mean()),
    }
