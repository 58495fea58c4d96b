"""The simulated SoC with an image in its memories."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from host.image import Image
from host.verilated import Model, Progress, SimulatedProcess, silent
from rtl.config import Config
from sim.soc.top import BIT_CYCLES, CPU_DIVIDER, SimulatedSoc


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
        progress("compiling the firmware")
        soc = SimulatedSoc(config=config, image=held)
        stream = config.weight_source == "sdram"
        executable = Model(name=config.name, top=soc, sources=soc.verilog_sources, stream=stream,
                           trace=trace is not None).build(progress)
        plusargs = []
        if stream:
            contents = executable.parent / f"sdram-{held.image_id:08x}.bin"
            if not contents.exists():
                partial = contents.with_suffix(f".partial-{os.getpid()}")
                partial.write_bytes(held.sections["stream"].tobytes())
                partial.replace(contents)
            plusargs.append(f"+sdram_image={contents.name}")
        super().__init__(executable, bit_cycles=BIT_CYCLES, cpu_divider=CPU_DIVIDER, plusargs=plusargs,
                         max_cycles=max_cycles, trace=trace)
