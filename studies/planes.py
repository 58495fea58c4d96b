"""What trit planes cost an ordinary model: its golden model on held-out text, against its floats."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from host.checkpoint import Tensor
from host.compiler import compile_checkpoint
from host.importer import import_checkpoint
from host.planes import MOST_PLANES, PlaneBudget
from models.training.data import TEACHER_FILE, TOKENIZER_FILE, Tokenizer, held_out_stories, token_stream
from rtl.config import LLAMA
from sim.golden import Golden
from sim.reference import Reference

WINDOW = 256


class Floats(PlaneBudget):
    """Leaves weights as they are."""

    def quantise(self, name: str, weights: np.ndarray, limit: int) -> Tensor:
        return Tensor(weights, 1.0, limit)


class FloatReference(Reference):
    """A reference without any quantiser."""

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self._tensors[name].integers.T


def windows(data: Path, count: int) -> np.ndarray:
    """Consecutive windows [count, WINDOW + 1] of held-out stories, each with the token that follows it."""
    tokens = token_stream(Tokenizer(data / TOKENIZER_FILE), held_out_stories(data)).astype(np.int64)
    return np.array([tokens[start : start + WINDOW + 1] for start in range(0, count * WINDOW, WINDOW)])


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Of logits [..., vocab]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def float_predictions(data: Path, texts: np.ndarray) -> np.ndarray:
    """Log-probabilities [texts, T, vocab] of the float model after each token of texts [texts, T]."""
    reference = FloatReference(import_checkpoint(data / TEACHER_FILE, config=LLAMA, budget=Floats())[0])
    return log_probabilities(np.array([reference.logits(text) for text in texts]))


def golden_predictions(data: Path, texts: np.ndarray, budget: PlaneBudget) -> tuple[np.ndarray, int]:
    """The same of the golden model, and the predicted cycles of its first token."""
    image = compile_checkpoint(import_checkpoint(data / TEACHER_FILE, config=LLAMA, budget=budget)[0], LLAMA)
    golden = Golden(image)
    return log_probabilities(np.array([golden.logits(text.tolist()) for text in texts])), image.predicted_cycles(0)


def losses(predictions: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Mean nats per token of each text [texts, T + 1]."""
    return -np.take_along_axis(predictions, texts[:, 1:, None], axis=2).mean(axis=(1, 2))


def rows(data: Path, texts: np.ndarray) -> Iterator[str]:
    """A line per number of planes."""
    real = float_predictions(data, texts[:, :-1])
    yield f"floats     loss {losses(real, texts).mean():.4f}"
    budgets = {f"{planes} planes": PlaneBudget(planes) for planes in range(MOST_PLANES, 0, -1)}
    for name, budget in ({"default": PlaneBudget()} | budgets).items():
        found, cycles = golden_predictions(data, texts[:, :-1], budget)
        above = losses(found, texts) - losses(real, texts)
        divergence = (np.exp(real) * (real - found)).sum(axis=-1).mean()
        yield (f"{name:10} loss {losses(found, texts).mean():.4f}, {above.mean():+.4f} +- "
               f"{above.std() / len(above)**0.5:.4f}; KL {divergence:.4f}; {cycles:,} cycles")


def main(
    data: Annotated[Path, typer.Argument(help=f"Folder with the held-out text, {TEACHER_FILE} and {TOKENIZER_FILE}.")],
    tokens: Annotated[int, typer.Option(help="Tokens of text.")] = 16384,
) -> None:
    """Print the loss of stories260K by number of trit planes."""
    for row in rows(data, windows(data, -(-tokens // WINDOW))):
        print(row, flush=True)


if __name__ == "__main__":
    typer.run(main)
