"""Lookup tables of sums of three activations, and the circuit that fills all of them at once."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from rtl.adder_tree import sum_bits
from rtl.carry_chain import GatedAdder, check_primitives, connect_adder
from rtl.config import ACTIVATION_BITS, CODE_BITS, CODE_TRITS
from rtl.op_layout import int8s, write_port
from rtl.timing import TABLE_ENTRIES, table_latency

INDEX_BITS = CODE_BITS - 1
BUFFER_DISTRIBUTED_DEPTH = 32   # activation buffers up to this depth are distributed RAM, deeper ones block RAM


def block_shape(table_blocks: int) -> int:
    """Width of a column block's number."""
    return max(1, ceil_log2(table_blocks))


def table_write_port(codes: int, table_blocks: int) -> Signature:
    """Port that writes one entry of every table, as seen by the writer; data follow address and enable by a cycle."""
    return Signature({"enable": Out(1), "address": Out(INDEX_BITS + ceil_log2(table_blocks)),
                      "data": Out(data.ArrayLayout(signed(sum_bits(1)), codes))})


class LookupTable(wiring.Component):
    """Sums of three activations by code index, for every column block: 16 entries each.

    Latency: write one cycle; read ``table_latency(table_blocks)`` cycles: none from distributed RAM, which holds one
    block, two from block RAM.

    Parameters
    ----------
    table_blocks : column blocks.

    Members
    -------
    enable, address, data : write.
    index, block : read address.
    value : read data.

    Raises
    ------
    ValueError: fewer than one block.
    """

    def __init__(self, *, table_blocks: int) -> None:
        if table_blocks < 1:
            raise ValueError(f"table_blocks must be positive, got {table_blocks}")
        self._table_blocks = table_blocks
        value = signed(sum_bits(1))
        super().__init__({"enable": In(1), "address": In(INDEX_BITS + ceil_log2(table_blocks)), "data": In(value),
                          "index": In(INDEX_BITS), "block": In(block_shape(table_blocks)), "value": Out(value)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        immediate = table_latency(self._table_blocks) == 0
        # Tables are never read while they are written. Synthesis may rely on that only if the register of a block
        # RAM is outside the read port.
        m.submodules.memory = memory = Memory(
            shape=self.data.shape(), depth=self._table_blocks << INDEX_BITS, init=[],
            attrs={"ram_style": "distributed" if immediate else "block", "no_rw_check": 1})
        write = memory.write_port()
        read = memory.read_port(domain="comb")
        m.d.comb += [write.en.eq(self.enable), write.addr.eq(self.address), write.data.eq(self.data)]
        if self._table_blocks > 1:
            m.d.comb += read.addr.eq(self.index | self.block << INDEX_BITS)
        else:
            m.d.comb += read.addr.eq(self.index)
        if immediate:
            m.d.comb += self.value.eq(read.data)
        else:
            output, value = (Signal.like(self.value, reset_less=True) for _ in range(2))
            m.d.sync += [output.eq(read.data), value.eq(output)]
            m.d.comb += self.value.eq(value)
        return m


class TableFill(wiring.Component):
    """Holds activations and turns column blocks of them into table entries.

    For each block it reads ``block_beats`` beats, then writes entries 1 to 13 of all tables, one per clock; entry 0
    is zero and stays so. Entry ``n`` of the table of columns (a, b, c) is ``t0*a + t1*b + t2*c`` where
    ``n = t0 + 3*t1 + 9*t2`` and the t are -1, 0 or 1. The next block is read while the last entry is computed.

    Latency: ``done`` is high in cycle ``blocks * (block_beats + 13)`` after that of ``start``; tables may be read
    from four cycles after ``done``.

    Parameters
    ----------
    lanes : activations per beat.
    block_beats : beats per column block.
    table_blocks : column blocks that the tables hold.
    depth : beats of the activation buffer.
    primitives : see `GatedAdder`.

    Members
    -------
    activation : writes the buffer.
    start : takes ``source`` and ``blocks``.
    source : first beat.
    blocks : column blocks to load, at least one.
    done : the last beat and step are under way.
    write : entries.

    Raises
    ------
    ValueError: a size below one, or unknown primitives.
    """

    def __init__(self, *, lanes: int, block_beats: int, table_blocks: int, depth: int, primitives: str) -> None:
        for name, size in (("lanes", lanes), ("block_beats", block_beats), ("table_blocks", table_blocks)):
            if size < 1:
                raise ValueError(f"{name} must be positive, got {size}")
        if depth < block_beats:
            raise ValueError(f"depth {depth} must be at least block_beats {block_beats}")
        check_primitives(primitives)
        self._lanes, self._block_beats, self._table_blocks = lanes, block_beats, table_blocks
        self._depth, self._primitives = depth, primitives
        self._codes = -(-lanes * block_beats // CODE_TRITS)
        super().__init__({
            "activation": In(write_port(int8s(lanes), ceil_log2(depth))),
            "start": In(1), "source": In(ceil_log2(depth)), "blocks": In(ceil_log2(table_blocks + 1)), "done": Out(1),
            "write": Out(table_write_port(self._codes, table_blocks))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beats, period = self._block_beats, self._block_beats + TABLE_ENTRIES
        m.submodules.buffer = buffer = Memory(
            shape=int8s(self._lanes), depth=self._depth, init=[],
            attrs={"ram_style": "distributed" if self._depth <= BUFFER_DISTRIBUTED_DEPTH else "block",
                   "no_rw_check": 1})
        write, read = buffer.write_port(), buffer.read_port(domain="comb")
        m.d.comb += [write.en.eq(self.activation.enable), write.addr.eq(self.activation.address),
                     write.data.eq(self.activation.data)]

        active, phase, beat = Signal(), Signal(range(period)), Signal(ceil_log2(self._depth))
        block, blocks = Signal(block_shape(self._table_blocks)), Signal.like(self.blocks)
        wrap = phase == period - 1
        reading, beat_data = Signal(), Signal(int8s(self._lanes), reset_less=True)
        m.d.comb += [read.addr.eq(beat), reading.eq(active & (phase < beats)),
                     self.done.eq(active & wrap & (block == blocks - 1))]
        with m.If(self.start):
            m.d.sync += [active.eq(1), phase.eq(0), beat.eq(self.source), block.eq(0), blocks.eq(self.blocks)]
        with m.Elif(active):
            m.d.sync += [phase.eq(Mux(wrap, 0, phase + 1)), block.eq(block + wrap), beat.eq(beat + reading)]
            with m.If(self.done):
                m.d.sync += active.eq(0)

        with m.If(reading):
            m.d.sync += beat_data.eq(read.data)
        capture = Signal(beats)
        m.d.sync += capture.eq(Mux(reading, 1 << phase[: ceil_log2(beats)], 0) if beats > 1 else reading)
        activations = Signal(data.ArrayLayout(signed(ACTIVATION_BITS), self._codes * CODE_TRITS), reset_less=True)
        for index in range(beats):
            with m.If(capture[index]):
                for lane in range(self._lanes):
                    m.d.sync += activations[index * self._lanes + lane].eq(beat_data[lane])

        step = Signal(INDEX_BITS)
        m.d.comb += step.eq(Mux(active & (phase >= beats), phase - (beats - 1), 0))
        self._entries(m, step, block, activations)
        return m

    def _entries(self, m: Module, step: Signal, block: Signal, activations: data.View) -> None:
        """Compute every table's entry ``step``: first ``t1*b + t2*c``, a cycle later ``+ t0*a``."""
        third_next, trits = Signal(), Signal(4)
        first_gate, first_negative = Signal(), Signal()
        address = Signal.like(self.write.address)
        with m.Switch(step):
            for entry in range(1, TABLE_ENTRIES + 1):
                t0, t1, t2 = (entry + 13) % 3 - 1, (entry + 13) // 3 % 3 - 1, (entry + 13) // 9 - 1
                with m.Case(entry):
                    m.d.comb += third_next.eq(t2)
                    m.d.sync += trits.eq((t0 != 0) | (t0 < 0) << 1 | (t1 != 0) << 2 | (t1 < 0) << 3)
        with m.If(step == 0):
            m.d.sync += address.eq(0)
        with m.Else():
            m.d.sync += address.eq(step | block << INDEX_BITS)
        m.d.sync += [first_gate.eq(trits[0]), first_negative.eq(trits[1]),
                     self.write.address.eq(address), self.write.enable.eq(address[:INDEX_BITS].any())]

        for code in range(self._codes):
            a, b, c = (activations[code * CODE_TRITS + index] for index in range(CODE_TRITS))
            third = Signal(signed(ACTIVATION_BITS), name=f"third_{code}", reset_less=True)
            pair = GatedAdder(width=ACTIVATION_BITS + 1, primitives=self._primitives)
            entry_adder = GatedAdder(width=sum_bits(1), primitives=self._primitives)
            m.submodules[f"pair_{code}"], m.submodules[f"entry_{code}"] = pair, entry_adder
            pair_sum = Signal(signed(ACTIVATION_BITS + 1), name=f"pair_sum_{code}", reset_less=True)
            entry = Signal(signed(sum_bits(1)), name=f"entry_{code}", reset_less=True)
            m.d.comb += connect_adder(pair, third, b, gate=trits[2], negative=trits[3], carry=trits[3])
            m.d.comb += connect_adder(entry_adder, pair_sum, a, gate=first_gate, negative=first_negative,
                                      carry=first_negative)
            m.d.comb += self.write.data[code].eq(entry)
            m.d.sync += [third.eq(Mux(third_next, c, 0)), pair_sum.eq(pair.o), entry.eq(entry_adder.o)]
