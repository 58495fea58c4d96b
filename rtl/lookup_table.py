"""Lookup tables of sums of activations, and the circuit that fills all of them at once."""

from amaranth import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from rtl.adder_tree import sum_bits
from rtl.carry_chain import check_primitives, connect_adder, place_adders
from rtl.config import ACTIVATION_BITS, CODE_BITS, CODE_TERMS, entry_trits
from rtl.op_layout import int8s, write_port
from rtl.register_copy import RegisterCopy
from rtl.timing import TABLE_ENTRIES, table_cycles, table_latency

INDEX_BITS = CODE_BITS - 1
TERMS = data.StructLayout({"pick": 3, "negative": 2})    # how the terms of an entry are made, see `TableFill`
FILL_FAN_OUT = 14               # tables that share one copy of what steers their filling


def block_shape(table_blocks: int) -> int:
    """Width of a column block's number."""
    return max(1, ceil_log2(table_blocks))


def table_write_port(codes: int, table_blocks: int) -> Signature:
    """Port that writes one entry of every table, as seen by the writer; data follow address and enable by a cycle."""
    return Signature({"enable": Out(1), "address": Out(INDEX_BITS + ceil_log2(table_blocks)),
                      "data": Out(data.ArrayLayout(signed(sum_bits(1)), codes))})


