"""Lookup tables of sums of three activations, and the circuit that fills all of them at once."""

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from rtl.adder_tree import sum_bits
from rtl.carry_chain import check_primitives, connect_adder, place_adders
from rtl.config import ACTIVATION_BITS, CODE_BITS, CODE_TRITS
from rtl.op_layout import int8s, write_port
from rtl.register_copy import RegisterCopy
from rtl.timing import TABLE_ENTRIES, table_latency

INDEX_BITS = CODE_BITS - 1
FILL_FAN_OUT = 14               # tables that share one copy of what steers their filling


def block_shape(table_blocks: int) -> int:
    """Width of a column block's number."""
    return max(1, ceil_log2(table_blocks))


def trit_is(entry: Value, place: int, *trits: int) -> Value:
    """Whether the trit at ``place`` of a table entry is one of ``trits``; zero for no entry."""
    wanted = (number for number in range(1, TABLE_ENTRIES + 1) if (number + 13) // 3**place % 3 - 1 in trits)
    return Cat(entry == number for number in wanted).any()


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
            attrs={"ram_style": "block", "no_rw_check": 1})
        write, read = buffer.write_port(), buffer.read_port(domain="comb")
        m.d.comb += [write.en.eq(self.activation.enable), write.addr.eq(self.activation.address),
                     write.data.eq(self.activation.data)]

        active, phase, beat = Signal(), Signal(range(period)), Signal(ceil_log2(self._depth))
        active_next, phase_next = Signal.like(active), Signal.like(phase)
        block, blocks = Signal(block_shape(self._table_blocks)), Signal.like(self.blocks)
        wrap = phase == period - 1
        reading, beat_data = Signal(), Signal(int8s(self._lanes), reset_less=True)
        m.d.comb += [read.addr.eq(beat), reading.eq(active & (phase < beats))]
        m.d.sync += self.done.eq(active_next & (phase_next == period - 1) & (block == blocks - 1))
        with m.If(self.start):
            m.d.comb += active_next.eq(1)
            m.d.sync += [beat.eq(self.source), block.eq(0), blocks.eq(self.blocks)]
        with m.Else():
            m.d.comb += [active_next.eq(active & ~self.done), phase_next.eq(Mux(active & ~wrap, phase + 1, 0))]
            m.d.sync += [block.eq(block + wrap), beat.eq(beat + reading)]
        m.d.sync += [active.eq(active_next), phase.eq(phase_next)]

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
        m.d.comb += step.eq(Mux(active_next & (phase_next >= beats), phase_next - (beats - 1), 0))
        self._entries(m, step, block, activations)
        return m

    def _entries(self, m: Module, step: Signal, block: Signal, activations: data.View) -> None:
        """Compute every table's entry ``step`` of a cycle before: ``t2*c``, then ``+ t1*b``, then ``+ t0*a``."""
        second_step, first_step = Signal(INDEX_BITS), Signal(INDEX_BITS)
        address = Signal.like(self.write.address)
        m.d.sync += [
            second_step.eq(step), first_step.eq(second_step),
            address.eq(Mux(second_step == 0, 0, second_step | block << INDEX_BITS)),
            self.write.address.eq(address), self.write.enable.eq(address[:INDEX_BITS].any())]
        controls = Cat(trit_is(step, 2, 1), trit_is(second_step, 1, 1, -1), trit_is(second_step, 1, -1),
                       trit_is(first_step, 0, 1, -1), trit_is(first_step, 0, -1))
        pairs = place_adders(m, "pair", [ACTIVATION_BITS + 1] * self._codes, primitives=self._primitives)
        sums = place_adders(m, "entry", [sum_bits(1)] * self._codes, primitives=self._primitives)
        for code, (pair, entry_adder) in enumerate(zip(pairs, sums, strict=True)):
            if code % FILL_FAN_OUT == 0:
                m.submodules[f"controls_{code}"] = copy = RegisterCopy(
                    width=len(controls), primitives=self._primitives)
                m.d.comb += copy.i.eq(controls)
                third_gate, second_gate, second_negative, first_gate, first_negative = copy.o
            a, b, c = (activations[code * CODE_TRITS + index] for index in range(CODE_TRITS))
            third = Signal(signed(ACTIVATION_BITS), name=f"third_{code}", reset_less=True)
            pair_sum = Signal(signed(ACTIVATION_BITS + 1), name=f"pair_sum_{code}", reset_less=True)
            entry = Signal(signed(sum_bits(1)), name=f"entry_{code}", reset_less=True)
            m.d.comb += connect_adder(pair, third, b, gate=second_gate, negative=second_negative,
                                      carry=second_negative)
            m.d.comb += connect_adder(entry_adder, pair_sum, a, gate=first_gate, negative=first_negative,
                                      carry=first_negative)
            m.d.comb += self.write.data[code].eq(entry)
            m.d.sync += [third.eq(Mux(third_gate, c, 0)), pair_sum.eq(pair.o), entry.eq(entry_adder.o)]
