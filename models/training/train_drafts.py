"""Learn the drafts of a model: ``python -m models.training.train_drafts``.

The model reads the training text, and what it finds likely after each position is summed by the last one to four
tokens. The contexts that change most guesses for the better are written beside the model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from safetensors.numpy import save_file

from host.drafts import DRAFTS_FILE
from models.training.card import write_card
from models.training.data import Tokenizer, sha256, token_stream, training_stories
from models.training.export import load
from models.training.ngrams import choose, count
from rtl.config import DRAFT_TOKENS

ROOT = Path(__file__).resolve().parents[2]
WINDOWS_AT_ONCE = 16
LIKELY = 8                 # tokens after each position that are summed


@torch.inference_mode()
def likely_tokens(model: Path, tokens: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest tokens after each position of a text of whole windows, and their probabilities: [n, LIKELY]."""
    student = load(model)
    windows = torch.from_numpy(tokens.astype(np.int64)).view(-1, student.config.context)
    ids, weights = [], []
    for start in track(range(0, len(windows), WINDOWS_AT_ONCE), description="the model reads", console=Console()):
        probabilities = (student(windows[start : start + WINDOWS_AT_ONCE]) / temperature).softmax(-1)
        top = probabilities.topk(LIKELY, -1)
        ids.append(top.indices.numpy())
        weights.append(top.values.double().numpy())
    return np.concatenate(ids), np.concatenate(weights)


def write_drafts(path: Path, drafts: list[tuple[tuple[int, ...], int]], metadata: dict[str, str]) -> None:
    """Write contexts and drafts as `host.drafts.read_drafts` reads them, atomically."""
    contexts = np.zeros((len(drafts), DRAFT_TOKENS), np.uint16)
    for row, (context, _) in zip(contexts, drafts, strict=True):
        row[: len(context)] = context
    partial = path.with_suffix(".part")
    save_file({"contexts": contexts, "lengths": np.array([len(context) for context, _ in drafts], np.uint8),
               "drafts": np.array([token for _, token in drafts], np.uint16)}, partial, metadata)
    partial.chmod(0o644)
    os.replace(partial, path)


def main(
    data: Annotated[Path, typer.Option(help="Folder with the training text.")] = ROOT.parent / "shared/data",
    model: Annotated[Path, typer.Option(help="Folder of the model; the drafts are written there.")] = ROOT
    / "models/stories1m",
    tokens: Annotated[int, typer.Option(help="Tokens of text that the model reads.")] = 600_000,
    contexts: Annotated[int, typer.Option(help="Contexts to write.")] = 8960,
    temperature: Annotated[float, typer.Option(help="At which tokens are to be guessed.")] = 0.8,
    threads: Annotated[int, typer.Option(help="Threads of the tensor library.")] = 1,
) -> None:
    """Learn which tokens usually follow which, for the drafter."""
    torch.set_num_threads(threads)
    tokenizer = Tokenizer(model / "tokenizer.bin")
    window = load(model).config.context
    text = token_stream(tokenizer, training_stories(data))
    text = text[: min(tokens, len(text)) // window * window]
    ids, weights = likely_tokens(model, text, temperature)
    counts = [count(text, ids, weights, length, len(tokenizer.pieces)) for length in range(1, DRAFT_TOKENS + 1)]
    drafts = choose(counts, contexts)
    write_drafts(model / DRAFTS_FILE, drafts, {
        "model_sha256": sha256(model / "model.safetensors"), "tokens": str(len(text)), "temperature": str(temperature)})
    write_card(model)
    lengths = np.bincount([len(context) for context, _ in drafts], minlength=DRAFT_TOKENS + 1)[1:]
    print(f"{model / DRAFTS_FILE}: {len(drafts)} contexts, of 1 to {DRAFT_TOKENS} tokens {lengths.tolist()}")


if __name__ == "__main__":
    typer.run(main)
