"""The whole system on the chip: core, weights, control registers, CPU."""

from pathlib import Path

from amaranth import Cat, ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from host.image import Image
from rtl.config import Config
from rtl.control import Control
from rtl.core import UNITS, Core
from rtl.counters import EventCounters, RunDifference
from rtl.cpu import CpuSubsystem
from rtl.csr_map import COUNTERS, Space
from rtl.firmware_build import with_image_id
from rtl.sdram_controller import PinsSignature, SDRAMController
from rtl.sdram_parts import DEFAULT_PART, SDRAMPart
from rtl.weight_stream import WeightStream

EVENTS = ("cycles", "tokens", *(f"{unit}_busy" for unit in UNITS), "issue_stall", "weight_stall")
SDRAM_COUNTERS = tuple(name for name in COUNTERS if name not in EVENTS)


class Soc(wiring.Component):
    """Everything between the pins of the board and the clocks it makes.

    Clock domains: ``sync`` (engine), ``cpu``, and in the stream configuration ``sdram``.

    Parameters
    ----------
    config : the geometry.
    image : what the memories hold at power-up; in the stream configuration its weights lie in SDRAM instead.
    firmware : of the CPU, see `rtl.firmware_build.build_firmware`.
    engine_hz, cpu_hz, sdram_hz : frequencies of ``sync``, ``cpu`` and, in the stream configuration, ``sdram``.
    baud_hz : of the serial line.
    primitives : as for `Core`.
    sdram_part : the chip on the board (stream configuration).
    sdram_io_cycles : clocks that the board's I/O registers add to the way to the chip and back.
    image_loaded : whether SDRAM holds the image's weights at power-up, as in simulation.

    Members
    -------
    core : the accelerator proper.
    refresh_cycles : SDRAM clocks that refreshes took in the run (stream configuration only).
    uart_rx, uart_tx : the serial line, idle high.
    leds : eight lamps, driven by the firmware.
    sdram : pins of the chip (stream configuration only).
    """

    verilog_files: tuple[Path, ...] = CpuSubsystem.verilog_files

    def __init__(self, *, config: Config, image: Image, firmware: bytes, engine_hz: int, cpu_hz: int,
                 baud_hz: int, sdram_hz: float = 0.0, primitives: str = "portable",
                 sdram_part: SDRAMPart = DEFAULT_PART, sdram_io_cycles: int = 0, image_loaded: bool = False) -> None:
        self._config, self._part, self._sdram_hz = config, sdram_part, sdram_hz
        self._io_cycles = sdram_io_cycles
        self.core = Core(config=config, image=image, primitives=primitives)
        self.streaming = self.core.streaming
        embedded = not self.streaming or image_loaded
        self._control = Control(
            geometry=config.geometry, has_stream=self.streaming, clock_hz=engine_hz, context=config.context,
            vocab=config.vocab, slots=config.slots, stream_words=image.stream_words,
            # Without weights in SDRAM there is nothing to stream until an image is loaded, which says this, too.
            prompt_words=image.prompt_words if image_loaded else 0)
        self._cpu = CpuSubsystem(
            firmware=with_image_id(firmware, image.image_id if embedded else 0), clock_hz=cpu_hz, baud_hz=baud_hz)
        self.refresh_cycles = self._control.counters.refresh_cycles
        members = {"uart_rx": In(1, init=1), "uart_tx": Out(1, init=1), "leds": Out(8)}
        if self.streaming:
            members["sdram"] = Out(PinsSignature())
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cpu = cpu = self._cpu
        m.submodules.control = control = self._control
        # The accelerator distributes its reset itself: its domain has none.
        m.domains.core = ClockDomain(local=True, reset_less=True)
        core = self.core
        m.d.comb += [ClockSignal("core").eq(ClockSignal()), core.reset.eq(control.run.soft_reset | ResetSignal())]
        m.submodules.core = DomainRenamer("core")(core)
        m.submodules.counters = counters = EventCounters(names=EVENTS)
        m.d.comb += [cpu.rx.eq(self.uart_rx), self.uart_tx.eq(cpu.tx), self.leds.eq(cpu.leds)]
        connect(m, cpu.bus, control.bus)
        connect(m, control.prompt, core.prompt)
        connect(m, core.records, control.tokens)
        m.d.comb += [
            core.start.eq(control.run.start), core.stop.eq(control.run.stop), core.tokens.eq(control.run.tokens),
            core.position.eq(control.run.position), control.run.running.eq(core.running),
            control.run.fault.eq(core.fault), core.sampling.eq(control.temperature.enable),
            core.temperature.mantissa.eq(control.temperature.mantissa),
            core.temperature.exponent.eq(control.temperature.exponent), core.seed.eq(control.seed),
            core.speculation.eq(control.run.speculation),
            counters.clear.eq(control.run.start),
            counters.events.eq(Cat(core.running, core.finished, core.busy, core.issue_stall, core.weight_stall)),
        ]
        for name in EVENTS:
            m.d.comb += getattr(control.counters, name).eq(getattr(counters.values, name))
        load = control.load
        m.d.comb += [
            core.load_enable.eq(load.valid & load.ready), core.load_space.eq(load.payload.space),
            core.load_address.eq(load.payload.address), core.load_data.eq(load.payload.data)]
        if self.streaming:
            self._stream(m, control, core)
        else:
            # Without SDRAM a read of it answers zero.
            m.d.comb += [load.ready.eq(1), control.host_read.request.ready.eq(1)]
            m.d.sync += control.host_read.response.valid.eq(control.host_read.request.valid)
        return m

    def _stream(self, m: Module, control: Control, core: Core) -> None:
        """Weights from SDRAM, and the CPU's way to it."""
        m.submodules.weights = weights = WeightStream(fifo_words=self._config.stream_fifo_words)
        m.submodules.controller = controller = DomainRenamer("sdram")(SDRAMController(
            part=self._part, clock_hz=self._sdram_hz, io_cycles=self._io_cycles))
        connect(m, weights.o, core.words)
        connect(m, weights.memory, controller.memory)
        connect(m, controller.pins, flipped(self.sdram))
        to_sdram = control.load.payload.space == Space.SDRAM
        request, response = weights.host.request, weights.host.response
        with m.If(control.load.valid & to_sdram):
            m.d.comb += [request.valid.eq(1), request.payload.write.eq(1),
                         request.payload.address.eq(control.load.payload.address)]
        with m.Else():
            m.d.comb += [request.valid.eq(control.host_read.request.valid),
                         request.payload.address.eq(control.host_read.request.payload)]
        m.d.comb += [
            request.payload.data.eq(control.load.payload.data),
            control.load.ready.eq(~to_sdram | request.ready),
            control.host_read.request.ready.eq(request.ready & ~(control.load.valid & to_sdram)),
            control.host_read.response.valid.eq(response.valid), response.ready.eq(control.host_read.response.ready),
            control.host_read.response.payload.eq(response.payload),
            weights.start.eq(control.run.start), weights.stop.eq(core.done | control.run.soft_reset),
            weights.base_words.eq(control.stream_base), weights.pass_words.eq(control.stream_words),
            weights.passes.eq(control.run.tokens), weights.short_words.eq(control.prompt_words),
            weights.short_passes.eq(control.run.prompt_passes),
        ]
        for name in SDRAM_COUNTERS:
            m.submodules[name] = difference = RunDifference()
            m.d.comb += [difference.start.eq(control.run.start), difference.running.eq(core.running),
                         difference.i.eq(weights.counters[name]), getattr(control.counters, name).eq(difference.o)]
