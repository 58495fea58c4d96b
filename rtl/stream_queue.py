"""The way of words and counters from the SDRAM clock domain into the engine's."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class Reservation(wiring.Component):
    """Counts the free words of a queue, so that nothing is requested that could not be kept.

    Parameters
    ----------
    capacity_words : words of the queue.
    burst_words : most words taken at once.

    Members
    -------
    take, words : reserve so many words; only while ``enough``.
    give : a word left the queue.
    enough : a whole burst is free.
    all_free : nothing is reserved.
    """

    def __init__(self, *, capacity_words: int, burst_words: int) -> None:
        self._capacity_words = capacity_words
        self._burst_words = burst_words
        super().__init__({
            "take": In(1), "words": In(burst_words.bit_length()), "give": In(1), "enough": Out(1), "all_free": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        free = Signal(range(self._capacity_words + 1), init=self._capacity_words)
        m.d.sync += free.eq(free - Mux(self.take, self.words, 0) + self.give)
        m.d.comb += [self.enough.eq(free >= self._burst_words), self.all_free.eq(free == self._capacity_words)]
        return m


class ReservedQueue(wiring.Component):
    """A queue from the SDRAM to the engine domain whose writer never asks for space, because it is reserved.

    Without a way back for the read pointer the write side is a counter, fast enough for the SDRAM clock at any depth.
    Both domains must be reset together. Words come from the pads and the block RAMs may lie anywhere, so a register
    stands between them.

    Latency: a cycle of the source and 4 engine cycles.

    Parameters
    ----------
    depth_words : words of 32 bits; a power of two.
    source_domain : clock domain of ``write`` and ``word``.

    Members
    -------
    write, word : put a word in.
    o : words in order.
    """

    def __init__(self, *, depth_words: int, source_domain: str) -> None:
        self._depth_words = depth_words
        self._source_domain = source_domain
        super().__init__({"write": In(1), "word": In(32), "o": Out(stream.Signature(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        source = m.d[self._source_domain]
        m.submodules.words = words = Memory(shape=32, depth=self._depth_words, init=[])
        write_port, read_port = words.write_port(domain=self._source_domain), words.read_port(domain="sync")
        pointer_bits = self._depth_words.bit_length()
        written, written_gray, written_gray_here = (Signal(pointer_bits) for _ in range(3))
        read, read_following = Signal(pointer_bits), Signal(pointer_bits)
        available, move = Signal(), Signal()
        word, write = Signal(32, reset_less=True), Signal()

        m.submodules.pointer = FFSynchronizer(written_gray, written_gray_here, o_domain="sync")
        # The pointer follows the word by one edge, and its copy here by two more, so a visible word is a stored word.
        source += [word.eq(self.word), write.eq(self.write), written.eq(written + write),
                   written_gray.eq(written ^ written >> 1)]
        m.d.comb += [
            write_port.addr.eq(written), write_port.data.eq(word), write_port.en.eq(write),
            available.eq(written_gray_here != (read ^ read >> 1)),
            move.eq(available & (~self.o.valid | self.o.ready)),
            read_following.eq(read + move), read_port.addr.eq(read_following), read_port.en.eq(1),
        ]
        m.d.sync += read.eq(read_following)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.payload.eq(read_port.data), self.o.valid.eq(available)]
        return m


class Snapshot(wiring.Component):
    """Carries a wide, changing value into the engine domain, consistent in all its bits.

    A request toggles across, the source latches and toggles back, the copy is taken: it is never older than seven
    engine and four source cycles.

    Parameters
    ----------
    width : bits.
    source_domain : clock domain of ``i``.
    """

    def __init__(self, *, width: int, source_domain: str) -> None:
        self._source_domain = source_domain
        super().__init__({"i": In(width), "o": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        source = self._source_domain
        latched = Signal.like(self.i)
        asked, asked_there, answered, answered_here = Signal(), Signal(), Signal(), Signal()
        m.submodules.ask = FFSynchronizer(asked, asked_there, o_domain=source)
        m.submodules.answer = FFSynchronizer(answered, answered_here, o_domain="sync")
        with m.If(asked_there != answered):
            m.d[source] += [latched.eq(self.i), answered.eq(asked_there)]
        with m.If(answered_here == asked):
            m.d.sync += [self.o.eq(latched), asked.eq(~asked)]
        return m
