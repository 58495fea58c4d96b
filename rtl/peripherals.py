"""Peripherals of the CPU: UART, timer, watchdog, CRC unit and lamps, and the bus that reaches them."""

from amaranth.hdl import C, Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from rtl.crc32 import Crc32
from rtl.csr_map import PERIPHERAL_ADDRESS, PERIPHERAL_ADDRESS_BITS
from rtl.uart import UartReceiver, UartTransmitter

WORDS = data.StructLayout({"address": 30, "write": 1, "select": 4, "data": 32})
RECEIVE_BYTES = 1024       # more than the longest frame, so that a slow answer loses nothing
TRANSMIT_BYTES = 16


class WordBus(wiring.Signature):
    """Wishbone, classic cycles: ``request`` holds until ``ack``.

    Members
    -------
    valid, access : Out the request, steady until ``ack``.
    ack : In, one clock; ``read_data`` is valid in it.
    """

    def __init__(self) -> None:
        super().__init__({"valid": Out(1), "access": Out(WORDS), "ack": In(1), "read_data": In(32)})


class Timer(wiring.Component):
    """Microseconds since reset, and a watchdog that counts them.

    Parameters
    ----------
    clock_hz : a multiple of 1 MHz.
    watchdog_us_log2 : the watchdog bites after 2 to this power microseconds without ``kick``.

    Members
    -------
    time_us : Out.
    kick : In, restarts the watchdog.
    bite : Out, one clock.

    Raises
    ------
    ValueError: the clock is no multiple of 1 MHz.
    """

    def __init__(self, *, clock_hz: int, watchdog_us_log2: int) -> None:
        if clock_hz % 1_000_000 or clock_hz <= 0:
            raise ValueError(f"clock_hz must be a multiple of 1 MHz, got {clock_hz}")
        self.clocks_per_us = clock_hz // 1_000_000
        self.watchdog_us_log2 = watchdog_us_log2
        super().__init__({"time_us": Out(32), "kick": In(1), "bite": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        clocks = Signal(range(self.clocks_per_us))
        idle_us = Signal(self.watchdog_us_log2 + 1)
        m.d.sync += clocks.eq(clocks + 1)
        with m.If(clocks == self.clocks_per_us - 1):
            m.d.sync += [clocks.eq(0), self.time_us.eq(self.time_us + 1), idle_us.eq(idle_us + 1)]
        m.d.comb += self.bite.eq(idle_us[-1])
        with m.If(self.kick | self.bite):
            m.d.sync += idle_us.eq(0)
        return m


class Peripherals(wiring.Component):
    """UART, timer, watchdog, CRC unit and lamps as registers.

    Latency: ``ack`` comes 1 clock after ``valid``; a write to UART_TX waits for room in the queue,
    an access of the CRC unit for the bytes before it.

    Parameters
    ----------
    clock_hz, baud_hz : of this domain and of the line.
    watchdog_us_log2 : see ``Timer``.

    Members
    -------
    bus : In, word addresses of ``PERIPHERAL_CSRS``.
    rx, tx : In and Out line.
    leds : Out lamps.
    restart : Out, one clock: the watchdog bites.
    """

    def __init__(self, *, clock_hz: int, baud_hz: int, watchdog_us_log2: int) -> None:
        self.clock_hz = clock_hz
        self.baud_hz = baud_hz
        self.watchdog_us_log2 = watchdog_us_log2
        super().__init__({"bus": In(WordBus()), "rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(8),
                          "restart": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line = {"clock_hz": self.clock_hz, "baud_hz": self.baud_hz}
        m.submodules.receiver = receiver = UartReceiver(depth=RECEIVE_BYTES, **line)
        m.submodules.transmitter = transmitter = UartTransmitter(**line)
        m.submodules.transmit_queue = queue = SyncFIFOBuffered(width=8, depth=TRANSMIT_BYTES)
        m.submodules.timer = timer = Timer(clock_hz=self.clock_hz, watchdog_us_log2=self.watchdog_us_log2)
        wiring.connect(m, queue.r_stream, transmitter.i)
        m.submodules.crc = crc = Crc32()
        bitten = Signal()
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx), self.restart.eq(timer.bite),
                     queue.w_data.eq(self.bus.access.data), crc.value.eq(self.bus.access.data),
                     crc.i.payload.data.eq(self.bus.access.data),
                     crc.i.payload.word.eq(self.bus.access.address[:PERIPHERAL_ADDRESS_BITS]
                                           == PERIPHERAL_ADDRESS["CRC_WORD"])]
        with m.If(timer.bite):
            m.d.sync += bitten.eq(1)

        access = self.bus.access
        begin = Signal()
        m.d.comb += begin.eq(self.bus.valid & ~self.bus.ack)
        m.d.sync += [self.bus.ack.eq(begin), self.bus.read_data.eq(0)]
        with m.Switch(access.address[:PERIPHERAL_ADDRESS_BITS]):
            with m.Case(PERIPHERAL_ADDRESS["UART_RX"]):
                m.d.comb += receiver.o.ready.eq(begin & ~access.write)
                m.d.sync += self.bus.read_data.eq(Cat(receiver.o.payload, C(0, 23), receiver.o.valid))
            with m.Case(PERIPHERAL_ADDRESS["UART_TX"]):
                m.d.comb += queue.w_en.eq(begin & access.write)
                m.d.sync += self.bus.ack.eq(begin & (queue.w_rdy | ~access.write))
            with m.Case(PERIPHERAL_ADDRESS["UART_STATUS"]):
                m.d.sync += self.bus.read_data.eq(Cat(receiver.overruns, ~queue.r_rdy & transmitter.i.ready))
            with m.Case(PERIPHERAL_ADDRESS["TIMER"]):
                m.d.sync += self.bus.read_data.eq(timer.time_us)
            with m.Case(PERIPHERAL_ADDRESS["WATCHDOG"]):
                m.d.comb += timer.kick.eq(begin & access.write)
                m.d.sync += self.bus.read_data.eq(bitten)
            with m.Case(PERIPHERAL_ADDRESS["LEDS"]):
                m.d.sync += self.bus.read_data.eq(self.leds)
                with m.If(begin & access.write):
                    m.d.sync += self.leds.eq(access.data)
            with m.Case(PERIPHERAL_ADDRESS["CRC"]):
                m.d.comb += crc.set.eq(begin & access.write)
                m.d.sync += [self.bus.read_data.eq(crc.state), self.bus.ack.eq(begin & crc.i.ready)]
            with m.Case(PERIPHERAL_ADDRESS["CRC_BYTE"], PERIPHERAL_ADDRESS["CRC_WORD"]):
                m.d.comb += crc.i.valid.eq(begin & access.write)
                m.d.sync += self.bus.ack.eq(begin & crc.i.ready)
        return m
