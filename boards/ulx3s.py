"""Radiona ULX3S: the board as data, and the top that connects an accelerator to its pins."""

from amaranth import Const, Elaboratable, Module
from amaranth.build import Attrs, Pins, Resource
from amaranth.lib import io, wiring
from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.ulx3s import (
    ULX3S_12F_Platform,
    ULX3S_25F_Platform,
    ULX3S_45F_Platform,
    ULX3S_85F_Platform,
)

from boards.clocks import ClockGenerator, Clocks
from boards.sdram_pads import SDRAMPads
from rtl.sdram_parts import IS42S16160G_7
from rtl.timing import SDRAM_CLOCKS

DEVICES: dict[str, type[LatticeECP5Platform]] = {
    "12F": ULX3S_12F_Platform, "25F": ULX3S_25F_Platform, "45F": ULX3S_45F_Platform, "85F": ULX3S_85F_Platform}
OSCILLATOR_HZ = 25e6
BAUD_HZ = 3_000_000     # the fastest rate of the FT231X
LEDS = 8
# Production runs carry this chip or one that is at least as fast in every timing.
SDRAM_PART = IS42S16160G_7
# Half a period: commands leave with one edge and the chip takes them with the next opposite one, and with its 5.4 ns
# access time its data arrive around the middle of the cycle after that. Computed from data sheets, not measured.
SDRAM_CHIP_PHASE_DEGREES = 180.0
# The on-board ESP32 resets the FPGA when it sees its GPIO0 low.
ESP32_GPIO0 = Resource("esp32_gpio0", 0, Pins("L2", dir="o"), Attrs(IO_TYPE="LVCMOS33"))

CLOCKS = {
    "resident": Clocks(sync_hz=93.75e6, cpu_hz=50e6),
    "sparse": Clocks(sync_hz=80e6, cpu_hz=50e6),
    "stream": Clocks(sync_hz=80e6, cpu_hz=50e6, sdram_hz=float(80e6 * SDRAM_CLOCKS),
                     chip_phase_degrees=SDRAM_CHIP_PHASE_DEGREES),
    "tiny": Clocks(sync_hz=80e6, cpu_hz=50e6),
    "pocket": Clocks(sync_hz=80e6, cpu_hz=50e6),
    "nano": Clocks(sync_hz=80e6, cpu_hz=50e6),
}


class ULX3STop(Elaboratable):
    """Connects an accelerator to the board and gives it its clocks.

    Parameters
    ----------
    soc : component with ``uart_rx`` (In), ``uart_tx`` (Out), ``leds`` (Out, 8 bits) and, where it has an SDRAM
        controller, ``sdram`` (its pins), in the domains ``sync``, ``cpu`` and ``sdram``.
    clocks : frequencies of these domains.

    Raises
    ------
    ValueError: the PLL cannot make these frequencies.
    """

    def __init__(self, *, soc: wiring.Component, clocks: Clocks) -> None:
        clocks.settings(OSCILLATOR_HZ)
        self.soc = soc
        self.clocks = clocks

    def elaborate(self, platform: LatticeECP5Platform) -> Module:
        m = Module()
        m.submodules.clocks = clocks = ClockGenerator(
            clocks=self.clocks, oscillator=platform.request("clk25", dir="-"), oscillator_hz=OSCILLATOR_HZ)
        m.domains += clocks.domains
        m.submodules.soc = soc = self.soc
        uart = platform.request("uart", dir="-")
        m.submodules.uart_rx = uart_rx = io.Buffer("i", uart.rx)
        m.submodules.uart_tx = uart_tx = io.Buffer("o", uart.tx)
        m.d.comb += [soc.uart_rx.eq(uart_rx.i), uart_tx.o.eq(soc.uart_tx)]
        for index in range(LEDS):
            m.submodules[f"led{index}"] = led = io.Buffer("o", platform.request("led", index, dir="-"))
            m.d.comb += led.o.eq(soc.leds[index])
        platform.add_resources([ESP32_GPIO0])
        m.submodules.esp32_gpio0 = esp32_gpio0 = io.Buffer("o", platform.request("esp32_gpio0", dir="-"))
        m.d.comb += esp32_gpio0.o.eq(Const(1))
        if self.clocks.has_sdram:
            m.submodules.sdram = pads = SDRAMPads(ports=platform.request("sdram", dir="-"))
            wiring.connect(m, pads.pins, soc.sdram)
        return m
