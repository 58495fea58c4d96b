"""Held-out loss by one procedure for student and teacher, and text sampled from a student.

Procedure: the held-out text is split into stories at the usual openings, each story is encoded
with BOS and a leading space, and the stories are concatenated. The first 140,000 tokens are cut
into consecutive windows of the student's context, each window judged on its own (no context from before
it), by student and teacher alike. The loss is the mean negative log-likelihood in nats over every predicted token.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from host.tokenizer import BOS
from models.training.data import Tokenizer, held_out_stories, token_stream
from models.training.export import load
from models.training.student import Student
from models.training.teacher import Teacher

HELD_OUT_TOKENS = 140_000


@torch.no_grad()
def mean_loss(logits: Callable[[Tensor], Tensor], tokens: np.ndarray, window: int, device: torch.device,
              windows_at_once: int = 16) -> float:
    """Nats per token over consecutive windows of a stream: ``logits`` maps [B, window] to [B*window, V]."""
    stream = torch.from_numpy(tokens.astype(np.int64)).to(device)
    count = (len(stream) - 1) // window
    inputs = stream[: count * window].view(count, window)
    labels = stream[1 : count * window + 1].view(count, window)
    total = 0.0
    for i in range(0, count, windows_at_once):
        predicted = logits(inputs[i : i + windows_at_once])
        total += nn.functional.cross_entropy(
            predicted, labels[i : i + windows_at_once].flatten(), reduction="sum"
        ).item()
    return total / (count * window)


def held_out_stream(tokenizer: Tokenizer, data: Path) -> np.ndarray:
    """All held-out tokens; the published loss uses the first HELD_OUT_TOKENS, tuning only the rest."""
    return token_stream(tokenizer, held_out_stories(data))


def student_loss(model: Path, tokens: np.ndarray, device: torch.device) -> float:
    """Held-out loss of an exported student; tokens of its vocabulary."""
    student = load(model).to(device)
    return round(mean_loss(student, tokens[:HELD_OUT_TOKENS], student.config.context, device), 4)


def teacher_loss(teacher: Teacher, tokens: np.ndarray, window: int) -> float:
    """Held-out loss of the teacher by the same procedure, with the context of a student."""
    return round(mean_loss(lambda t: teacher(t).flatten(0, 1), tokens[:HELD_OUT_TOKENS], window, teacher.device), 4)


@torch.no_grad()
def generate(model: Student, count: int, temperature: float, seed: int, prompt: list[int] | None = None) -> list[int]:
    """Continue ``prompt`` (BOS by default) to ``count`` tokens, the next BOS or the end of the context.

    Greedy at temperature 0.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt or [BOS])
    while len(tokens) < min(count, model.config.context):
        logits = model(torch.tensor([tokens]))[-1]
        if temperature == 0:
            chosen = int(logits.argmax())
        else:
            chosen = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
        if chosen == BOS:
            break
        tokens.append(chosen)
    return tokens


def sample_texts(model: Student, tokenizer: Tokenizer, count: int = 200) -> dict[str, str]:
    """A greedy story and one at temperature 0.7, by title."""
    return {
        "Greedy": tokenizer.decode(generate(model, count, 0.0, 0)),
        "Temperature 0.7, seed 1": tokenizer.decode(generate(model, count, 0.7, 1)),
    }
