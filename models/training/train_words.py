"""Train the model of words: ``python -m models.training.train_words``.

Windows of the words one after the other, in a new order for each pass; half of the windows begin with a word, as
generation does. The rest is the student's own: its quantisers in the loop, Muon for matrices, Adam for embedding and
head, and a learning rate that warms up and falls linearly to zero.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from models.training.data import HELD_OUT_FILE, TRAIN_FILE, sha256
from models.training.export import export, load
from models.training.optim import Rates, StudentOptimisers
from models.training.student import Student, StudentConfig
from models.training.words import LONGEST, SEPARATOR, VOCABULARY, baselines, encode, stream, tokenizer_file, words
from models.training.words_card import write_card

ROOT = Path(__file__).resolve().parents[2]
# With rotary in place of learned positions and three matrices of 48 in place of two of 64: 4,192 weights, as microGPT.
SHAPE = StudentConfig(
    vocab_size=VOCABULARY, hidden_size=16, intermediate_size=48, num_layers=1, num_heads=4, num_kv_heads=4, head_dim=4,
    context=16)
IGNORED = -100             # a label that the loss leaves out


@dataclass(frozen=True, kw_only=True)
class Options(Rates):
    """Everything that decides a run besides the data."""

    seed: int
    steps: int
    windows: int = 256
    opening_share: float = 0.5


class Windows:
    """Random windows of the words, each of which follows the one before by chance.

    Parameters
    ----------
    chosen : the words.
    rng : decides order and windows.
    """

    def __init__(self, chosen: list[str], rng: np.random.Generator) -> None:
        self._chosen, self._rng, self._left = chosen, rng, 0

    def sample(self, count: int, context: int, opening_share: float) -> tuple[Tensor, Tensor]:
        """Inputs and labels, int64 [count, context]."""
        if self._left < 1:
            order = self._rng.permutation(len(self._chosen))
            self._tokens = stream([self._chosen[index] for index in order])
            self._left = len(self._tokens) // (count * context) + 1
        self._left -= 1
        last = len(self._tokens) - context - 1
        openings = np.flatnonzero(self._tokens[:last] == SEPARATOR)
        starts = np.where(self._rng.random(count) < opening_share, self._rng.choice(openings, count),
                          self._rng.integers(0, last, count))
        index = starts[:, None] + np.arange(context)
        return torch.from_numpy(self._tokens[index]), torch.from_numpy(self._tokens[index + 1])


def padded(chosen: list[str]) -> tuple[Tensor, Tensor]:
    """Each word by itself: inputs and labels int64 [words, LONGEST + 1], labels IGNORED after its separator."""
    inputs = torch.zeros(len(chosen), LONGEST + 1, dtype=torch.int64)
    labels = torch.full_like(inputs, IGNORED)
    for row, word in enumerate(chosen):
        tokens = torch.tensor([*encode(word), SEPARATOR])
        inputs[row, : len(tokens) - 1], labels[row, : len(tokens) - 1] = tokens[:-1], tokens[1:]
    return inputs, labels


@torch.no_grad()
def loss_of(model: nn.Module, chosen: list[str]) -> float:
    """Nats per character, separators included, of words that each begin in an empty context."""
    inputs, labels = padded(chosen)
    return nn.functional.cross_entropy(model(inputs), labels.flatten(), ignore_index=IGNORED).item()


def train(options: Options, chosen: list[str], held_out: list[str]) -> tuple[Student, list[dict[str, float]]]:
    """The trained student, and its losses on the way."""
    torch.manual_seed(options.seed)
    windows = Windows(chosen, np.random.default_rng(options.seed))
    model = Student(SHAPE)
    optimisers = StudentOptimisers(model, options)
    curve, losses = [], []
    for step in range(options.steps):
        inputs, labels = windows.sample(options.windows, SHAPE.context, options.opening_share)
        loss = nn.functional.cross_entropy(model(inputs), labels.flatten())
        loss.backward()
        losses.append(loss.item())
        optimisers.set_rates((step + 1) / options.steps)
        optimisers.step()
        if (step + 1) % max(1, options.steps // 20) == 0:
            curve.append({"step": step + 1, "train": round(float(np.mean(losses)), 4),
                          "held_out": round(loss_of(model, held_out), 4)})
            losses = []
            print(curve[-1], flush=True)
    return model, curve


def publish(model: Student, options: Options, data: Path, out: Path, record: dict[str, Any]) -> None:
    """Export the student, judge the exported files, write the record and the card."""
    export(model, out, tokenizer_file(), bos=SEPARATOR, eos=SEPARATOR)
    chosen, held_out = words(data)
    published = load(out)
    record |= {
        "options": asdict(options),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "sha256": {name: sha256(data / name) for name in (TRAIN_FILE, HELD_OUT_FILE)},
        "words": {"train": len(chosen), "held_out": len(held_out)},
        "nats_per_character": {name: round(value, 4) for name, value in {
            "model": loss_of(published, held_out), "model_on_training_words": loss_of(published, chosen),
            **baselines(chosen, held_out)}.items()},
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    write_card(record, published, {*chosen, *held_out}, out / "README.md")


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 3000,
    seed: Annotated[int, typer.Option(help="Seed of initial weights and windows.")] = 1,
    data: Annotated[Path, typer.Option(help="Folder with the stories.")] = ROOT.parent / "shared/data",
    out: Annotated[Path, typer.Option(help="Folder of the published model.")] = ROOT / "models/words4k",
    matrix_lr: Annotated[float, typer.Option(help="Peak learning rate of the matrices (Muon).")] = Options.matrix_lr,
    matrix_decay: Annotated[float, typer.Option(help="Decay of the matrices.")] = Options.matrix_decay,
    embed_lr: Annotated[float, typer.Option(help="Peak learning rate of the embedding.")] = Options.embed_lr,
    head_lr: Annotated[float, typer.Option(help="Peak learning rate of the head.")] = Options.head_lr,
) -> None:
    """Train the model of words and publish it."""
    torch.set_num_threads(1)
    options = Options(seed=seed, steps=steps, matrix_lr=matrix_lr, matrix_decay=matrix_decay, embed_lr=embed_lr,
                      head_lr=head_lr)
    started = time.monotonic()
    model, curve = train(options, *words(data))
    publish(model, options, data, out, {"training_seconds": round(time.monotonic() - started), "curve": curve})


if __name__ == "__main__":
    typer.run(main)
