"""The register bus of the CPU, and its way into another clock domain."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from rtl.csr_map import ENGINE_ADDRESS_BITS

REQUEST = data.StructLayout({"address": ENGINE_ADDRESS_BITS, "write": 1, "data": 32})


class RegisterBus(wiring.Signature):
    """One access at a time: a request, then one response, for writes too.

    Members
    -------
    request : Out stream of word address, write flag and data.
    response : In stream of 32 bits; meaningless after a write.
    """

    def __init__(self) -> None:
        super().__init__({"request": Out(stream.Signature(REQUEST)), "response": In(stream.Signature(32))})


class Handshake(wiring.Component):
    """Carries words from one clock domain to another, one at a time.

    A toggle crosses in each direction; the word itself is held still meanwhile, so it needs no synchroniser.

    Latency: 3 to 4 clocks of ``o_domain`` to arrive, then up to 3 of ``i_domain`` until the next word is taken.

    Parameters
    ----------
    shape : of the words.
    i_domain, o_domain : names of the two clock domains.

    Members
    -------
    i : In stream in ``i_domain``.
    o : Out stream in ``o_domain``.
    """

    def __init__(self, shape: data.StructLayout | int, *, i_domain: str, o_domain: str) -> None:
        self.shape = shape
        self.i_domain = i_domain
        self.o_domain = o_domain
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sent, sent_seen = Signal(), Signal()
        taken, taken_seen = Signal(), Signal()
        m.submodules.to_o = FFSynchronizer(sent, sent_seen, o_domain=self.o_domain)
        m.submodules.to_i = FFSynchronizer(taken, taken_seen, o_domain=self.i_domain)

        held = Signal.like(self.i.payload)
        m.d.comb += self.i.ready.eq(sent == taken_seen)
        with m.If(self.i.valid & self.i.ready):
            m.d[self.i_domain] += [held.eq(self.i.payload), sent.eq(~sent)]

        m.d.comb += [self.o.valid.eq(sent_seen != taken), self.o.payload.eq(held)]
        with m.If(self.o.valid & self.o.ready):
            m.d[self.o_domain] += taken.eq(~taken)
        return m


class RegisterBusCrossing(wiring.Component):
    """Register bus from the `cpu` domain into the `sync` domain.

    Members
    -------
    i : In register bus, `cpu` domain.
    o : Out register bus, `sync` domain.
    """

    i: In(RegisterBus())
    o: Out(RegisterBus())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.request = request = Handshake(REQUEST, i_domain="cpu", o_domain="sync")
        m.submodules.response = response = Handshake(32, i_domain="sync", o_domain="cpu")
        wiring.connect(m, wiring.flipped(self.i.request), request.i)
        wiring.connect(m, request.o, wiring.flipped(self.o.request))
        wiring.connect(m, wiring.flipped(self.o.response), response.i)
        wiring.connect(m, response.o, wiring.flipped(self.i.response))
        return m
