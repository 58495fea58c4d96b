"""The fuzzer finds what it is for, and the readers survive a short run of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from host.errors import TritloomError
from tests.fuzz import ACCEPTED, REFUSED, judge, memory_capped, outcomes
from tests.mutations import mutated, originals
from tests.shapes import ROOT


def test_originals_are_accepted() -> None:
    """Mutations of files that were refused already, which test nothing behind the first check."""
    assert [judge(files) for files in originals()] == [ACCEPTED] * len(originals())


def test_a_number_gives_the_same_model() -> None:
    """A finding that cannot be repeated."""
    assert mutated(12345) == mutated(12345) != mutated(12345 + len(originals()))


def test_damaged_checkpoints_are_read_or_refused() -> None:
    """A hang, a crash, or a traceback for a foreign file."""
    run = subprocess.run([ROOT / "scripts" / "fuzz", "--count", "2000"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("2000 damaged checkpoints") and "0 findings" in run.stdout


def fail(folder: Path) -> None:
    raise KeyError("general.alignment")


def refuse(folder: Path) -> None:
    raise TritloomError("model.gguf: truncated; fetch it again")


def refuse_in_two_lines(folder: Path) -> None:
    raise TritloomError("model.gguf: tensor a\nb is missing")


def spin(folder: Path) -> None:
    while True:
        pass


def allocate(folder: Path) -> None:
    np.ones(1 << 29, np.uint8)


@pytest.mark.parametrize(("read", "outcome"), [
    (refuse, REFUSED),
    (fail, "KeyError at test_fuzz.py:"),
    (refuse_in_two_lines, "message of more than one line"),
    (spin, "more than 0.2 s of CPU time"),
    (allocate, "MemoryError at "),
])
def test_every_kind_of_failure_is_a_finding(read: object, outcome: str) -> None:
    """A fuzzer that passes because it looks away."""
    with memory_capped(128 << 20):
        found = judge(originals()[0], read, cpu_seconds=0.2)
    assert outcome in found


@pytest.mark.parametrize(("script", "outcome"), [
    ("kill -SEGV $$", "worker ended with status -11"),
    ("exec sleep 60", "silent for 0.5 s"),
])
def test_workers_that_die_or_hang_are_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str,
                                               outcome: str) -> None:
    """A crash of the interpreter, or a read that blocks, that ends the run as if it were done."""
    worker = tmp_path / "python"
    worker.write_text(f"#!/bin/sh\n{script}\n")
    worker.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(worker))
    found = list(outcomes(7, 9, silence_seconds=0.5))
    assert [number for number, _ in found] == [7, 8]
    assert all(outcome in text for _, text in found)
