"""Hardware counters: cycles and events of a run."""

from collections.abc import Sequence

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

COUNTER_BITS = 32


class EventCounters(wiring.Component):
    """One 32-bit counter per event; each counts the clocks in which its event is high.

    Latency: a count follows its event by two clocks, so that counters may lie far from what they watch.

    Parameters
    ----------
    names : of the events; each becomes a member.

    Members
    -------
    clear : sets all counters to zero.
    events : one bit per name, in order.
    values : one 32-bit value per name.
    """

    def __init__(self, *, names: Sequence[str]) -> None:
        self._names = tuple(names)
        super().__init__({
            "clear": In(1), "events": In(len(self._names)),
            "values": Out(wiring.Signature({name: Out(COUNTER_BITS) for name in self._names}))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        seen, clear = Signal(len(self._names)), Signal()
        m.d.sync += [seen.eq(self.events), clear.eq(self.clear)]
        for index, name in enumerate(self._names):
            value = getattr(self.values, name)
            m.d.sync += value.eq(Mux(clear, 0, value + seen[index]))
        return m


class RunDifference(wiring.Component):
    """What a free-running counter counted in the current or last run.

    Latency: one clock.

    Members
    -------
    start : a run starts.
    running : it goes on; ``o`` stands still afterwards.
    i : the counter.
    o : its advance since ``start``.
    """

    start: In(1)
    running: In(1)
    i: In(COUNTER_BITS)
    o: Out(COUNTER_BITS)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first = Signal(COUNTER_BITS)
        with m.If(self.start):
            m.d.sync += first.eq(self.i)
        with m.If(self.running):
            m.d.sync += self.o.eq(self.i - first)
        return m
