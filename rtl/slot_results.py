"""The way of elements that all slots share: rounding, gathering into beats, peaks."""

from functools import reduce
from operator import or_

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.accumulator import round_element
from rtl.carry_chain import GatedAdder, check_primitives
from rtl.config import ELEMENT_BITS, Config
from rtl.op_layout import RESULT, elements, slot_write_port
from rtl.peak import MAGNITUDE_BITS, SIGNED_MAGNITUDE, compare_peaks
from rtl.slot import sum_bits
from rtl.tile_counter import TAG
from rtl.timing import SLOT_REPORT_CYCLES, accumulator_cycles


class SlotResults(wiring.Component):
    """Rounds the sums of all slots, gathers elements into beats, and keeps the peak of each slot.

    The slots finish an element one clock after another, and the next one only when all in use have finished, so there
    is one element per clock and its slot can be counted. The elements of a beat so far lie in distributed RAM: each
    new one moves those of its slot by a lane.

    Latency: a sum is an element after ``accumulator_cycles(config)`` cycles, a beat is written in the cycle after its
    last element. The first peak is offered two cycles after the last element.

    Parameters
    ----------
    config : geometry.
    primitives : see `GatedAdder`.

    Members
    -------
    start : an operation begins; takes ``destination``.
    destination : beat of the first elements.
    last_slot : the last slot in use, constant while an operation lasts.
    tag : ``last`` and ``final`` a cycle before the sum of the first slot.
    sums : of the slots, zero but for the one whose turn it is.
    shift, half : right shift of elements, and ``1 << shift >> 1``.
    register : that of the results.
    write : beats; data are zero while it is not enabled.
    result, result_slot : peaks, slot after slot.
    done : the last peak is taken.

    Raises
    ------
    ValueError: see the parts.
    """

    def __init__(self, *, config: Config, primitives: str) -> None:
        check_primitives(primitives)
        self._config, self._primitives = config, primitives
        slots = config.slots
        super().__init__({
            "start": In(1), "destination": In(8), "last_slot": In(range(slots)), "tag": In(TAG),
            "sums": In(data.ArrayLayout(signed(sum_bits(config)), slots)),
            "shift": In(config.shift_max.bit_length()), "half": In(config.shift_max), "register": In(5),
            "write": Out(slot_write_port(config.lanes, slots)),
            "result": Out(stream.Signature(RESULT)), "result_slot": Out(range(slots)), "done": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        element, tag = self._element(m)
        slot, valid, reporting = Signal(range(self._config.slots)), Signal(), Signal()
        taken = self.result.valid & self.result.ready
        at_end = slot == self.last_slot
        m.d.sync += valid.eq(tag.last | valid & ~at_end)
        with m.If(valid | taken):
            m.d.sync += slot.eq(Mux(at_end, 0, slot + 1))

        final = Signal()
        with m.If(tag.last):
            m.d.sync += final.eq(tag.final)
        wait = Signal(SLOT_REPORT_CYCLES)
        m.d.sync += [wait.eq(valid & at_end & final | wait << 1), reporting.eq(wait[-1] | reporting & ~self.done)]
        m.d.comb += [self.result.valid.eq(reporting), self.result_slot.eq(slot), self.done.eq(taken & at_end),
                     self.result.payload.register.eq(self.register)]
        self._peaks(m, element, slot, valid, valid & at_end)
        self._beats(m, element, slot, valid, at_end)
        return m

    def _element(self, m: Module) -> tuple[Signal, data.View]:
        """The element, and the tag a cycle before that of the first slot."""
        merged = Signal(signed(sum_bits(self._config)), reset_less=True)
        element = Signal(signed(ELEMENT_BITS), reset_less=True)
        m.d.sync += merged.eq(reduce(or_, self.sums))
        if self._config.shift_max:
            round_element(m, merged, self.half, self.shift, element)
        else:
            m.d.comb += element.eq(merged)
        tag = self.tag
        for stage in range(accumulator_cycles(self._config)):
            delayed = Signal(TAG, name=f"tag_{stage}")
            m.d.sync += delayed.eq(tag)
            tag = delayed
        return element, tag

    def _peaks(self, m: Module, element: Signal, slot: Signal, valid: Signal, end: Signal) -> None:
        """The largest magnitude of each slot's elements since the start."""
        m.submodules.peaks = peaks = Memory(shape=SIGNED_MAGNITUDE, depth=self._config.slots, init=[],
                                            attrs={"ram_style": "distributed"})
        m.submodules.difference = difference = GatedAdder(width=MAGNITUDE_BITS + 1, primitives=self._primitives)
        write, read = peaks.write_port(), peaks.read_port(domain="comb")
        first, better, candidate = Signal(), Signal(), Signal(SIGNED_MAGNITUDE)
        m.d.sync += first.eq(self.start | first & ~end)
        compare_peaks(m, difference, candidate, read.data, better)
        m.d.comb += [
            candidate.negative.eq(element[-1]),
            candidate.magnitude.eq(element ^ element[-1].replicate(MAGNITUDE_BITS)),
            read.addr.eq(slot), write.addr.eq(slot), write.data.eq(candidate), write.en.eq(valid & (first | better)),
            self.result.payload.value.eq(read.data.magnitude + read.data.negative),
        ]

    def _beats(self, m: Module, element: Signal, slot: Signal, valid: Signal, at_end: Signal) -> None:
        """Whole beats; ``lane`` has one bit for the lane of the element."""
        lanes = self._config.lanes
        m.submodules.gathered = gathered = Memory(shape=elements(lanes - 1), depth=self._config.slots, init=[],
                                                  attrs={"ram_style": "distributed"})
        write, read = gathered.write_port(), gathered.read_port(domain="comb")
        beat = Cat(read.data, element)
        m.d.comb += [read.addr.eq(slot), write.addr.eq(slot), write.en.eq(valid),
                     write.data.eq(beat[ELEMENT_BITS:])]
        lane, address = Signal(lanes, init=1), Signal.like(self.destination)
        with m.If(self.start):
            m.d.sync += [lane.eq(1), address.eq(self.destination)]
        with m.Elif(valid & at_end):
            m.d.sync += [lane.eq(lane.rotate_left(1)), address.eq(address + lane[-1])]
        complete = valid & lane[-1]
        m.d.sync += [self.write.enable.eq(complete), self.write.slot.eq(slot), self.write.beat.eq(address),
                     self.write.data.eq(Mux(complete, beat, 0))]
