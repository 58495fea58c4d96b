"""Vector memory: beats of 18-bit elements, written by rows or beats and read by beats."""

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

from rtl.op_layout import elements, read_port, write_port

DISTRIBUTED_DEPTH_MAX = 64   # deeper than this, a block RAM per two lanes costs less than distributed RAM


def divide(value: Value, divisor: int, limit: int) -> Value:
    """``value // divisor`` for values below ``limit``, as a sum of shifted copies: no multiplier block is used."""
    shift = 0
    while any(n * -(-(1 << shift) // divisor) >> shift != n // divisor for n in range(limit)):
        shift += 1
    factor = -(-(1 << shift) // divisor)
    return sum(value << bit for bit in range(factor.bit_length()) if factor >> bit & 1) >> shift


class VectorMemory(wiring.Component):
    """Memory of vectors with one write and one read port, each shared.

    A program never lets two writers, or two readers, use the memory in the same cycle: ``write_rows`` wins over
    ``write_beats[0]``, that over ``write_beats[1]``, and ``read[0]`` over ``read[1]``.

    Latency: read data follow the address by one cycle; an address given two cycles after a write reads the new value.

    Parameters
    ----------
    lanes : elements per beat.
    rows : elements written by one row write; divides ``lanes``.
    depth : beats.

    Members
    -------
    write_rows : writes ``rows`` elements; the address is that of the first element divided by ``rows``.
    write_beats : write whole beats.
    read : read whole beats.

    Raises
    ------
    ValueError: ``rows`` does not divide ``lanes``, or a depth below two.
    """

    def __init__(self, *, lanes: int, rows: int, depth: int) -> None:
        if lanes % rows:
            raise ValueError(f"lanes {lanes} must be a multiple of rows {rows}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        self._lanes, self._rows, self._depth = lanes, rows, depth
        super().__init__({
            "write_rows": In(write_port(elements(rows), ceil_log2(depth * lanes // rows))),
            "write_beats": In(write_port(elements(lanes), ceil_log2(depth))).array(2),
            "read": In(read_port(elements(lanes), ceil_log2(depth))).array(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        groups = self._lanes // self._rows
        distributed = self._depth <= DISTRIBUTED_DEPTH_MAX
        m.submodules.beats = beats = memory.Memory(
            shape=elements(self._lanes), depth=self._depth, init=[],
            attrs={"ram_style": "distributed" if distributed else "block"})
        write = beats.write_port(granularity=self._rows)
        read = beats.read_port()

        rows, (first, second) = self.write_rows, self.write_beats
        quotient = divide(rows.address, groups, self._depth * groups)
        group = (rows.address - sum(quotient << bit for bit in range(groups.bit_length()) if groups >> bit & 1))
        group_bits = ceil_log2(groups)
        address = Signal.like(write.addr)
        values = Signal.like(write.data)
        enable = Signal.like(write.en)
        m.d.sync += [
            enable.eq(Mux(rows.enable, 1 << group[:group_bits], (first.enable | second.enable).replicate(groups))),
            address.eq(Mux(rows.enable, quotient, Mux(first.enable, first.address, second.address))),
        ]
        for lane in range(self._lanes):
            beat_value = Mux(first.enable, first.data[lane], second.data[lane])
            m.d.sync += values[lane].eq(Mux(rows.enable, rows.data[lane % self._rows], beat_value))
        m.d.comb += [
            write.en.eq(enable), write.addr.eq(address), write.data.eq(values),
            read.en.eq(self.read[0].enable | self.read[1].enable),
            read.addr.eq(Mux(self.read[0].enable, self.read[0].address, self.read[1].address)),
            self.read[0].data.eq(read.data), self.read[1].data.eq(read.data),
        ]
        return m
