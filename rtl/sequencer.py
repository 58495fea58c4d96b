"""Issues the token program to the units, for every slot of a pass."""

import numpy as np
from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from rtl.config import Config
from rtl.isa import COMMON, FIELDS, JOINT, PROGRAM_BITS, Opcode, Unit
from rtl.op_layout import load_port, op_layout
from rtl.token_loop import DRAFT_PORT, TOKEN_RECORD, TokenLoop
from rtl.wide_load import wide_write

OPCODE_BITS = dict(COMMON)["opcode"]
FIELD_BASE = sum(width for _, width in COMMON)
DISPATCHED = tuple(opcode for opcode in Opcode if opcode not in (Opcode.END, Opcode.SECTION))


class Sequencer(wiring.Component):
    """Runs the program for the tokens of each pass, and issues in order.

    Where a pass has several slots, the operations between two of `JOINT` are done for one slot after the other, each
    with the places of its slot; those of `JOINT` are done once, for all.

    Latency: an operation issues at most every ``timing.ISSUE_CYCLES``; ``timing.token_cycles`` lie between the issue
    of END and that of the next pass's first operation. Going back to the first operation of a
    section for the next slot takes ``timing.SLOT_CYCLES``.

    Parameters
    ----------
    config : the accelerator.
    program : uint32 [operations, 3] initial contents of the program memory.

    Members
    -------
    start, stop, tokens, position, running, done, fault, begin, finished, prompt, records : the run, see `TokenLoop`.
    ops : one stream per dispatched opcode, named like it; a unit that is not busy must be ready.
    busy : per unit, in the order of ``Unit``.
    token, now : token and position of the slot at work, for the units.
    active : slots in use.
    sampled, rewind, rewind_slot, drafts : of sampler and drafter, see `TokenLoop`.
    issue_stall : an operation is waiting for its units.
    load : loader port of the program memory.
    """

    def __init__(self, *, config: Config, program: np.ndarray) -> None:
        if len(program) > config.program_depth:
            raise ValueError(f"program of {len(program)} operations exceeds program_depth {config.program_depth}")
        self._config = config
        self._words = [int(a) | int(b) << 32 | int(c) << 64 for a, b, c in program]
        layouts = {opcode.name.lower(): op_layout(opcode, config.slot_bits) for opcode in DISPATCHED}
        super().__init__({
            "start": In(1), "stop": In(1), "tokens": In(16), "position": In(16),
            "running": Out(1), "done": Out(1), "finished": Out(1), "fault": Out(8), "begin": Out(1),
            "prompt": In(stream.Signature(16)),
            "records": Out(stream.Signature(TOKEN_RECORD)),
            "ops": Out(wiring.Signature({name: Out(stream.Signature(layout)) for name, layout in layouts.items()})),
            "busy": In(len(Unit)),
            "token": Out(16), "now": Out(16), "active": Out(range(config.slots + 1)),
            "sampled": In(16), "rewind": Out(1), "rewind_slot": Out(range(config.slots)), "drafts": Out(DRAFT_PORT),
            "issue_stall": Out(1),
            "load": In(load_port()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slots = self._config.slots
        m.submodules.memory = memory = Memory(
            shape=PROGRAM_BITS, depth=self._config.program_depth, init=self._words, attrs={"ram_style": "block"})
        read = memory.read_port()
        self._load_program(m, memory)
        m.submodules.loop = loop = TokenLoop(config=self._config)
        self._connect(m, loop)

        counter = Signal(range(self._config.program_depth))
        op = Signal(PROGRAM_BITS, reset_less=True)  # decoded here: the memory's word comes too late in a cycle
        opcode, waits = op[:OPCODE_BITS], op[OPCODE_BITS:FIELD_BASE]
        chosen = Cat(opcode == candidate for candidate in Opcode)
        joint = Cat(chosen[candidate] for candidate in JOINT).any()      # op serves all slots
        # The bit of op's opcode, if these units were idle in the cycle before. They still are, so an offer needs no
        # answer: that of a distant unit would be the longest way of the chip.
        offer = Signal(len(Opcode))
        silent = Signal()                   # in place of an offer to the sampler, for a slot whose next token is known
        clear, accept = Signal(), Signal()
        # First operation after the last that served all slots; whether op is that operation; slot at work.
        section, opening, slot = Signal.like(counter), Signal(), Signal(range(slots))
        again = (slots > 1) & joint & ~opening & (slot != loop.active - 1)
        m.d.comb += [
            read.addr.eq(counter), clear.eq(~(waits & self.busy).any()), loop.slot.eq(slot),
            loop.sampling.eq(offer[Opcode.SAMPLE]),
            accept.eq(Cat(silent, (offer[opcode] for opcode in Opcode if opcode != Opcode.END)).any()),
        ]
        # The units lie far apart: their state gets a cycle for the way here. By the time of an offer the memory shows
        # the operation after the one in op.
        m.d.sync += [offer.eq(0), silent.eq(0)]
        with m.If(accept):
            m.d.sync += [op.eq(read.data), counter.eq(counter + 1), opening.eq(joint)]
            with m.If(joint):
                m.d.sync += [section.eq(counter), slot.eq(0)]
        self._issue(m, op, offer, slot)

        with m.FSM():
            with m.State("IDLE"):
                # op holds the first operation before a pass starts, so that LOAD can offer it.
                m.d.sync += [op.eq(read.data), counter.eq(0), section.eq(0), slot.eq(0), opening.eq(1)]
                with m.If(loop.go):
                    m.d.sync += counter.eq(1)
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += op.eq(read.data)
                if slots == 1:
                    m.d.sync += offer.eq(Mux(self.busy.any(), 0, chosen))
                m.next = "ISSUE"
            with m.State("ISSUE"):
                ready = clear & ~accept & ~again
                muted = chosen[Opcode.SAMPLE] & ~loop.samples
                m.d.sync += [offer.eq(Mux(ready & ~muted, chosen, 0)), silent.eq(ready & muted)]
                m.d.comb += self.issue_stall.eq(~clear)
                with m.If(again & ~accept):
                    m.d.sync += [counter.eq(section), slot.eq(slot + 1)]
                    m.next = "BACK"
                with m.If(offer[Opcode.END] | (offer[Opcode.SECTION] & op[FIELD_BASE] & loop.reads)):
                    m.d.comb += loop.ended.eq(1)
                    m.next = "IDLE"
                with m.If(opcode > max(Opcode)):
                    m.d.comb += loop.abort.eq(1)
                    m.next = "IDLE"
            with m.State("BACK"):
                m.d.sync += [counter.eq(counter + 1), opening.eq(1)]
                m.next = "LOAD"
        return m

    def _connect(self, m: Module, loop: TokenLoop) -> None:
        """Everything of the run that is not the program."""
        connect(m, flipped(self.prompt), loop.prompt)
        connect(m, loop.records, flipped(self.records))
        connect(m, loop.drafts, flipped(self.drafts))
        m.d.comb += [getattr(loop, name).eq(getattr(self, name))
                     for name in ("start", "stop", "tokens", "position", "sampled")]
        m.d.comb += [getattr(self, name).eq(getattr(loop, name)) for name in (
            "running", "done", "finished", "fault", "begin", "token", "now", "active", "rewind", "rewind_slot")]

    def _issue(self, m: Module, op: Signal, offer: Signal, slot: Signal) -> None:
        """Hand the operation to its unit, which is idle and so takes it."""
        for candidate in DISPATCHED:
            port = getattr(self.ops, candidate.name.lower())
            m.d.comb += port.valid.eq(offer[candidate])
            at = FIELD_BASE
            for name, width in FIELDS[candidate]:
                m.d.comb += getattr(port.payload, name).eq(
                    Cat(op[at : at + width], slot) if len(getattr(port.payload, name)) > width
                    else op[at : at + width])
                at += width

    def _load_program(self, m: Module, memory: Memory) -> None:
        write = memory.write_port()
        enable, address, word = wide_write(m, self.load, PROGRAM_BITS)
        m.d.comb += [write.en.eq(enable), write.addr.eq(address), write.data.eq(word)]
