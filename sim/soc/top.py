"""The SoC with everything the simulator needs around it: firmware, and in the stream configuration the SDRAM chip."""

from pathlib import Path

from amaranth import ClockSignal, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from boards import BOARDS
from host.image import Image
from rtl.config import Config
from rtl.cpu import CpuSubsystem
from rtl.firmware_build import build_firmware
from rtl.sdram_parts import DEFAULT_PART, SDRAMPart
from rtl.soc import Soc
from rtl.timing import SDRAM_CLOCKS
from sim.sdram_chip import CHIP_SOURCE, chip_instance

ROOT = Path(__file__).resolve().parent.parent.parent
FIRMWARE_BUILD = ROOT / "build" / "firmware"
BOARD = "ulx3s"            # whose clock rates are told with; the simulation itself has no time
ENGINE_HZ = 80_000_000     # of configurations without a board, and what the other clocks are derived from
SDRAM_HZ = float(ENGINE_HZ * SDRAM_CLOCKS)
CPU_DIVIDER = 2            # engine cycles per CPU cycle
BIT_CYCLES = 8             # CPU cycles per bit of the serial line


class SimulatedSoc(wiring.Component):
    """A SoC that holds an image; its ports are those that ``sim/soc/main.cpp`` drives.

    Parameters
    ----------
    config : the geometry.
    image : compiled for ``config``.
    part : SDRAM chip (stream configuration).

    Members
    -------
    soc : the SoC inside.
    uart_rx, uart_tx, leds : as in `Soc`.
    """

    PORTS = {"uart_rx": In(1, init=1), "uart_tx": Out(1, init=1), "leds": Out(8)}

    def __init__(self, *, config: Config, image: Image, part: SDRAMPart = DEFAULT_PART) -> None:
        cpu_hz = ENGINE_HZ // CPU_DIVIDER
        self._part = part
        clocks = BOARDS[BOARD].clocks.get(config.name)
        engine_hz = int(clocks.sync_hz) if clocks else ENGINE_HZ
        self.soc = Soc(config=config, image=image, firmware=build_firmware(FIRMWARE_BUILD), engine_hz=engine_hz,
                        cpu_hz=cpu_hz, sdram_hz=SDRAM_HZ, baud_hz=cpu_hz // BIT_CYCLES, sdram_part=part,
                        image_loaded=True)
        chip = [CHIP_SOURCE] if self.soc.streaming else []
        self.verilog_sources = [CpuSubsystem.lint_waiver, *self.soc.verilog_files, *chip]
        super().__init__(self.PORTS)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.soc = soc = self.soc
        m.d.comb += [soc.uart_rx.eq(self.uart_rx), self.uart_tx.eq(soc.uart_tx), self.leds.eq(soc.leds)]
        if soc.streaming:
            m.submodules.chip = chip_instance(self._part, SDRAM_HZ, soc.sdram, ClockSignal("sdram"))
        return m
