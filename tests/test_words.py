"""The published checkpoint models/words4k: its size, its loss as the hardware computes it, and its papers."""

import json
import re
from dataclasses import replace

import numpy as np

from host.compiler import compile_checkpoint
from host.importer import load_checkpoint
from host.tokenizer import Tokenizer
from rtl.config import NANO
from sim.golden import Golden
from sim.reference import Reference
from tests.shapes import SHAPES, WORDS
from tests.test_golden import golden_logits
from tests.test_planes import divergence

RECORD = json.loads((WORDS / "training.json").read_text())
CARD = (WORDS / "README.md").read_text()
# Some of the words that models/training/words.py holds out.
HELD_OUT = ("able", "above", "accept", "accidentally", "admitted", "allow", "angel", "announced", "annoyed", "any")


def losses(logits: np.ndarray, labels: list[int]) -> np.ndarray:
    """Nats of each label: logits [T, vocab]."""
    peak = logits.max(1)
    return np.log(np.exp(logits - peak[:, None]).sum(1)) + peak - logits[np.arange(len(labels)), labels]


def test_it_has_as_many_weights_as_microgpt() -> None:
    """Another shape than the one it is compared by."""
    checkpoint = load_checkpoint(WORDS, NANO)
    assert checkpoint.shape == replace(SHAPES["nano"], residual_fraction=checkpoint.shape.residual_fraction)
    assert sum(tensor.integers.size for tensor in checkpoint.tensors.values()) == 4192


def test_golden_model_has_the_published_loss() -> None:
    """Heads, words of the cache or letters in another order than the model was trained with."""
    checkpoint = load_checkpoint(WORDS, NANO)
    golden, reference = Golden(compile_checkpoint(checkpoint, NANO)), Reference(checkpoint)
    tokenizer = Tokenizer(checkpoint.tokenizer)
    nats = []
    for word in HELD_OUT:
        tokens = tokenizer.encode(word)
        computed = golden_logits(golden, tokens)
        assert divergence(reference.logits(np.array(tokens)), computed) < 0.01, word
        nats.append(losses(computed, [*tokens[1:], tokenizer.bos]))
    quoted = RECORD["nats_per_character"]
    assert abs(np.concatenate(nats).mean() - quoted["model"]) < 0.1
    assert quoted["model"] < quoted["pairs"] < quoted["letters"] < quoted["uniform"]


def test_card_states_the_recorded_losses() -> None:
    """A card left over from another checkpoint would quote other numbers."""
    quoted = re.findall(r"\| (\d\.\d{4}) \|$", CARD, re.MULTILINE)
    names = ("model", "uniform", "letters", "pairs", "triples")
    assert quoted == [f"{RECORD['nats_per_character'][name]:.4f}" for name in names]
    assert RECORD["curve"][-1]["step"] == RECORD["options"]["steps"]
