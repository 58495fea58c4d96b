"""CPU subsystem, control registers and firmware together, over the bit-level UART."""

from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, flipped

from rtl.control import Control
from rtl.cpu import CpuSubsystem
from rtl.csr_map import PERIPHERAL_ADDRESS, PERIPHERAL_BASE
from rtl.firmware_build import build_firmware
from rtl.uart import UartReceiver, UartTransmitter, bit_sixteenths
from tests.bench import ROOT, run_bench

LINE = {"clock_hz": 8_000_000, "baud_hz": 1_000_000}
GEOMETRY = 0x1234_5678
CONTEXT = 64
VOCAB = 100


class CpuAndControl(wiring.Component):
    """The CPU subsystem with the control registers; the ports of the engine side are those of ``Control``."""

    def __init__(self, firmware: bytes, *, watchdog_us_log2: int) -> None:
        self.cpu = CpuSubsystem(firmware=firmware, watchdog_us_log2=watchdog_us_log2, **LINE)
        self.control = Control(geometry=GEOMETRY, has_stream=True, clock_hz=100_000_000, context=CONTEXT, vocab=VOCAB,
                               timeout_cycles=200)
        engine = {name: port for name, port in self.control.signature.members.items() if name != "bus"}
        super().__init__({**engine, "rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cpu = self.cpu
        m.submodules.control = self.control
        wiring.connect(m, self.cpu.bus, self.control.bus)
        m.d.comb += [self.cpu.rx.eq(self.rx), self.tx.eq(self.cpu.tx), self.leds.eq(self.cpu.leds)]
        engine = wiring.Signature({name: port for name, port in self.control.signature.members.items() if name != "bus"})
        inner = engine.create()
        for name in engine.members:
            setattr(inner, name, getattr(self.control, name))
        for path, member, outer in engine.flatten(self):
            value = inner
            for step in path:
                value = getattr(value, step)
            m.d.comb += outer.eq(value) if member.flow is Out else value.eq(outer)
        return m
