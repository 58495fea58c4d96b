"""Vector memory: beats of 18-bit elements, written by rows or beats and read by beats."""

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

    Latency: read data follow the address by one cycle; an address given two cycles after a write reads the new value.

    Parameters
    ----------
    lanes : elements per beat.
    rows : elements written by one row write; divides ``lanes``.
    depth : beats.
    primitives : see `RegisterCopy`.

    Members
    -------
    write_rows : writes a part of a beat, ``rows`` elements.
    write_beats : write whole beats.
    read : read whole beats.

    Raises
    ------
    ValueError: ``rows`` does not divide ``lanes``, a depth below two, or unknown primitives.
    """

    def __init__(self, *, lanes: int, rows: int, depth: int, primitives: str = "portable") -> None:
        if lanes % rows:
            raise ValueError(f"lanes {lanes} must be a multiple of rows {rows}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        check_primitives(primitives)
        self._lanes, self._rows, self._depth, self._primitives = lanes, rows, depth, primitives
        super().__init__({
            "write_rows": In(row_write_port(lanes, rows, ceil_log2(depth))),
            "write_beats": In(write_port(elements(lanes), ceil_log2(depth))).array(2),
            "read": In(read_port(elements(lanes), ceil_log2(depth))).array(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, (first, second) = self.write_rows, self.write_beats
        enable = Mux(rows.enable, rows.part, (first.enable | second.enable).replicate(len(rows.part)))
        write_address, read_address = Signal(ceil_log2(self._depth)), Signal(ceil_log2(self._depth))
        values = Signal(elements(self._lanes), reset_less=True)
        data = Signal(elements(self._lanes))
        for lane in range(self._lanes):
            m.d.sync += values[lane].eq(rows.data[lane % self._rows] | first.data[lane] | second.data[lane])
        m.d.comb += [
            write_address.eq(Mux(rows.enable, rows.address, Mux(first.enable, first.address, second.address))),
            read_address.eq(Mux(self.read[0].enable, self.read[0].address, self.read[1].address)),
            self.read[0].data.eq(data), self.read[1].data.eq(data),
        ]
        if self._depth <= DISTRIBUTED_DEPTH_MAX:
            self._distributed(m, enable, write_address, values, read_address, data)
        else:
            self._block(m, enable, write_address, values, read_address, data)
        return m

    def _block(self, m: Module, enable: Value, write_address: Value, values: View, read_address: Value,
               data: View) -> None:
        """One memory of block RAM."""
        # What is read in the cycle of its write is nobody's business. Synthesis may rely on that only if the register
        # of the block RAM is outside the read port.
        m.submodules.beats = beats = Memory(
            shape=elements(self._lanes), depth=self._depth, init=[],
            attrs={"ram_style": "block", "no_rw_check": 1})
        write, read = beats.write_port(granularity=self._rows), beats.read_port(domain="comb")
        register = Signal.like(data, reset_less=True)
        m.d.sync += [write.en.eq(enable), write.addr.eq(write_address)]
        m.d.comb += [write.data.eq(values), read.addr.eq(read_address), data.eq(register)]
        with m.If(self.read[0].enable | self.read[1].enable):
            m.d.sync += register.eq(read.data)

    def _distributed(self, m: Module, enable: Value, write_address: Value, values: View, read_address: Value,
                     data: View) -> None:
        """A memory of distributed RAM for every few lanes, read in the cycle in which data are due."""
        lanes = max(count for count in range(1, COPY_LANES_MAX + 1) if self._rows % count == 0)
        for start in range(0, self._lanes, lanes):
            m.submodules[f"lanes_{start}"] = part = Memory(
                shape=elements(lanes), depth=self._depth, init=[],
                attrs={"ram_style": "distributed", "no_rw_check": 1})
            write, read = part.write_port(), part.read_port(domain="comb")
            steer = Cat(write_address, read_address, enable[start // self._rows])
            m.submodules[f"steer_{start}"] = copy = RegisterCopy(width=len(steer), primitives=self._primitives)
            m.d.comb += [copy.i.eq(steer), Cat(write.addr, read.addr, write.en).eq(copy.o)]
            for lane in range(lanes):
                m.d.comb += [write.data[lane].eq(values[start + lane]), data[start + lane].eq(read.data[lane])]
