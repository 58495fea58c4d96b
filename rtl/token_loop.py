"""The token loop of a run: which tokens a pass takes, and which of its samples become tokens."""

from enum import IntEnum

from amaranth import Array, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.config import Config
from rtl.op_layout import DRAFT, NEXT_TOKEN

TOKEN_BITS = 16
TOKEN_RECORD = data.StructLayout({"token": TOKEN_BITS, "position": 15, "cycles": 32})
DRAFT_PORT = wiring.Signature({
    "enable": In(1), "text": Out(stream.Signature(NEXT_TOKEN)), "guesses": In(stream.Signature(DRAFT))})


class Fault(IntEnum):
    """Why a run ended early."""

    NONE = 0
    CONTEXT_FULL = 1
    BAD_OPCODE = 2


class TokenLoop(wiring.Component):
    """Gathers the tokens of a pass, has the program run, and judges what was sampled, as `sim.token_loop` does.

    A run takes ``tokens`` inputs from ``position`` on. A pass fills its slots with tokens of ``prompt`` while that has
    some, else the first with the latest sample; with ``drafts`` enabled, others with drafts. A draft counts if it is
    what was sampled in the slot before it; the slots behind the first that does not are as if they had never been.
    Each input that counts leaves a record of the token that follows it. ``stop`` ends the run with the current pass. A
    run that would pass the end of the context ends with ``CONTEXT_FULL`` and writes nothing beyond it.

    Latency: a pass of one slot starts in the cycle after the record before it, and leaves its record in the second
    cycle after ``ended``; `timing.token_cycles` for several slots.

    Parameters
    ----------
    config : the accelerator.

    Members
    -------
    start, stop, tokens, position : the run, ``tokens`` and ``position`` sampled at ``start``.
    running, done, fault : state of the run; ``done`` pulses at its end.
    begin : pulses when a run starts.
    finished : pulses with each record.
    prompt : tokens that are given.
    records : tokens, the position of the input they follow, and with the last record of a pass its cycles.
    go : pulses when a pass starts.
    ended : the pass is over.
    abort : the pass met an operation that does not exist.
    slot : the slot at work.
    samples : it has a use for the sampler.
    token, now : its token and position, a cycle later.
    active : slots in use; constant during a pass.
    reads : more of the prompt follows the pass, which has several slots; valid three cycles after ``go``.
    sampling : the sampler takes an operation for ``slot``.
    sampled : the sampler's token.
    rewind, rewind_slot : pulses when samples from this slot on were for nothing.
    drafts : of the drafter: ``text`` as it becomes known, and ``guesses`` at what follows it and the guesses before;
        used if enabled.
    """

    def __init__(self, *, config: Config) -> None:
        self._config = config
        slot = range(config.slots)
        super().__init__({
            "start": In(1), "stop": In(1), "tokens": In(16), "position": In(16),
            "running": Out(1), "done": Out(1), "fault": Out(8), "begin": Out(1), "finished": Out(1),
            "prompt": In(stream.Signature(TOKEN_BITS)), "records": Out(stream.Signature(TOKEN_RECORD)),
            "go": Out(1), "ended": In(1), "abort": In(1),
            "slot": In(slot), "token": Out(TOKEN_BITS), "now": Out(16), "samples": Out(1),
            "active": Out(range(config.slots + 1)), "reads": Out(1),
            "sampling": In(1), "sampled": In(TOKEN_BITS), "rewind": Out(1), "rewind_slot": Out(slot),
            "drafts": Out(DRAFT_PORT)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slots, context = self._config.slots, self._config.context
        # Of the pass's first input; inputs of the run that are left.
        position, remaining = (Signal(16, name=name, reset_less=True) for name in ("position", "remaining"))
        count, known = Signal.like(self.active), Signal.like(self.active)   # tokens gathered, and those no drafts
        place = Signal(range(slots))                    # slot that is judged
        tokens = Array(Signal(TOKEN_BITS, name=f"token_{slot}", reset_less=True) for slot in range(slots))
        cycles, latest = Signal(32, reset_less=True), Signal(TOKEN_BITS)
        starting, stopping = Signal(), Signal()         # registered, for tokens and start come from far away
        m.d.sync += [
            cycles.eq(cycles + 1), starting.eq(self.start & (self.tokens != 0)),
            self.token.eq(tokens[self.slot]), self.now.eq(position + self.slot),
            self.reads.eq((slots > 1) & self.prompt.valid & (known == slots) & (remaining != slots)
                          & (position + slots != context)),
        ]
        with m.If(self.stop):
            m.d.sync += stopping.eq(1)
        m.d.comb += self.samples.eq(self.slot + 1 >= known)
        follows, sampled, final = self._judge(m, place, tokens, count, known)
        # Whether there is a further input, decided a cycle ahead because a pass begins with it. Where GATHER follows a
        # new position at once there are inputs left, so that it depends on the context alone.
        room, first_room, next_room = (Signal(name=name) for name in ("room", "first_room", "next_room"))
        m.d.sync += [room.eq((count != remaining) & (position + count != context)),
                     first_room.eq(self.position != context), next_room.eq(position + place + 1 != context)]
        drafts, text = self.drafts, self.drafts.text
        fresh = Signal()                                # the drafter has seen nothing of the run
        with m.If(self.begin):
            m.d.sync += fresh.eq(1)
        with m.Elif(text.valid & text.ready):
            m.d.sync += fresh.eq(0)
        m.d.comb += text.payload.first.eq(fresh)

        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(starting):
                    m.d.comb += self.begin.eq(1)
                    m.d.sync += [position.eq(self.position), remaining.eq(self.tokens), room.eq(first_room),
                                 cycles.eq(1), stopping.eq(0), self.fault.eq(Fault.NONE)]
                    m.next = "GATHER"
            self._gather(m, room, tokens, count, known, latest)
            with m.State("RUN"):
                with m.If(self.ended):
                    m.next = "JUDGE"
                with m.If(self.abort):
                    m.d.sync += self.fault.eq(Fault.BAD_OPCODE)
                    m.next = "DONE"
            with m.State("JUDGE"):
                m.next = "RECORD"
            with m.State("RECORD"):
                new = drafts.enable & sampled           # the drafter does not know it yet
                m.d.comb += [self.records.valid.eq(text.ready | ~new), self.records.payload.token.eq(follows),
                             self.records.payload.position.eq(position + place),
                             self.records.payload.cycles.eq(Mux(final, cycles, 0)), text.payload.token.eq(follows)]
                with m.If(self.records.valid & self.records.ready):
                    m.d.comb += [self.finished.eq(1), text.valid.eq(new)]
                    m.d.sync += place.eq(place + 1)
                    m.next = "JUDGE"
                    with m.If(final):
                        m.d.comb += self.rewind.eq(count != place + 1)
                        m.d.sync += [position.eq(position + place + 1), remaining.eq(remaining - place - 1),
                                     room.eq(next_room), latest.eq(follows), place.eq(0), count.eq(0), cycles.eq(1)]
                        m.next = "GATHER"
                        with m.If((remaining == place + 1) | stopping):
                            m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.d.sync += count.eq(0)
                m.next = "IDLE"
        m.d.comb += [self.running.eq(~(fsm.ongoing("IDLE") | fsm.ongoing("DONE"))), self.active.eq(count),
                     self.rewind_slot.eq(place + 1)]
        return m

    def _gather(self, m: Module, room: Value, tokens: Array, count: Signal, known: Signal, latest: Signal) -> None:
        """The states that fill the slots of a pass: with the prompt or the latest sample, then with drafts."""
        drafts, text, guesses = self.drafts, self.drafts.text, self.drafts.guesses

        def fill(token: Value, then: str) -> None:
            """The next slot is filled; the last one begins the pass."""
            m.d.sync += [tokens[count].eq(token), count.eq(count + 1)]
            m.next = then
            with m.If(count == len(tokens) - 1):
                m.d.comb += self.go.eq(1)
                m.next = "RUN"

        with m.State("GATHER"):
            with m.If((count == 0) & ~room):
                m.d.sync += self.fault.eq(Fault.CONTEXT_FULL)
                m.next = "DONE"
            with m.Elif(self.prompt.valid & room & (count <= known)):      # a pass with drafts takes no more of it
                m.d.comb += [text.valid.eq(drafts.enable), text.payload.token.eq(self.prompt.payload)]
                with m.If(text.ready | ~drafts.enable):
                    m.d.comb += self.prompt.ready.eq(1)
                    m.d.sync += known.eq(count + 1)
                    fill(self.prompt.payload, "LOOK")
            with m.Elif(count == 0):
                m.d.sync += known.eq(1)
                fill(latest, "SETTLE")
            with m.Elif(room & drafts.enable):
                with m.If(guesses.valid):
                    m.d.comb += guesses.ready.eq(1)
                    with m.If(guesses.payload.known):
                        fill(guesses.payload.token, "SETTLE")
                    with m.Else():
                        m.d.comb += self.go.eq(1)
                        m.next = "RUN"
            with m.Else():
                m.d.comb += self.go.eq(1)
                m.next = "RUN"
        with m.State("LOOK"):                           # the prompt queue needs two cycles to show its next token
            m.next = "SETTLE"
        with m.State("SETTLE"):
            m.next = "GATHER"

    def _judge(self, m: Module, place: Signal, tokens: Array, count: Signal, known: Signal
               ) -> tuple[Signal, Signal, Signal]:
        """What follows the input of a slot, whether it is a sample, and whether no further slot counts.

        A cycle after ``place``.
        """
        samples = Array(Signal(TOKEN_BITS, name=f"sample_{slot}", reset_less=True) for slot in range(len(tokens)))
        working = Signal.like(place)                    # slot that the sampler works for
        with m.If(self.sampling):
            m.d.sync += working.eq(self.slot)
        m.d.sync += samples[working].eq(self.sampled)
        follows, sampled, final = Signal(TOKEN_BITS, reset_less=True), Signal(), Signal()
        next_token = tokens[place + 1] if len(tokens) > 1 else tokens[0]
        next_known = place + 1 < known
        with m.If(next_known):
            m.d.sync += follows.eq(next_token)
        with m.Elif(self.reads):
            m.d.sync += follows.eq(self.prompt.payload)
        with m.Else():
            m.d.sync += follows.eq(samples[place])
        m.d.sync += [sampled.eq(~next_known & ~self.reads),
                     final.eq((place + 1 == count) | (~next_known & (samples[place] != next_token)))]
        return follows, sampled, final
