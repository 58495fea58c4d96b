"""Vector memory: beats of 18-bit elements, written by rows or beats and read by beats."""

from functools import reduce
from math import gcd
from operator import or_

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.data import View
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

from rtl.carry_chain import check_primitives
from rtl.op_layout import elements, read_port, row_write_port, write_port
from rtl.register_copy import RegisterCopy

DISTRIBUTED_DEPTH_MAX = 64   # deeper than this, a block RAM per two lanes costs less than distributed RAM
COPY_LANES_MAX = 4           # lanes of distributed RAM that share address registers


class VectorMemory(wiring.Component):
    """Memory of vectors with one write and one read port, each shared.

    A program never lets two writers, or two readers, use the memory in the same cycle. What is written is the or of
    all writers' data, so those of a writer must be zero while it is not enabled; ``read[0]`` wins over ``read[1]``.

    Distributed RAM takes thousands of cells, so every few lanes have address registers of their own.

    Latency: read data follow the address by two cycles; an address given two cycles after a write reads the new value.

    Parameters
    ----------
    lanes : elements per beat.
    rows : elements written by one row write, at most ``lanes``.
    depth : beats.
    primitives : see `RegisterCopy`.

    Members
    -------
    write_rows : writes ``rows`` elements, from one beat into the next where they reach over its end.
    write_beats : write whole beats.
    read : read whole beats.

    Raises
    ------
    ValueError: more rows than lanes, a depth below two, or unknown primitives.
    """

    def __init__(self, *, lanes: int, rows: int, depth: int, primitives: str = "portable") -> None:
        if rows > lanes:
            raise ValueError(f"rows {rows} must not exceed lanes {lanes}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        check_primitives(primitives)
        self._lanes, self._rows, self._depth, self._primitives = lanes, rows, depth, primitives
        self._size = gcd(rows, lanes)      # of a part: lanes with a write address of their own
        super().__init__({
            "write_rows": In(row_write_port(lanes, rows, ceil_log2(depth))),
            "write_beats": In(write_port(elements(lanes), ceil_log2(depth))).array(2),
            "read": In(read_port(elements(lanes), ceil_log2(depth))).array(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, (first, second) = self.write_rows, self.write_beats
        beat_enable, beat_address = first.enable | second.enable, Mux(first.enable, first.address, second.address)
        enable, write_address, sources = [], [], []
        for part in range(self._lanes // self._size):
            # The row write that begins at part ``part - piece`` brings this piece of its elements here.
            here = [rows.part[part - piece] for piece in range(self._rows // self._size)]
            enable.append(Mux(rows.enable, Cat(here).any(), beat_enable))
            write_address.append(Mux(rows.enable, rows.address + Cat(here[part + 1 :]).any(), beat_address))
            sources.append(here)
        read_address = Signal(ceil_log2(self._depth))
        values = Signal(elements(self._lanes), reset_less=True)
        data, held = Signal(elements(self._lanes)), Signal(elements(self._lanes), reset_less=True)
        m.d.sync += held.eq(data)   # the readers are as wide as the memory: the way to them takes a cycle
        for lane in range(self._lanes):
            part, element = divmod(lane, self._size)
            pieces = [rows.data[piece * self._size + element] for piece in range(len(sources[part]))]
            if len(pieces) > 1:
                pieces = [Mux(here, piece, 0) for here, piece in zip(sources[part], pieces, strict=True)]
            m.d.sync += values[lane].eq(reduce(or_, pieces) | first.data[lane] | second.data[lane])
        m.d.comb += [
            read_address.eq(Mux(self.read[0].enable, self.read[0].address, self.read[1].address)),
            self.read[0].data.eq(held), self.read[1].data.eq(held),
        ]
        if self._depth <= DISTRIBUTED_DEPTH_MAX:
            self._distributed(m, enable, write_address, values, read_address, data)
        else:
            self._block(m, enable, write_address, values, read_address, data)
        return m

    def _block(self, m: Module, enable: list, write_address: list, values: View, read_address: Value,
               data: View) -> None:
        """One memory of block RAM, or one per part where a row write can reach into the next beat."""
        width = self._lanes if self._rows == self._size else self._size
        for start in range(0, self._lanes, width):
            # What is read in the cycle of its write is nobody's business. Synthesis may rely on that only if the
            # register of the block RAM is outside the read port.
            m.submodules[f"lanes_{start}"] = lanes = Memory(
                shape=elements(width), depth=self._depth, init=[], attrs={"ram_style": "block", "no_rw_check": 1})
            write, read = lanes.write_port(granularity=self._size), lanes.read_port(domain="comb")
            register = Signal(elements(width), name=f"register_{start}", reset_less=True)
            part = slice(start // self._size, (start + width) // self._size)
            m.d.sync += [write.en.eq(Cat(enable[part])), write.addr.eq(write_address[part.start])]
            m.d.comb += read.addr.eq(read_address)
            with m.If(self.read[0].enable | self.read[1].enable):
                m.d.sync += register.eq(read.data)
            for lane in range(width):
                m.d.comb += [write.data[lane].eq(values[start + lane]), data[start + lane].eq(register[lane])]

    def _distributed(self, m: Module, enable: list, write_address: list, values: View, read_address: Value,
                     data: View) -> None:
        """A memory of distributed RAM for every few lanes, read in the cycle in which data are due."""
        lanes = max(count for count in range(1, COPY_LANES_MAX + 1) if self._size % count == 0)
        for start in range(0, self._lanes, lanes):
            m.submodules[f"lanes_{start}"] = part = Memory(
                shape=elements(lanes), depth=self._depth, init=[],
                attrs={"ram_style": "distributed", "no_rw_check": 1})
            write, read = part.write_port(), part.read_port(domain="comb")
            address = write_address[start // self._size][: len(read_address)]
            steer = Cat(address, read_address, enable[start // self._size])
            m.submodules[f"steer_{start}"] = copy = RegisterCopy(width=len(steer), primitives=self._primitives)
            m.d.comb += [copy.i.eq(steer), Cat(write.addr, read.addr, write.en).eq(copy.o)]
            for lane in range(lanes):
                m.d.comb += [write.data[lane].eq(values[start + lane]), data[start + lane].eq(read.data[lane])]
