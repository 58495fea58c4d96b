"""The weight DMA: walks the weights of each token through SDRAM, ahead of the engine and across token boundaries."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import AsyncFIFO
from amaranth.lib.wiring import In, Out

from rtl.sdram_controller import COUNTERS, MemorySignature
from rtl.sdram_parts import ADDRESS_BITS
from rtl.sdram_units import Access, request_layout
from rtl.stream_queue import Reservation, ReservedQueue, Snapshot

PASSES_BITS = 16
REQUEST_DEPTH = 4
HOST_REQUEST = data.StructLayout({"address": ADDRESS_BITS, "write": 1, "data": 32})
STREAM_COUNTERS = data.StructLayout({
    "stream_words": 32, "other_words": 32, "refresh_cycles": 32, "sdram_cycles": 32})


class HostSignature(wiring.Signature):
    """Single words for the loader and the memory test.

    Members
    -------
    request : reads and writes of 32-bit words, done in order, ahead of the next burst of weights.
    response : one word per read. The next request waits until it is taken.
    """

    def __init__(self) -> None:
        super().__init__({"request": Out(stream.Signature(HOST_REQUEST)), "response": In(stream.Signature(32))})


class PassWalker(wiring.Component):
    """Cuts passes over one region into bursts that end where aligned blocks of ``burst_words`` end.

    Latency: 2 cycles from ``start`` to the first burst. Throughput: a burst in 2 cycles.

    Parameters
    ----------
    burst_words : most words of a burst.

    Members
    -------
    start : begin; ``base_words``, ``pass_words`` and ``passes`` (each at least one) are taken in this cycle, and so are
        ``short_words`` and ``short_passes``: the words of the first so many passes, which may be none.
    active : bursts remain.
    address, words, valid, ready : the next burst.
    """

    def __init__(self, *, burst_words: int) -> None:
        self._burst_words = burst_words
        super().__init__({
            "start": In(1), "base_words": In(ADDRESS_BITS), "pass_words": In(ADDRESS_BITS),
            "passes": In(PASSES_BITS), "short_words": In(ADDRESS_BITS), "short_passes": In(PASSES_BITS),
            "active": Out(1), "address": Out(ADDRESS_BITS),
            "words": Out(burst_words.bit_length()), "valid": Out(1), "ready": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        base, length, short, left = (Signal(ADDRESS_BITS) for _ in range(4))
        passes, short_passes = Signal(PASSES_BITS), Signal(PASSES_BITS)
        block_left = Signal.like(self.words)
        last = Signal()
        m.d.comb += [
            block_left.eq(self._burst_words - self.address[:self._burst_words.bit_length() - 1]),
            last.eq(left == self.words),
        ]
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.sync += [
                    base.eq(self.base_words), length.eq(self.pass_words), short.eq(self.short_words),
                    passes.eq(self.passes), short_passes.eq(self.short_passes), self.address.eq(self.base_words),
                    left.eq(Mux(self.short_passes == 0, self.pass_words, self.short_words))]
                with m.If(self.start):
                    m.next = "SIZE"
            with m.State("SIZE"):
                m.d.sync += self.words.eq(Mux(left < block_left, left, block_left))
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.valid.eq(1)
                with m.If(self.ready):
                    m.d.sync += [self.address.eq(self.address + self.words), left.eq(left - self.words)]
                    m.next = "SIZE"
                    with m.If(last):
                        m.d.sync += [self.address.eq(base), left.eq(Mux(short_passes > 1, short, length)),
                                     passes.eq(passes - 1), short_passes.eq(short_passes - (short_passes != 0))]
                        with m.If(passes == 1):
                            m.next = "IDLE"
        m.d.comb += self.active.eq(~fsm.ongoing("IDLE"))
        return m


class WeightStream(wiring.Component):
    """Delivers the 32-bit words of ``passes`` walks over a region of SDRAM, and serves single words to the host.

    Words are requested as far ahead as the queue has room, through the end of a pass into the next one. The engine
    clock must be at least half the SDRAM clock for full speed; any ratio is correct.

    Parameters
    ----------
    burst_words : words of a request, as in the controller; a power of two.
    fifo_words : words of the queue; a power of two, at least two bursts.
    sdram_domain : clock domain of ``memory``.

    Members
    -------
    start : begin a walk; only while ``idle``.
    stop : abandon it. ``o`` falls silent at once, and ``idle`` rises when everything requested has come and is gone.
    base_words, pass_words, passes : first word, words of a pass (at least 1), number of passes (at least 1); read
        with ``start``.
    short_words, short_passes : so many of the passes, the first ones, have fewer words (at least 1); read with
        ``start``.
    idle : no walk, no word requested or kept.
    o : the words, low half of each from the lower half-word address.
    host : see ``HostSignature``.
    counters : free-running; words read for the stream and for the host, clocks spent on refresh, clocks.
    memory : the controller's port, in ``sdram_domain``.

    Raises
    ------
    ValueError: a size is out of range.
    """

    def __init__(self, *, burst_words: int = 64, fifo_words: int = 2048, sdram_domain: str = "sdram") -> None:
        if burst_words < 2 or burst_words & (burst_words - 1):
            raise ValueError(f"burst_words must be a power of two from 2 up, got {burst_words}")
        if fifo_words < 2 * burst_words or fifo_words & (fifo_words - 1):
            raise ValueError(f"fifo_words must be a power of two of at least {2 * burst_words}, got {fifo_words}")
        self._burst_words = burst_words
        self._fifo_words = fifo_words
        self._sdram_domain = sdram_domain
        super().__init__({
            "start": In(1), "stop": In(1), "base_words": In(ADDRESS_BITS), "pass_words": In(ADDRESS_BITS),
            "passes": In(PASSES_BITS), "short_words": In(ADDRESS_BITS), "short_passes": In(PASSES_BITS),
            "idle": Out(1), "o": Out(stream.Signature(32)),
            "host": In(HostSignature()), "counters": Out(STREAM_COUNTERS),
            "memory": In(MemorySignature(burst_words=burst_words))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        walker = PassWalker(burst_words=self._burst_words)
        m.submodules.walker = ResetInserter(self.stop)(walker)
        m.submodules.reservation = reservation = Reservation(
            capacity_words=self._fifo_words, burst_words=self._burst_words)
        m.submodules.words = words = ReservedQueue(depth_words=self._fifo_words, source_domain=self._sdram_domain)
        stopping = Signal()

        m.d.comb += [
            walker.start.eq(self.start), walker.base_words.eq(self.base_words),
            walker.pass_words.eq(self.pass_words), walker.passes.eq(self.passes),
            walker.short_words.eq(self.short_words), walker.short_passes.eq(self.short_passes),
            self.o.payload.eq(words.o.payload), self.o.valid.eq(words.o.valid & ~stopping),
            words.o.ready.eq(self.o.ready | stopping), reservation.give.eq(words.o.valid & words.o.ready),
            words.word.eq(self.memory.data.word), words.write.eq(self.memory.data.valid & self.memory.data.stream),
            self.idle.eq(~walker.active & reservation.all_free & ~stopping),
        ]
        with m.If(self.stop):
            m.d.sync += stopping.eq(1)
        with m.Elif(reservation.all_free):
            m.d.sync += stopping.eq(0)
        self._request(m, walker, reservation)
        self._count(m)
        return m

    def _request(self, m: Module, walker: PassWalker, reservation: Reservation) -> None:
        """Merge host and walker into one request queue; return the host's words beside the stream's."""
        layout = request_layout(self._burst_words)
        m.submodules.requests = requests = AsyncFIFO(
            width=layout.size, depth=REQUEST_DEPTH, r_domain=self._sdram_domain, w_domain="sync")
        m.submodules.responses = responses = AsyncFIFO(
            width=32, depth=2, r_domain="sync", w_domain=self._sdram_domain)
        host, request = self.host.request, Signal(layout)
        # The host's request gets a register: what it comes from lies far away.
        pending, order = Signal(), Signal(HOST_REQUEST)
        with m.If(~pending):
            m.d.sync += [pending.eq(host.valid), order.eq(host.payload)]
        m.d.comb += host.ready.eq(~pending)
        # A register between queue and controller keeps the controller's ready out of the queue's pointers.
        full, held = Signal(), Signal(layout, reset_less=True)
        with m.If(~full):
            m.d[self._sdram_domain] += [held.eq(requests.r_data), full.eq(requests.r_rdy)]
        with m.Elif(self.memory.request.ready):
            m.d[self._sdram_domain] += full.eq(0)
        reading = Signal()                     # a host read is under way: its response has a place waiting
        burst_ready, single_ready = Signal(), Signal()
        m.d.comb += [
            single_ready.eq(pending & ~reading), burst_ready.eq(walker.valid & reservation.enough & ~single_ready),
            walker.ready.eq(requests.w_rdy & burst_ready),
            reservation.take.eq(walker.ready), reservation.words.eq(walker.words),
            requests.w_en.eq(burst_ready | single_ready), requests.w_data.eq(request),
            request.data.eq(order.data),
            requests.r_en.eq(~full), self.memory.request.payload.eq(held), self.memory.request.valid.eq(full),
            responses.w_data.eq(self.memory.data.word),
            responses.w_en.eq(self.memory.data.valid & ~self.memory.data.stream),
            self.host.response.payload.eq(responses.r_data), self.host.response.valid.eq(responses.r_rdy),
            responses.r_en.eq(self.host.response.ready),
        ]
        with m.If(single_ready):
            m.d.comb += [
                request.address.eq(order.address), request.words.eq(1),
                request.access.eq(Mux(order.write, Access.WRITE, Access.OTHER_READ))]
        with m.Else():
            m.d.comb += [request.address.eq(walker.address), request.words.eq(walker.words),
                         request.access.eq(Access.STREAM_READ)]
        with m.If(single_ready & requests.w_rdy):
            m.d.sync += [pending.eq(0), reading.eq(~order.write)]
        with m.Elif(responses.r_rdy & responses.r_en):
            m.d.sync += reading.eq(0)

    def _count(self, m: Module) -> None:
        """The controller's counters, as of the last snapshot."""
        m.submodules.snapshot = snapshot = Snapshot(width=COUNTERS.size, source_domain=self._sdram_domain)
        counters = data.View(COUNTERS, snapshot.o)
        m.d.comb += [
            snapshot.i.eq(Cat(self.memory.counters)),
            self.counters.stream_words.eq(counters.stream_words), self.counters.other_words.eq(counters.other_words),
            self.counters.refresh_cycles.eq(counters.refresh_cycles), self.counters.sdram_cycles.eq(counters.cycles)]