class LookupTable(wiring.Component):
    """Sums of activations by code index, for every column block: 16 entries each.

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

    For each block it reads ``block_beats`` beats, then writes the entries of all tables, one per clock: 1 to 13, while
    entry 0 is zero and stays so, or with ``code_trits`` 4 all 16, entry 0 last. An entry is the sum of the activations
    of its columns, each times one of its `entry_trits`. The next block is read while the last entry is computed.

    Latency: ``done`` is high in cycle ``blocks * (block_beats + table_cycles(code_trits))`` after that of ``start``;
    tables may be read from four cycles after ``done``.

    Parameters
    ----------
    lanes : activations per beat.
    block_beats : beats per column block.
    table_blocks : column blocks that the tables hold.
    depth : beats of the activation buffer.
    code_trits : columns of a table.
    primitives : see `GatedAdder`.

    Members
    -------
    activation : writes the buffer.
    start : takes ``source`` and ``blocks``.
    source : first beat.
    blocks : column blocks to load, at least one.
    unfilled : last beats of the last block that count as zero; with ``code_trits`` 4 only, whose codes cannot say so.
    done : the last beat and step are under way.
    write : entries.

    Raises
    ------
    ValueError: a size below one, or unknown primitives.
    """

    def __init__(self, *, lanes: int, block_beats: int, table_blocks: int, depth: int, code_trits: int,
                 primitives: str) -> None:
        for name, size in (("lanes", lanes), ("block_beats", block_beats), ("table_blocks", table_blocks)):
            if size < 1:
                raise ValueError(f"{name} must be positive, got {size}")
        if depth < block_beats:
            raise ValueError(f"depth {depth} must be at least block_beats {block_beats}")
        check_primitives(primitives)
        self._lanes, self._block_beats, self._table_blocks = lanes, block_beats, table_blocks
        self._depth, self._code_trits, self._primitives = depth, code_trits, primitives
        self._codes = -(-lanes * block_beats // code_trits)
        super().__init__({
            "activation": In(write_port(int8s(lanes), ceil_log2(depth))),
            "start": In(1), "source": In(ceil_log2(depth)), "blocks": In(ceil_log2(table_blocks + 1)),
            "unfilled": In(range(block_beats)), "done": Out(1),
            "write": Out(table_write_port(self._codes, table_blocks))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beats, entries = self._block_beats, TABLE_ENTRIES[self._code_trits]
        period = beats + table_cycles(self._code_trits)
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
            if self._code_trits > CODE_TERMS:
                with m.If((block == blocks - 1) & (phase >= beats - self.unfilled)):
                    m.d.sync += beat_data.eq(0)
        capture = Signal(beats)
        m.d.sync += capture.eq(Mux(reading, 1 << phase[: ceil_log2(beats)], 0) if beats > 1 else reading)
        if self._code_trits == CODE_TERMS:
            # Block RAM is slow and far away. The first entry is the first column alone, which is added last, so there
            # is a cycle for nothing but the way here.
            near = Signal.like(beat_data)
            taken = Signal.like(capture)
            m.d.sync += [near.eq(beat_data), taken.eq(capture)]
            beat_data, capture = near, taken
        activations = Signal(data.ArrayLayout(signed(ACTIVATION_BITS), self._codes * self._code_trits), reset_less=True)
        for index in range(beats):
            with m.If(capture[index]):
                for lane in range(self._lanes):
                    m.d.sync += activations[index * self._lanes + lane].eq(beat_data[lane])

        step = Signal(range(entries + 1))
        before = period - entries - 1
        m.d.comb += step.eq(Mux(active_next & (phase_next > before), phase_next - before, 0))
        self._entries(m, step, block, activations)
        return m

    def _entries(self, m: Module, step: Signal, block: Signal, activations: data.View) -> None:
        """Compute every table's entry of step ``step``, 0 for none: the last term, then plus the second, the first."""
        second_step, first_step = Signal.like(step), Signal.like(step)
        writes, address = Signal(), Signal.like(self.write.address)
        m.d.sync += [
            second_step.eq(step), first_step.eq(second_step), writes.eq(second_step.any()),
            address.eq(second_step[:INDEX_BITS] | block << INDEX_BITS),
            self.write.address.eq(address), self.write.enable.eq(writes)]
        terms = Signal(TERMS)
        self._terms(m, step, second_step, first_step, terms)
        pairs = place_adders(m, "pair", [ACTIVATION_BITS + 1] * self._codes, primitives=self._primitives)
        sums = place_adders(m, "entry", [sum_bits(1)] * self._codes, primitives=self._primitives)
        for code, (pair, entry_adder) in enumerate(zip(pairs, sums, strict=True)):
            if code % FILL_FAN_OUT == 0:
                m.submodules[f"controls_{code}"] = copy = RegisterCopy(
                    width=TERMS.size, primitives=self._primitives)
                m.d.comb += copy.i.eq(terms)
                here = data.View(TERMS, copy.o)
            columns = [activations[code * self._code_trits + index] for index in range(self._code_trits)]
            third = Signal(signed(ACTIVATION_BITS), name=f"third_{code}", reset_less=True)
            pair_sum = Signal(signed(ACTIVATION_BITS + 1), name=f"pair_sum_{code}", reset_less=True)
            entry = Signal(signed(sum_bits(1)), name=f"entry_{code}", reset_less=True)
            if self._code_trits == CODE_TERMS:
                first, second, last = columns[0], columns[1], Mux(here.pick[2], columns[2], 0)
                gates = here.pick[:2]
            else:
                first, second, last = (Mux(here.pick[place], columns[place + 1], columns[place])
                                       for place in range(CODE_TERMS))
                gates = C(0b11, 2)
            m.d.comb += connect_adder(pair, third, second, gate=gates[1], negative=here.negative[1],
                                      carry=here.negative[1])
            m.d.comb += connect_adder(entry_adder, pair_sum, first, gate=gates[0], negative=here.negative[0],
                                      carry=here.negative[0])
            m.d.comb += self.write.data[code].eq(entry)
            m.d.sync += [third.eq(last), pair_sum.eq(pair.o), entry.eq(entry_adder.o)]

    def _terms(self, m: Module, third: Signal, second: Signal, first: Signal, terms: data.View) -> None:
        """How each term of an entry is made; it is added in a step of its own, the third one first.

        Of three columns each is a term, and ``pick`` lets it count. Of four, a term is the column of its place or,
        with ``pick``, the next one, because the zero is before it.
        """
        steps = range(1, TABLE_ENTRIES[self._code_trits] + 1)
        trits = {step: entry_trits(step % (1 << INDEX_BITS), self._code_trits) for step in steps}
        for place, step in enumerate((first, second, third)):
            if self._code_trits == CODE_TERMS:
                picked = [number for number in steps if trits[number][place]]
                negative = [number for number in steps if trits[number][place] < 0]
            else:
                picked = [number for number in steps if trits[number].index(0) <= place]
                negative = [number for number in steps if [trit for trit in trits[number] if trit][place] < 0]
            m.d.comb += terms.pick[place].eq(Cat(step == number for number in picked).any())
            if place < 2:
                m.d.comb += terms.negative[place].eq(Cat(step == number for number in negative).any())
