"""UART: 8 data bits, no parity, one stop bit."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

FRACTION_BITS = 4          # bit times are counted in sixteenths of a clock
MINIMUM_CLOCKS_PER_BIT = 6
FRAME_BITS = 10            # start, eight data, stop


def bit_sixteenths(clock_hz: int, baud_hz: int) -> int:
    """Length of a bit in sixteenths of a clock.

    Raises
    ------
    ValueError: a bit is shorter than ``MINIMUM_CLOCKS_PER_BIT`` clocks.
    """
    sixteenths = round(clock_hz * 2**FRACTION_BITS / baud_hz)
    if sixteenths < MINIMUM_CLOCKS_PER_BIT << FRACTION_BITS:
        minimum_hz = MINIMUM_CLOCKS_PER_BIT * baud_hz
        raise ValueError(f"{baud_hz} baud needs a clock of at least {minimum_hz} Hz, got {clock_hz}")
    return sixteenths


class UartReceiver(wiring.Component):
    """Bytes from a line; each bit is the majority of three samples around its middle.

    A byte without its stop bit is dropped, and so is one that finds the queue full.

    Latency: the byte is offered 3 clocks after the middle of its stop bit.

    Parameters
    ----------
    clock_hz, baud_hz : of this domain and of the line.
    depth : bytes the queue holds.

    Members
    -------
    rx : In line; asynchronous.
    o : Out stream of bytes.
    overruns : Out count of bytes that found the queue full, stays at its maximum.

    Raises
    ------
    ValueError: see ``bit_sixteenths``.
    """

    def __init__(self, *, clock_hz: int, baud_hz: int, depth: int) -> None:
        self.sixteenths = bit_sixteenths(clock_hz, baud_hz)
        self.depth = depth
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(8)), "overruns": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        one_clock = 1 << FRACTION_BITS
        line = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.rx, line, init=1)
        m.submodules.queue = queue = SyncFIFOBuffered(width=8, depth=self.depth)

        recent = Signal(2, init=3)
        level = Signal()
        m.d.sync += recent.eq(Cat(line, recent))
        m.d.comb += level.eq((recent[0] & recent[1]) | (line & (recent[0] | recent[1])))

        # After a stop bit the next start bit may follow at once; after anything else the line must be seen idle first.
        armed = Signal()
        with m.If(recent.all()):
            m.d.sync += armed.eq(1)

        left = Signal(range(self.sixteenths + one_clock))
        bits_left = Signal(range(FRAME_BITS + 1))
        byte = Signal(8)
        stored = Signal()
        with m.If(bits_left == 0):
            m.d.sync += left.eq(self.sixteenths // 2)
            with m.If(armed & ~line):
                m.d.sync += bits_left.eq(FRAME_BITS)
        with m.Elif(left >= one_clock):
            m.d.sync += left.eq(left - one_clock)
        with m.Else():
            m.d.sync += left.eq(left + self.sixteenths - one_clock)
            m.d.sync += bits_left.eq(bits_left - 1)
            with m.If(bits_left == 1):
                m.d.comb += stored.eq(level)
                m.d.sync += armed.eq(level)
            with m.Elif((bits_left == FRAME_BITS) & level):
                m.d.sync += bits_left.eq(0)
            with m.Else():
                m.d.sync += byte.eq(Cat(byte[1:], level))

        m.d.comb += [
            queue.w_data.eq(byte), queue.w_en.eq(stored),
            self.o.payload.eq(queue.r_data), self.o.valid.eq(queue.r_rdy), queue.r_en.eq(self.o.ready),
        ]
        with m.If(stored & ~queue.w_rdy & ~self.overruns.all()):
            m.d.sync += self.overruns.eq(self.overruns + 1)
        return m


class UartTransmitter(wiring.Component):
    """Bytes onto a line.

    Latency: the start bit begins 1 clock after a byte is taken. Throughput: one byte in 10 bit times.

    Parameters
    ----------
    clock_hz, baud_hz : of this domain and of the line.

    Members
    -------
    i : In stream of bytes.
    tx : Out line, high when idle.

    Raises
    ------
    ValueError: see ``bit_sixteenths``.
    """

    def __init__(self, *, clock_hz: int, baud_hz: int) -> None:
        self.sixteenths = bit_sixteenths(clock_hz, baud_hz)
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        one_clock = 1 << FRACTION_BITS
        left = Signal(range(self.sixteenths + one_clock))
        bits_left = Signal(range(FRAME_BITS + 1))
        shift = Signal(FRAME_BITS, init=(1 << FRAME_BITS) - 1)
        m.d.comb += [self.tx.eq(shift[0]), self.i.ready.eq(bits_left == 0)]
        with m.If(bits_left == 0):
            m.d.sync += left.eq(self.sixteenths - one_clock)
            with m.If(self.i.valid):
                m.d.sync += [shift.eq(Cat(0, self.i.payload, 1)), bits_left.eq(FRAME_BITS)]
        with m.Elif(left >= one_clock):
            m.d.sync += left.eq(left - one_clock)
        with m.Else():
            m.d.sync += [
                left.eq(left + self.sixteenths - one_clock),
                shift.eq(Cat(shift[1:], 1)),
                bits_left.eq(bits_left - 1),
            ]
        return m
