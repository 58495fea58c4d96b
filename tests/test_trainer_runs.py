"""Whole runs of the trainer, from the command line to the published files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from models.training import data as corpora
from models.training import evaluate
from models.training import train as training
from models.training import trial as trials
from models.training.data import Tokenizer
from models.training.student import SHAPES
from tests.small_trainer import CONTEXT, CPU, PIECES, SMALL, tokenizer_file, write_teacher


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the trainer reads: a teacher of random weights, and texts of letters."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_teacher(folder / corpora.TEACHER_FILE)
    (folder / corpora.TOKENIZER_FILE).write_bytes(tokenizer_file(PIECES))
    stories = ["".join(np.random.default_rng(seed).choice(list("etaoin \n"), 60)) for seed in range(20)]
    (folder / corpora.TRAIN_FILE).write_text(corpora.SEPARATOR.join(stories))
    (folder / corpora.HELD_OUT_FILE).write_text("\n".join(stories))
    for module in (trials, evaluate):
        monkeypatch.setattr(module, "HELD_OUT_TOKENS", 400)
    monkeypatch.setattr(training, "SAMPLED_LENGTH", CONTEXT)
    monkeypatch.setitem(SHAPES, "small", replace(SMALL, vocab_size=14, hidden_size=32, intermediate_size=32))
    return folder


def run_trainer(data: Path, tmp_path: Path, *options: str) -> Result:
    """A few steps of it from the command line."""
    app = typer.Typer()
    app.command()(training.main)
    return CliRunner().invoke(app, [
        "--shape", "small", "--steps", "3", "--windows", "2", "--sampled-streams", "2", "--no-compiled",
        "--data", str(data), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), *options])


def test_a_run_publishes_what_it_says(data: Path, tmp_path: Path) -> None:
    """Files that disagree: a loss of another model, a tokenizer of another vocabulary; or a run that cannot go on."""
    assert run_trainer(data, tmp_path).exit_code == 0
    out = tmp_path / "out"
    tokenizer = Tokenizer(out / "tokenizer.bin")
    assert [piece for piece in PIECES if piece not in tokenizer.pieces] == [b"<0x09>", b"<0x0B>"]
    record = json.loads((out / "loss_curve.json").read_text())
    held_out = evaluate.held_out_stream(tokenizer, data)
    losses = record["held_out"]
    assert losses["student_nats_per_token"] == evaluate.student_loss(out, held_out, CPU)
    assert [point["step"] for point in record["curve"]] == [1, 3] and record["steps_done"] == 3
    assert f"| {losses['student_nats_per_token']:.4f} |" in (out / "README.md").read_text()
    assert run_trainer(data, tmp_path, "--start", str(out), "--settle-share", "0.5").exit_code == 0
    assert run_trainer(data, tmp_path, "--resume").exit_code == 0


@pytest.mark.parametrize(("damage", "message"), [
    (lambda data: (data / corpora.TEACHER_FILE).unlink(), "No such file"),
    (lambda data: (data / corpora.TOKENIZER_FILE).write_bytes(b"no"), "tokenizer is truncated"),
    (lambda data: (data / corpora.HELD_OUT_FILE).write_text("a\to" * 400), "has the piece b'<0x09>', which is not"),
    (lambda data: (data / corpora.HELD_OUT_FILE).write_text("x" * 400), "the model knows no 'x'")],
    ids=["teacher", "tokenizer", "lost-piece", "character"])
def test_data_that_cannot_be_used_is_one_line(data: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
                                              ) -> None:
    """A traceback, or a loss of what is left of the text."""
    damage(data)
    result = run_trainer(data, tmp_path)
    assert result.exit_code == 2
    assert message in " ".join(re.sub("[│╭╮╰╯─]", "", result.output).split())
