"""CRC-32 (IEEE 802.3), a byte per clock."""

from functools import reduce
from operator import xor

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

POLYNOMIAL = 0xEDB8_8320    # bit-reversed
BYTES = StructLayout({"data": 32, "word": 1})


def step(state: int) -> int:
    """The state after eight zero bits."""
    for _ in range(8):
        state = state >> 1 ^ POLYNOMIAL * (state & 1)
    return state


def after_byte(state: Value, byte: Value) -> Value:
    """The state after a byte. The step is linear, so each bit is the parity of some bits of state and byte."""
    columns = [step(1 << bit) for bit in range(32)]
    fed = state ^ byte
    return Cat(reduce(xor, (fed[bit] for bit, column in enumerate(columns) if column >> row & 1), C(0, 1))
               for row in range(32))


class Crc32(wiring.Component):
    """Running CRC-32, without the inversions at its start and end.

    Throughput: a byte in 2 clocks, a word in 5. ``state`` holds the result once ``i`` is ready again.

    Members
    -------
    i : In stream of a byte, or with ``word`` of four, low byte first.
    set, value : In, loads the state; only while ``i`` is ready.
    state : Out.
    """

    i: In(stream.Signature(BYTES))
    set: In(1)
    value: In(32)
    state: Out(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pending, left = Signal(32), Signal(3)
        m.d.comb += self.i.ready.eq(left == 0)
        with m.If(left == 0):
            m.d.sync += pending.eq(self.i.payload.data)
            with m.If(self.i.valid):
                m.d.sync += left.eq(Mux(self.i.payload.word, 4, 1))
            with m.If(self.set):
                m.d.sync += self.state.eq(self.value)
        with m.Else():
            m.d.sync += [left.eq(left - 1), pending.eq(pending >> 8),
                         self.state.eq(after_byte(self.state, pending[:8]))]
        return m
