"""Simulates the C program on the soft core and compares every token and all its state with the golden model."""

import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from host.errors import TritloomError
from host.image import Image
from host.soft_core import SoftCoreRun
from host.verilated import Model, Progress, silent
from rtl.cpu import Core
from rtl.firmware_build import FirmwareError
from sim.golden import Golden
from sim.softcore.program import SOURCE, build_program
from sim.softcore.top import MEMORY_BYTES, SoftCore

MAIN = Path(__file__).resolve().with_name("main.cpp")
BUILD = SOURCE.parent / "build" / "softcore"
PASS_CYCLES_MAX = 200_000_000


def simulate(image: Image, prompt: Sequence[int], passes: int, *, memory_bytes: int = MEMORY_BYTES,
             source: Path = SOURCE, folder: Path = BUILD, command: str = "sim/softcore/run.py",
             progress: Progress = silent) -> SoftCoreRun:
    """Run the token program so many times from an empty context, greedily.

    Parameters
    ----------
    image : the model.
    prompt : first tokens.
    passes : positions, from 0.
    memory_bytes : RAM of the core.
    source : folder of the C files.
    folder : where the program is built.
    command : what reproduces the result.
    progress : is told what takes time.

    Raises
    ------
    TritloomError: a tool is missing or failed, the model does not fit the memory, or a token or any other part of the
        state differs from the golden model's.
    """
    if not prompt or not 1 <= passes <= image.context:
        raise TritloomError(f"the soft core runs a prompt and 1 to {image.context} passes, "
                            f"got {len(prompt)} tokens and {passes}")
    executable = _executable(memory_bytes, progress)
    progress("compiling the program")
    try:
        contents = build_program(image, prompt, passes, folder, memory_bytes=memory_bytes, source=source)
    except FirmwareError as error:
        raise TritloomError(str(error)) from error
    program = folder / "softcore.bin"
    program.write_bytes(contents)
    progress(f"simulating {passes} tokens on the soft core (some seconds each)")
    reports, simulation_hz = _run(executable, program, 1 + 2 * passes, passes * PASS_CYCLES_MAX)
    tokens, cycles = zip(*_compare(Golden(image), prompt, reports), strict=True)
    return SoftCoreRun(
        config=image.config.name, model=str(image.model["name"]), image_id=image.image_id, core=Core.verilog.stem,
        memory_bytes=memory_bytes, prompt=tuple(prompt), tokens=tokens, cycles=cycles, simulation_hz=simulation_hz,
        command=command)


@cache
def _executable(memory_bytes: int, progress: Progress) -> Path:
    """The simulator process; to export a large memory takes ten seconds, so once is enough."""
    top = SoftCore(memory_bytes=memory_bytes)
    return Model(name="softcore", top=top, main=MAIN, sources=top.verilog_sources).build(progress)


def checksum(golden: Golden) -> int:
    """Of vector memory, activations and scalars, as ``softcore/main.c`` computes it."""
    total = 0
    scalars = [part for scalar in golden.scalars for part in (scalar.mantissa, scalar.exponent)]
    for value in [*golden.vector.ravel().tolist(), *golden.activation.ravel().tolist(), *scalars]:
        total = (5 * total + value) & 0xFFFFFFFF
    return total


def _run(executable: Path, program: Path, reports: int, max_cycles: int) -> tuple[list[tuple[int, int]], float]:
    """Cycle and value of each report, and cycles simulated per second."""
    command = [str(executable), str(program.resolve()), str(reports), str(max_cycles)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last_word = (done.stderr.splitlines() or ["no message"])[-1]
        raise TritloomError(f"the simulated soft core did not finish: {last_word}")
    speed = re.search(r"(\d+) per second", done.stderr)
    lines = [line.split() for line in done.stdout.splitlines()]
    return [(int(cycle), int(value)) for cycle, value in lines], float(speed[1]) if speed else 0.0


def _compare(golden: Golden, prompt: Sequence[int], reports: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Token and cycles per position; the program reports a checksum at the start, then a token and a checksum each."""
    start, token = reports[0][0], 0
    if reports[0][1] != checksum(golden):
        raise TritloomError("the soft core's state is not the golden model's before the first token")
    for position, ((end, sampled), (after, state)) in enumerate(zip(reports[1::2], reports[2::2], strict=True)):
        token = golden.step(prompt[position] if position < len(prompt) else token, position)
        if sampled != token:
            raise TritloomError(f"position {position}: the soft core sampled token {sampled}, the golden model {token}")
        if state != checksum(golden):
            raise TritloomError(f"position {position}: the soft core's state is not the golden model's")
        yield token, end - start
        start = after
