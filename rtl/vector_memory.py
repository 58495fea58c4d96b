"""Vector memory: beats of 18-bit elements, written by rows or beats and read by beats."""

from functools import reduce
from math import gcd
from operator import or_

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.data import View
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.carry_chain import check_primitives
from rtl.config import ADDRESS_BITS
from rtl.op_layout import elements, read_port, row_write_port, write_port
from rtl.register_copy import RegisterCopy

DISTRIBUTED_DEPTH_MAX = 64   # deeper than this, a block RAM per two lanes costs less than distributed RAM
COPY_LANES_MAX = 4           # lanes of distributed RAM that share address registers


class VectorMemory(wiring.Component):
    """Memory of vectors: two banks with a write port each, one shared read port.

    The first bank is written by rows and beats, never by both in one cycle: what is written is the or of both, so the
    data of either must be zero while it does not write there. The second, the ``bank_beats`` last beats, has a writer
    of its own. A program never lets two readers use the memory in the same cycle; ``read[0]`` wins over ``read[1]``.
    From ``attention_beat`` on, ``read[0]`` reads what ``attention`` delivers.

    Distributed RAM takes thousands of cells, so every few lanes have address registers of their own.

    Latency: read data follow the address by two cycles; an address given two cycles after a write reads the new value.

    Parameters
    ----------
    lanes : elements per beat.
    rows : elements written by one row write, at most ``lanes``.
    depth : beats.
    bank_beats : beats of the second bank, 0 or a power of two below ``depth``, which then is one as well.
    attention_beat : first address that is not memory.
    slot_bits : of the slot's number, which leads addresses: ``depth`` is that of all slots, 256 each, if there are any.
    primitives : see `RegisterCopy`.

    Members
    -------
    write_rows : writes ``rows`` elements, from one beat into the next where they reach over its end; first bank.
    write_beats : writes whole beats; first bank.
    write_bank : writes whole beats of the second bank, counted from its first.
    read : read whole beats.
    attention : reads beats from elsewhere; data follow the address by one cycle.

    Raises
    ------
    ValueError: more rows than lanes, a depth below two, or unknown primitives.
    """

    def __init__(self, *, lanes: int, rows: int, depth: int, attention_beat: int, bank_beats: int = 0,
                 slot_bits: int = 0, primitives: str = "portable") -> None:
        if rows > lanes:
            raise ValueError(f"rows {rows} must not exceed lanes {lanes}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        check_primitives(primitives)
        self._lanes, self._rows, self._depth, self._primitives = lanes, rows, depth, primitives
        self._bank_beats, self._attention_beat = bank_beats, attention_beat
        self._address_bits = ADDRESS_BITS + slot_bits
        self._size = gcd(rows, lanes)      # of a part: lanes with a write address of their own
        beat, bits = elements(lanes), ceil_log2(depth)
        super().__init__({
            "write_rows": In(row_write_port(lanes, rows, bits)),
            "write_beats": In(write_port(beat, bits)),
            "write_bank": In(write_port(beat, ceil_log2(max(2, bank_beats)))),
            "read": In(read_port(beat, self._address_bits)).array(2),
            "attention": Out(read_port(beat, max(1, ceil_log2((1 << ADDRESS_BITS) - attention_beat))))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, beats = self.write_rows, self.write_beats
        enable, write_address, sources = [], [], []
        for part in range(self._lanes // self._size):
            # The row write that begins at part ``part - piece`` brings this piece of its elements here.
            here = [rows.part[part - piece] for piece in range(self._rows // self._size)]
            enable.append(Mux(rows.enable, Cat(here).any(), beats.enable))
            write_address.append(Mux(rows.enable, rows.address + Cat(here[part + 1 :]).any(), beats.address))
            sources.append(here)
        read_address = Signal(self._address_bits)
        values = Signal(elements(self._lanes), reset_less=True)
        for lane in range(self._lanes):
            part, element = divmod(lane, self._size)
            pieces = [rows.data[piece * self._size + element] for piece in range(len(sources[part]))]
            if len(pieces) > 1:
                pieces = [Mux(here, piece, 0) for here, piece in zip(sources[part], pieces, strict=True)]
            m.d.sync += values[lane].eq(reduce(or_, pieces) | beats.data[lane])
        m.d.comb += read_address.eq(Mux(self.read[0].enable, self.read[0].address, self.read[1].address))
        if self._depth <= DISTRIBUTED_DEPTH_MAX:
            data = self._distributed(m, "lanes", self._depth - self._bank_beats, enable, write_address, values,
                                     read_address)
        else:
            data = self._block(m, enable, write_address, values, read_address)
        if self._bank_beats:
            bank, bank_values = self.write_bank, Signal.like(values)
            m.d.sync += bank_values.eq(bank.data)
            parts = self._lanes // self._size
            second = self._distributed(m, "bank", self._bank_beats, parts * [bank.enable], parts * [bank.address],
                                       bank_values, read_address)
            data = [data, second]
        self._choose(m, read_address, data if self._bank_beats else [data])
        return m

    def _choose(self, m: Module, address: Signal, banks: list[View]) -> None:
        """Of what was read, that which lies at the address; the readers are as wide: the way to them takes a cycle."""
        index_bits = ceil_log2((1 << ADDRESS_BITS) - self._attention_beat)
        # Only read[0] reaches it, so that it does not wait for the choice between the two.
        far = self.read[0].enable & self.read[0].address[index_bits:ADDRESS_BITS].all()
        near_bits = address[ceil_log2(max(2, self._bank_beats)) : ceil_log2(self._depth)]
        held = Signal(elements(self._lanes), reset_less=True)
        m.d.comb += [
            self.attention.enable.eq(far), self.attention.address.eq(self.read[0].address[:index_bits]),
            self.read[0].data.eq(held), self.read[1].data.eq(held),
        ]
        for start in range(0, self._lanes, COPY_LANES_MAX):
            m.submodules[f"choice_{start}"] = choice = RegisterCopy(width=2, primitives=self._primitives)
            m.d.comb += choice.i.eq(Cat(far, near_bits.all()))
            for lane in range(start, min(start + COPY_LANES_MAX, self._lanes)):
                near = Mux(choice.o[1], banks[1][lane], banks[0][lane]) if len(banks) > 1 else banks[0][lane]
                m.d.sync += held[lane].eq(Mux(choice.o[0], self.attention.data[lane], near))

    def _block(self, m: Module, enable: list, write_address: list, values: View, read_address: Value) -> View:
        """One memory of block RAM, or one per part where a row write can reach into the next beat."""
        data = Signal(elements(self._lanes))
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
        return data

    def _distributed(self, m: Module, name: str, depth: int, enable: list, write_address: list, values: View,
                     read_address: Value) -> View:
        """A memory of distributed RAM for every few lanes, read in the cycle in which data are due."""
        data = Signal(elements(self._lanes), name=f"{name}_data")
        lanes = max(count for count in range(1, COPY_LANES_MAX + 1) if self._size % count == 0)
        bits = ceil_log2(depth)
        for start in range(0, self._lanes, lanes):
            m.submodules[f"{name}_{start}"] = part = Memory(
                shape=elements(lanes), depth=depth, init=[], attrs={"ram_style": "distributed", "no_rw_check": 1})
            write, read = part.write_port(), part.read_port(domain="comb")
            steer = Cat(write_address[start // self._size][:bits], read_address[:bits], enable[start // self._size])
            m.submodules[f"{name}_steer_{start}"] = copy = RegisterCopy(width=len(steer), primitives=self._primitives)
            m.d.comb += [copy.i.eq(steer), Cat(write.addr, read.addr, write.en).eq(copy.o)]
            for lane in range(lanes):
                m.d.comb += [write.data[lane].eq(values[start + lane]), data[start + lane].eq(read.data[lane])]
        return data
