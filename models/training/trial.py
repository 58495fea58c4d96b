"""What a run is judged by, and the publication of its model with the judgement."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.training import data as corpora
from models.training.card import RECORD_FILE, write_card, write_plot
from models.training.data import Tokenizer, Vocabulary
from models.training.evaluate import HELD_OUT_TOKENS, held_out_stream, mean_loss, student_loss, teacher_loss
from models.training.export import export
from models.training.run import Run
from models.training.student import Student, StudentConfig, product_type
from models.training.teacher import Teacher

ROOT = Path(__file__).resolve().parents[2]
MONITOR_WINDOWS = 48


class Trial:
    """The held-out text in the vocabulary of a student.

    Parameters
    ----------
    data : folder with the corpora.
    teacher : is judged by the same text.
    config : shape of the student.

    Members
    -------
    vocabulary : the pieces of the student.
    teacher_nats : loss of the teacher, per token.

    Raises
    ------
    ValueError: the text has pieces that the vocabulary has not.
    """

    def __init__(self, data: Path, teacher: Teacher, config: StudentConfig) -> None:
        tokenizer = Tokenizer(data / corpora.TOKENIZER_FILE)
        self.vocabulary = Vocabulary(tokenizer, config.vocab_size)
        stream = held_out_stream(tokenizer, data)
        self.teacher_nats = teacher_loss(teacher, stream, config.context)
        self._data, self._device = data, teacher.device
        self._held_out = self.vocabulary.own(stream, whole=True)
        self._monitor = self._held_out[HELD_OUT_TOKENS:][: MONITOR_WINDOWS * config.context + 1]

    def monitored(self, model: Student) -> float:
        """Loss on some of the held-out text by which nothing is published."""
        return round(mean_loss(model, self._monitor, model.config.context, self._device), 4)

    def publish(self, run: Run, out: Path) -> float:
        """Export the averaged student, judge the exported files, write the record, the plot and the card; its loss."""
        export(run.average.model, out, self.vocabulary.file())
        student = student_loss(out, self._held_out, self._device)
        written = record(run, self._data, {"tokens": HELD_OUT_TOKENS, "student_nats_per_token": student,
                                           "teacher_nats_per_token": self.teacher_nats})
        (out / RECORD_FILE).write_text(json.dumps(written, indent=1) + "\n")
        write_plot(written, out / "loss_curve.png")
        write_card(out)
        return student


def device_name(device: torch.device) -> str:
    """What trains, for the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU core"


def record(run: Run, data: Path, held_out: dict[str, Any]) -> dict[str, Any]:
    """What made the checkpoint: options, versions, data hashes, held-out losses and the loss curve."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = (corpora.TRAIN_FILE, corpora.HELD_OUT_FILE, corpora.TEACHER_FILE, corpora.TOKENIZER_FILE)
    return {
        "options": asdict(run.options),
        "steps_done": run.step,
        "tokens_seen": run.tokens,
        "training_seconds": round(run.seconds),
        "git_commit": head.stdout.strip() or None,
        "products": str(product_type(run.device)),
        "device": device_name(run.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "sha256": {name: corpora.sha256(data / name) for name in files},
        "held_out": held_out,
        "curve": run.curve,
    }
