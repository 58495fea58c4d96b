"""CPU subsystem, control registers and firmware together, over the bit-level UART."""

import random
import zlib

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator, SimulatorContext

from rtl.control import Control
from rtl.cpu import CpuSubsystem
from rtl.crc32 import Crc32
from rtl.firmware_build import build_firmware
from rtl.peripherals import Timer
from rtl.uart import UartReceiver, UartTransmitter, bit_sixteenths
from tests.bench import ROOT, run_bench

LINE = {"clock_hz": 6_000_000, "baud_hz": 1_000_000}
GEOMETRY = 0x1234_5678
CONTEXT = 64
SLOTS = 3
VOCAB = 100
WATCHDOG_US_LOG2 = 13


class CpuAndControl(wiring.Component):
    """The CPU subsystem with the control registers; the ports of the engine side are those of ``Control``.

    While ``hang`` is high no access reaches the registers, so that the firmware hangs in its next one.
    """

    def __init__(self, firmware: bytes, *, watchdog_us_log2: int) -> None:
        self.cpu = CpuSubsystem(firmware=firmware, watchdog_us_log2=watchdog_us_log2, **LINE)
        self.control = Control(geometry=GEOMETRY, has_stream=True, clock_hz=100_000_000, context=CONTEXT, vocab=VOCAB,
                               slots=SLOTS, timeout_cycles=200)
        engine = {name: port for name, port in self.control.signature.members.items() if name != "bus"}
        super().__init__({**engine, "rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(8),
                          "hang": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cpu = self.cpu
        m.submodules.control = self.control
        request, taken = self.cpu.bus.request, self.control.bus.request
        wiring.connect(m, self.cpu.bus.response, self.control.bus.response)
        m.d.comb += [taken.payload.eq(request.payload), taken.valid.eq(request.valid & ~self.hang),
                     request.ready.eq(taken.ready & ~self.hang)]
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


SEEDS = {"hello": 1, "load": 2, "run": 3, "broken_frames": 2, "stuck_engine": 2, "silent_memory": 2, "restart": 1}


@pytest.mark.parametrize(("testcase", "seed"), [(name, seed) for name, last in SEEDS.items() for seed in range(last)])
def test_protocol(firmware: bytes, testcase: str, seed: int) -> None:
    """The firmware speaks docs/protocol.md, bit by bit, whatever the engine and the line do."""
    top = CpuAndControl(firmware, watchdog_us_log2=WATCHDOG_US_LOG2)
    run_bench(top, module="tests.cocotb_cpu", name="cpu", testcase=testcase, seed=1 + seed,
              sources=[CpuSubsystem.lint_waiver, *CpuSubsystem.verilog_files],
              parameters={"geometry": GEOMETRY, "context": CONTEXT, "vocab": VOCAB, "slots": SLOTS,
                          "watchdog_us_log2": WATCHDOG_US_LOG2})


def test_crc() -> None:
    """Bytes and words in any mix give the CRC of zlib; the state can be put back."""
    crc, chance, data = Crc32(), random.Random(1), b""

    async def bench(ctx: SimulatorContext) -> None:
        nonlocal data
        ctx.set(crc.set, 1)
        ctx.set(crc.value, 0xFFFF_FFFF)
        await ctx.tick()
        ctx.set(crc.set, 0)
        for _ in range(100):
            word, value = chance.getrandbits(1), chance.getrandbits(32)
            data += value.to_bytes(4, "little")[:4 if word else 1]
            ctx.set(crc.i.payload, {"data": value, "word": word})
            ctx.set(crc.i.valid, 1)
            await ctx.tick().until(crc.i.ready)
            ctx.set(crc.i.valid, 0)
            await ctx.tick().until(crc.i.ready)
            assert ctx.get(crc.state) ^ 0xFFFF_FFFF == zlib.crc32(data), f"wrong after {len(data)} bytes"

    simulator = Simulator(crc)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_timer() -> None:
    """Microseconds are exact, and the watchdog bites after its time and again after the next, unless kicked."""
    timer = Timer(clock_hz=3_000_000, watchdog_us_log2=3)

    async def bench(ctx: SimulatorContext) -> None:
        bites = []
        for clock in range(120):
            ctx.set(timer.kick, clock in (20, 43))
            assert ctx.get(timer.time_us) == clock // 3, f"clock {clock}: {ctx.get(timer.time_us)} us"
            if ctx.get(timer.bite):
                bites.append(clock)
            await ctx.tick()
        assert bites == [66, 90, 114], f"bites at clocks {bites}"

    simulator = Simulator(timer)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_timer_refuses_odd_clock() -> None:
    with pytest.raises(ValueError, match="multiple of 1 MHz, got 1500000"):
        Timer(clock_hz=1_500_000, watchdog_us_log2=3)


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
