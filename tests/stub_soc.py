"""A SoC whose core is a few gates: host, link, firmware and registers run without a model."""

from pathlib import Path

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.control import TOKEN, Control
from rtl.cpu import CpuSubsystem
from rtl.csr_map import COUNTERS
from rtl.firmware_build import build_firmware, with_image_id

GEOMETRY = 0x1234
IMAGE_ID = 77
CONTEXT = 64
VOCAB = 512
PASS_CYCLES = 300
BIT_CYCLES = 8
CPU_HZ = 32_000_000
FIRMWARE_BUILD = Path(__file__).resolve().parent.parent / "build" / "firmware"


class StubCore(wiring.Component):
    """Answers each token after ``PASS_CYCLES`` with token + position + 1; a token at ``stuck_at`` never gets answered.

    Members
    -------
    start, stop, tokens, position, running : as of the sequencer.
    prompt, records : tokens in and out.
    """

    def __init__(self, *, stuck_at: int) -> None:
        self._stuck_at = stuck_at
        super().__init__({"start": In(1), "stop": In(1), "tokens": In(16), "position": In(16), "running": Out(1),
                          "prompt": In(stream.Signature(16)), "records": Out(stream.Signature(TOKEN))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left, position, token, clocks = Signal(16), Signal(16), Signal(16), Signal(range(PASS_CYCLES + 1))
        record = self.records.payload
        m.d.comb += [self.running.eq(left != 0), record.position.eq(position), record.cycles.eq(PASS_CYCLES + position)]
        with m.If(self.start):
            m.d.sync += [left.eq(self.tokens), position.eq(self.position), clocks.eq(0)]
        with m.Elif(self.stop):
            m.d.sync += left.eq(0)
        with m.Elif(self.running):
            with m.If(clocks == 0):
                m.d.comb += self.prompt.ready.eq(1)
                m.d.sync += [clocks.eq(1), token.eq(self.prompt.payload)]
                with m.If(~self.prompt.valid):
                    m.d.sync += token.eq(token)
            with m.Elif(clocks < PASS_CYCLES):
                m.d.sync += clocks.eq(clocks + (position != self._stuck_at))
            with m.Else():
                m.d.comb += [self.records.valid.eq(1), record.token.eq((token + position + 1) % VOCAB)]
                with m.If(self.records.ready):
                    m.d.sync += [clocks.eq(0), left.eq(left - 1), position.eq(position + 1), token.eq(record.token)]
        return m


class StubSoc(wiring.Component):
    """CPU subsystem, control registers and a `StubCore`; the ports that ``sim/soc/main.cpp`` drives."""

    uart_rx: In(1, init=1)
    uart_tx: Out(1, init=1)
    leds: Out(8)
    sources = (*CpuSubsystem.verilog_files,)

    def __init__(self, *, stuck_at: int = CONTEXT) -> None:
        self._core = StubCore(stuck_at=stuck_at)
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cpu = cpu = CpuSubsystem(
            firmware=with_image_id(build_firmware(FIRMWARE_BUILD), IMAGE_ID), clock_hz=CPU_HZ,
            baud_hz=CPU_HZ // BIT_CYCLES)
        m.submodules.control = control = Control(geometry=GEOMETRY, has_stream=False, clock_hz=2 * CPU_HZ,
                                                 context=CONTEXT, vocab=VOCAB)
        m.submodules.core = core = self._core
        wiring.connect(m, cpu.bus, control.bus)
        wiring.connect(m, control.prompt, core.prompt)
        wiring.connect(m, core.records, control.tokens)
        m.d.comb += [
            cpu.rx.eq(self.uart_rx), self.uart_tx.eq(cpu.tx), self.leds.eq(cpu.leds), control.load.ready.eq(1),
            core.start.eq(control.run.start), core.stop.eq(control.run.stop | control.run.soft_reset),
            core.tokens.eq(control.run.tokens), core.position.eq(control.run.position),
            control.run.running.eq(core.running),
            *(getattr(control.counters, name).eq(100 + index) for index, name in enumerate(COUNTERS))]
        return m
