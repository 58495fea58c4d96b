"""What tests of the trainer share: a teacher of random weights, its vocabulary, and the shape of a small student."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch

from host.tokenizer import CONTROL_PIECES
from models.training.data import Tokenizer
from models.training.student import StudentConfig
from models.training.teacher import Teacher

CPU = torch.device("cpu")
DIM, FF, LAYERS, HEADS, GROUPS, VOCAB, CONTEXT = 8, 12, 2, 2, 1, 16, 32
SMALL = StudentConfig(vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2, num_kv_heads=1,
                      head_dim=4, context=8)


def write_teacher(path: Path) -> Teacher:
    """Random weights in the llama2.c layout."""
    kv = GROUPS * DIM // HEADS
    count = (VOCAB * DIM + LAYERS * (2 * DIM + 2 * DIM * DIM + 2 * kv * DIM + 3 * FF * DIM) + DIM)
    weights = np.random.default_rng(1).normal(size=count).astype("<f4")
    path.write_bytes(struct.pack("<7i", DIM, FF, LAYERS, HEADS, GROUPS, VOCAB, CONTEXT) + weights.tobytes())
    return Teacher(path, CPU)


# Three control pieces, raw bytes of which only the newline is of use, and letters, the rarest last.
PIECES = [*CONTROL_PIECES, b"<0x09>", b"<0x0A>", b"<0x0B>", *(bytes([letter]) for letter in b" etaoinshr")]


def tokenizer_file(pieces: list[bytes]) -> bytes:
    """A vocabulary in the llama2.c layout."""
    return struct.pack("<i", 7) + b"".join(struct.pack("<fi", -float(number), len(piece)) + piece
                                           for number, piece in enumerate(pieces))


def write_vocabulary(path: Path) -> Tokenizer:
    """A vocabulary of ``VOCAB`` pieces."""
    path.write_bytes(tokenizer_file(PIECES))
    return Tokenizer(path)
