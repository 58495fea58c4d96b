"""Block RAM with one address for reads and writes."""

from collections.abc import Sequence

from amaranth import Module
from amaranth.hdl import ShapeLike
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2


class OnePortMemory(wiring.Component):
    """Memory that reads or writes one word per cycle.

    A memory whose reads and writes have addresses of their own costs a comparator, a bypass multiplexer and two
    registers per bit on parts whose block RAM does not define what such a collision reads. Here none can occur.

    Latency: read data follow the address by one cycle and stay until the next read.

    Parameters
    ----------
    shape : one word.
    depth : words.
    init : initial contents, zero where not given.

    Members
    -------
    address : of the read or write.
    read : read; a write in the same cycle takes its place.
    write, write_data : write.
    read_data : the word read.

    Raises
    ------
    ValueError: a depth below two, or more initial words than the memory has.
    """

    def __init__(self, *, shape: ShapeLike, depth: int, init: Sequence[object] = ()) -> None:
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        if len(init) > depth:
            raise ValueError(f"init has {len(init)} words, the memory {depth}")
        self._data = memory.MemoryData(shape=shape, depth=depth, init=init)
        super().__init__({
            "address": In(ceil_log2(depth)),
            "read": In(1),
            "write": In(1),
            "write_data": In(shape),
            "read_data": Out(shape)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = memory.Memory(self._data, attrs={"ram_style": "block"})
        write, read = words.write_port(), words.read_port()
        m.d.comb += [
            write.addr.eq(self.address), write.data.eq(self.write_data), write.en.eq(self.write),
            read.addr.eq(self.address), read.en.eq(self.read & ~self.write), self.read_data.eq(read.data),
        ]
        return m
