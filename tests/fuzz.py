"""Feeds damaged checkpoints to the readers and demands that each is read or refused in one line.

Workers judge one model after the other under caps on CPU time and memory and report each; the parent starts another
worker where one dies or falls silent. Every model depends on its number alone, so a finding can be repeated.
"""

import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from host.errors import TritloomError
from host.fit import fit
from host.fit_report import fit_summary
from host.importer import import_checkpoint
from host.integrity import check_weights
from host.model_files import open_model
from tests.mutations import Files, mutated

CPU_SECONDS = 5.0           # for one model of a few kilobytes
SILENCE_SECONDS = 120.0     # wall clock, on a machine that may be busy
MEMORY_BYTES = 256 << 20    # above what the worker takes at its start
KEPT = Path("build/fuzz")
ACCEPTED, REFUSED = "accepted", "refused"


class TookTooLong(BaseException):
    """Passes through every ``except Exception``."""


def read_model(folder: Path) -> None:
    """Everything that is done with a foreign checkpoint: headers, sizes, every weight, and its import."""
    path = next((path for name in ("model.gguf", "model.bin") if (path := folder / name).exists()), folder)
    model = open_model(path)
    fit_summary(model, fit(model, "ulx3s"))
    check_weights(model, force=True)
    import_checkpoint(path, force=True)


def judge(files: Files, read: Callable[[Path], None] = read_model, *, cpu_seconds: float = CPU_SECONDS) -> str:
    """``accepted``, ``refused``, or what went wrong in one line."""
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TookTooLong

    with tempfile.TemporaryDirectory() as name:
        for file, data in files.items():
            (Path(name) / file).write_bytes(data)
        previous = signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            read(Path(name))
        except TritloomError as error:
            return REFUSED if str(error).isprintable() else f"message of more than one line: {str(error)!r}"
        except TookTooLong:
            return f"more than {cpu_seconds} s of CPU time"
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:100]!r}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, previous)
    return ACCEPTED


@contextmanager
def memory_capped(extra_bytes: int) -> Iterator[None]:
    """Address space limited to what is in use and ``extra_bytes``."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def work(first: int, last: int) -> None:
    """Judge models ``first`` to ``last - 1``, one line on standard output each."""
    with memory_capped(MEMORY_BYTES):
        for number in range(first, last):
            print(number, judge(mutated(number)), flush=True)


def outcomes(first: int, last: int, *, silence_seconds: float = SILENCE_SECONDS) -> Iterator[tuple[int, str]]:
    """Numbers and outcomes of models ``first`` to ``last - 1``, from worker processes."""
    while first < last:
        # A warning on a user's terminal is a finding, too.
        command = [sys.executable, "-W", "error", "-m", "tests.fuzz", "--worker",
                   "--first", str(first), "--count", str(last - first)]
        # The workers' arithmetic is small; threads would only cost address space.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
            assert worker.stdout is not None
            for line in _lines(worker.stdout.fileno(), silence_seconds):
                number, outcome = line.split(" ", 1)
                yield int(number), outcome
                first = int(number) + 1
            if worker.poll() is None and first < last:
                worker.kill()
            status = worker.wait()
        if first < last:
            yield first, f"worker ended with status {status}, or was silent for {silence_seconds} s"
            first += 1


def _lines(descriptor: int, silence_seconds: float) -> Iterator[str]:
    """Whole lines until the end of the stream or a long silence."""
    rest = b""
    while select.select([descriptor], [], [], silence_seconds)[0]:
        data = os.read(descriptor, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode() for line in lines)


def fuzz(
    count: Annotated[int, typer.Option(min=1, help="Models to damage and read.")] = 100_000,
    first: Annotated[int, typer.Option(min=0, help="Number of the first; a number always gives the same model.")] = 0,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Damage small valid checkpoints and read them; each must be read, or refused in one line."""
    if worker:
        work(first, first + count)
        return
    start, tally, findings = time.monotonic(), Counter[str](), 0
    for number, outcome in outcomes(first, first + count):
        tally[outcome if outcome in (ACCEPTED, REFUSED) else "findings"] += 1
        if outcome not in (ACCEPTED, REFUSED):
            findings += 1
            folder = KEPT / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in mutated(number).items():
                (folder / name).write_bytes(data)
            print(f"{folder}: {outcome}")
        if tally.total() % 10_000 == 0:
            print(f"{tally.total()} of {count}, {time.monotonic() - start:.0f} s", flush=True)
    print(f"{tally.total()} damaged checkpoints in {time.monotonic() - start:.0f} s: {tally[REFUSED]} refused, "
          f"{tally[ACCEPTED]} accepted, {findings} findings")
    raise typer.Exit(findings > 0)


if __name__ == "__main__":
    typer.run(fuzz)
