"""SDR SDRAM controller for long sequential reads: open pages, banks interleaved, refreshes grouped."""

from amaranth.hdl import Cat, EnableInserter, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.sdram_parts import SDRAMPart, SDRAMTiming
from rtl.sdram_units import (
    BANK_BITS,
    CLOSE_SLOTS,
    COMMAND,
    FIRST_ACCESS_SLOTS,
    LOOKUP_SLOTS,
    MAX_GROUP,
    READ_WORD,
    ROW_ADDRESS_BITS,
    SLOT_CYCLES,
    Access,
    ColumnIssuer,
    Command,
    Maintenance,
    ReadReturn,
    RowOpener,
    request_layout,
    slots,
)

COUNTERS = data.StructLayout({"refresh_cycles": 32, "stream_words": 32, "other_words": 32, "cycles": 32})


class MemorySignature(wiring.Signature):
    """The controller as its user sees it, in the controller's clock domain.

    Members
    -------
    request : stream of ``request_layout``; requests are served in order. A write carries one word.
    data : words read, in order; there is no back-pressure, the requester has reserved the space.
    counters : free-running.
    """

    def __init__(self, *, burst_words: int) -> None:
        super().__init__({
            "request": In(stream.Signature(request_layout(burst_words))), "data": Out(READ_WORD),
            "counters": Out(COUNTERS)})


class PinsSignature(wiring.Signature):
    """Pins of the chip, all driven from and sampled by registers; boards add their I/O buffers.

    Where the pads take an active low signal, the register holds it so: an inverter on the way to sixteen pads is placed
    far from most of them.
    """

    def __init__(self) -> None:
        super().__init__({
            "cke": Out(1), "cs_n": Out(1, init=1), "ras_n": Out(1, init=1), "cas_n": Out(1, init=1),
            "we_n": Out(1, init=1), "ba": Out(BANK_BITS),
            "a": Out(ROW_ADDRESS_BITS), "dqm": Out(2), "dq_o": Out(16), "dq_oe_n": Out(1, init=1), "dq_i": In(16)})


