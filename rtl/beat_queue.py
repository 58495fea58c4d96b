"""A queue of beats on their way from the engine with slots to vector memory."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from rtl.op_layout import elements, write_port

DEPTH = 16


class BeatQueue(wiring.Component):
    """Keeps beats while the vector unit writes vector memory, which has one write port for both.

    The engine delivers a beat of each slot in a row, then none for as many clocks as it has lanes times blocks. The
    vector unit never writes that long without a pause, so the queue has room for every beat.

    Latency: two cycles from a beat to its write, if nothing is in the way.

    Parameters
    ----------
    lanes : elements of a beat.
    address_bits : of its address.

    Members
    -------
    i : beats.
    hold : somebody else writes in this cycle.
    o : writes; data are zero while it is not enabled.
    busy : a beat is here.
    """

    def __init__(self, *, lanes: int, address_bits: int) -> None:
        port = write_port(elements(lanes), address_bits)
        super().__init__({"i": In(port), "hold": In(1), "o": Out(port), "busy": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entry = data.StructLayout({"address": self.i.address.shape(), "data": self.i.data.shape()})
        m.submodules.beats = beats = SyncFIFO(width=entry.size, depth=DEPTH)
        held, full = Signal(entry, reset_less=True), Signal()
        take = beats.r_rdy & (~full | ~self.hold)
        m.d.comb += [
            beats.w_en.eq(self.i.enable), beats.w_data.eq(Cat(self.i.address, self.i.data)), beats.r_en.eq(take),
            self.o.enable.eq(full & ~self.hold), self.o.address.eq(held.address),
            self.o.data.eq(Mux(self.o.enable, held.data, 0)), self.busy.eq(beats.r_rdy | full),
        ]
        m.d.sync += full.eq(take | full & self.hold)
        with m.If(take):
            m.d.sync += held.eq(beats.r_data)
        return m
