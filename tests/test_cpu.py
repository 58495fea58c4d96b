"""CPU subsystem, control registers and firmware together, over the bit-level UART."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

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
        for name, member in self.control.signature.members.items():
            if name == "bus":
                continue
            outer, inner = getattr(self, name), getattr(self.control, name)
            if member.is_signature:
                wiring.connect(m, wiring.flipped(outer), inner)
            else:
                m.d.comb += outer.eq(inner)
        return m


@pytest.fixture(scope="module")
def firmware() -> bytes:
    return build_firmware(ROOT / "build" / "firmware")


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("testcase", ["hello", "load", "run", "broken_frames", "stuck_engine", "silent_memory"])
def test_protocol(firmware: bytes, testcase: str, seed: int) -> None:
    """The firmware speaks docs/protocol.md, bit by bit, whatever the engine and the line do."""
    bench(CpuAndControl(firmware, watchdog_us_log2=16), "protocol", testcase=testcase, seed=seed)


def bench(component: wiring.Component, name: str, *, testcase: str, seed: int) -> None:
    run_bench(component, module="tests.cocotb_cpu", name=f"cpu_{name}", testcase=testcase, seed=seed,
              sources=[CpuSubsystem.lint_waiver, *CpuSubsystem.verilog_files],
              parameters={"geometry": GEOMETRY, "context": CONTEXT, "vocab": VOCAB})


def words(*instructions: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in instructions)


def test_watchdog_restarts_firmware() -> None:
    """A firmware that hangs comes up again and finds out why; one that never did would leave the lamps at 1."""
    hangs = words(
        0x400002B7,                                            # lui t0, PERIPHERAL_BASE
        0x0002A303 | PERIPHERAL_ADDRESS["WATCHDOG"] * 4 << 20,  # lw t1, WATCHDOG(t0)
        0x00130313,                                            # addi t1, t1, 1
        0x0062A023 | PERIPHERAL_ADDRESS["LEDS"] * 4 << 7,       # sw t1, LEDS(t0)
        0x0000006F)                                            # j .
    assert PERIPHERAL_BASE == 0x4000_0000
    bench(CpuAndControl(hangs, watchdog_us_log2=6), "watchdog", testcase="watchdog", seed=1)


class Line(wiring.Component):
    """A receiver and a transmitter side by side."""

    def __init__(self, *, clock_hz: int, baud_hz: int) -> None:
        self.receiver = UartReceiver(clock_hz=clock_hz, baud_hz=baud_hz, depth=16)
        self.transmitter = UartTransmitter(clock_hz=clock_hz, baud_hz=baud_hz)
        super().__init__({"rx": In(1, init=1), "o": Out(self.receiver.o.signature), "overruns": Out(16),
                          "i": In(self.receiver.o.signature), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = self.receiver
        m.submodules.transmitter = self.transmitter
        wiring.connect(m, wiring.flipped(self.o), self.receiver.o)
        wiring.connect(m, wiring.flipped(self.i), self.transmitter.i)
        m.d.comb += [self.receiver.rx.eq(self.rx), self.tx.eq(self.transmitter.tx),
                     self.overruns.eq(self.receiver.overruns)]
        return m


@pytest.mark.parametrize("clocks_per_bit", [6, 8.6875, 20])
@pytest.mark.parametrize("seed", [1, 2])
def test_uart(clocks_per_bit: float, seed: int) -> None:
    """Both directions carry any bytes, at 2 % wrong speed, between glitches, with whole and fractional divisors."""
    clock_hz = 100_000_000
    baud_hz = round(clock_hz / clocks_per_bit)
    run_bench(Line(clock_hz=clock_hz, baud_hz=baud_hz), module="tests.cocotb_cpu_uart", name=f"uart_{baud_hz}",
              parameters={"bit_ps": round(10_000 * clocks_per_bit)}, seed=seed)


def test_uart_refuses_fast_line() -> None:
    with pytest.raises(ValueError, match="needs a clock of at least 18000000 Hz, got 10000000"):
        bit_sixteenths(10_000_000, 3_000_000)