def plan(part: SDRAMPart, clock_hz: float, *, burst_words: int = 64,
         power_up_us: float | None = None) -> tuple[SDRAMTiming, int]:
    """The chip's timing at this clock, and how many refreshes may be owed before they are forced.

    Raises
    ------
    ValueError: the chip is not that fast, or a minimum is longer than what the slots guarantee.
    """
    timing = part.timing(clock_hz, power_up_us=power_up_us)
    drain_cycles = SLOT_CYCLES * (3 * burst_words + 32)     # requests under way when a group falls due
    group = min(MAX_GROUP, (9 * timing.refi - drain_cycles) // timing.refi)
    fits = {
        "tRCD": timing.rcd < SLOT_CYCLES * FIRST_ACCESS_SLOTS, "tRAS": timing.ras <= SLOT_CYCLES * CLOSE_SLOTS,
        "tRC": timing.rc <= SLOT_CYCLES * (CLOSE_SLOTS + slots(timing.rp)),
        "tRRD": timing.rrd <= SLOT_CYCLES * LOOKUP_SLOTS, "tWR": timing.wr <= 2 * SLOT_CYCLES, "tREFI": group >= 1}
    if wrong := [rule for rule, holds in fits.items() if not holds]:
        raise ValueError(f"{part.name} at {clock_hz / 1e6:.1f} MHz does not fit: {', '.join(wrong)}")
    return timing, group


class SDRAMController(wiring.Component):
    """The whole controller; put it into the SDRAM clock domain with ``DomainRenamer``.

    The word address is {row, bank, column}, so consecutive pages lie in different banks. A request stays inside an
    aligned block of ``burst_words``. In long sequential reads only the grouped refreshes cost time.

    Parameters
    ----------
    part : chip.
    clock_hz : of the SDRAM.
    burst_words : most 32-bit words of a request; a power of two, at most a page.
    io_cycles : clocks that the I/O registers outside add to the way there and back.
    power_up_us : wait after reset; None for the chip's own.

    Members
    -------
    memory : requests, data and counters.
    pins : the chip.

    Raises
    ------
    ValueError: a parameter is out of range, or the chip's timing at this clock does not fit the slots.
    """

    def __init__(self, *, part: SDRAMPart, clock_hz: float, burst_words: int = 64, io_cycles: int = 0,
                 power_up_us: float | None = None) -> None:
        if burst_words < 2 or burst_words & (burst_words - 1) or burst_words > part.page_words:
            raise ValueError(f"burst_words must be a power of two up to {part.page_words}, got {burst_words}")
        if not 0 <= io_cycles <= 4:
            raise ValueError(f"io_cycles must be 0..4, got {io_cycles}")
        self._timing, self._group = plan(part, clock_hz, burst_words=burst_words, power_up_us=power_up_us)
        self._part = part
        self._burst_words = burst_words
        self._io_cycles = io_cycles
        super().__init__({"memory": Out(MemorySignature(burst_words=burst_words)), "pins": Out(PinsSignature())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tick = Signal()                        # second clock of a slot
        m.d.sync += tick.eq(~tick)
        chip = {"part": self._part, "timing": self._timing, "burst_words": self._burst_words}
        maintenance = Maintenance(timing=self._timing, group=self._group)
        opener, issuer = RowOpener(**chip), ColumnIssuer(**chip)
        m.submodules.maintenance = EnableInserter(tick)(maintenance)
        m.submodules.opener = EnableInserter(tick)(opener)
        m.submodules.issuer = EnableInserter(tick)(issuer)
        m.submodules.returns = returns = ReadReturn(latency_cycles=self._timing.cas_latency + self._io_cycles)

        request = self.memory.request
        m.d.comb += [
            opener.i.payload.eq(request.payload), opener.i.valid.eq(request.valid),
            request.ready.eq(opener.i.ready & tick),
            opener.hold.eq(maintenance.hold), opener.forget.eq(maintenance.active),
            opener.busy_banks.eq(issuer.busy_banks),
            maintenance.quiet.eq(opener.idle & issuer.idle), maintenance.wanted.eq(request.valid),
            returns.dq_i.eq(self.pins.dq_i), self.memory.data.eq(returns.data),
        ]
        wiring.connect(m, opener.o, issuer.i)

        nothing = {"code": Command.NOP}
        row, column = Signal(COMMAND, init=nothing), Signal(COMMAND, init=nothing)
        write_data, access = Signal(32, reset_less=True), Signal(Access)
        with m.If(tick):
            m.d.sync += [
                row.eq(Mux(maintenance.active, maintenance.command, opener.command)), column.eq(issuer.command),
                write_data.eq(issuer.data), access.eq(issuer.access),
            ]
        self._drive_pins(m, tick, row, column, write_data)
        reading, writing = Signal(), Signal()
        m.d.comb += [reading.eq(~tick & (column.code == Command.READ)),
                     writing.eq(~tick & (column.code == Command.WRITE))]
        m.d.sync += [returns.read.eq(reading), returns.stream.eq(access == Access.STREAM_READ)]
        self._count(m, column, reading, writing, access, maintenance)
        return m

    def _drive_pins(self, m: Module, tick: Signal, row: data.View, column: data.View, write_data: Signal) -> None:
        """Column command in the first clock of a slot, row command in the second; write data follow the column."""
        pins, command = self.pins, Signal(COMMAND)
        m.d.comb += [command.eq(Mux(tick, row, column)), pins.dqm.eq(0), pins.cke.eq(1)]
        we_n, cas_n, ras_n = Value.cast(command.code)
        values = {"cs_n": command.code == Command.NOP, "we_n": we_n, "cas_n": cas_n, "ras_n": ras_n,
                  "ba": command.bank, "a": command.address, "dq_o": Mux(tick, write_data[16:], write_data[:16]),
                  "dq_oe_n": column.code != Command.WRITE}
        for name, value in values.items():
            pin = getattr(pins, name)
            # Without a reset, which would have to reach the pads in one clock: the commands have one.
            register = Signal(pin.shape(), name=name, init=pin.init, reset_less=True)
            m.d.sync += register.eq(value)
            m.d.comb += pin.eq(register)

    def _count(self, m: Module, column: data.View, reading: Signal, writing: Signal, access: Signal,
               maintenance: Maintenance) -> None:
        """The free-running counters, one clock behind the commands.

        A refresh costs what the bus is idle from the last access before it to the first one after it.
        """
        counters = self.memory.counters
        events = Signal(3)
        is_stream, idle = access == Access.STREAM_READ, column.code == Command.NOP
        reopening = Signal()
        with m.If(maintenance.active):
            m.d.sync += reopening.eq(1)
        with m.Elif(~idle):
            m.d.sync += reopening.eq(0)
        m.d.sync += [
            events.eq(Cat(maintenance.ready & idle & (maintenance.hold | reopening), reading & is_stream,
                          writing | reading & ~is_stream)),
            counters.cycles.eq(counters.cycles + 1),
        ]
        for event, counter in zip(
                events, (counters.refresh_cycles, counters.stream_words, counters.other_words), strict=True):
            with m.If(event):
                m.d.sync += counter.eq(counter + 1)
