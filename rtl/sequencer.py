"""Issues the token program to the units and turns tokens into tokens."""

from enum import IntEnum

import numpy as np
from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.config import Config
from rtl.isa import COMMON, FIELDS, PROGRAM_BITS, UNIT_OF, Opcode, Unit
from rtl.op_layout import load_port, op_layout

TOKEN_RECORD = data.StructLayout({"token": 16, "position": 15, "cycles": 32})
OPCODE_BITS = dict(COMMON)["opcode"]
FIELD_BASE = sum(width for _, width in COMMON)
PIECE_BITS = 32
LAST_PIECE = (PROGRAM_BITS - 1) // PIECE_BITS
DISPATCHED = tuple(opcode for opcode in Opcode if opcode != Opcode.END)


class Fault(IntEnum):
    """Why a run ended early."""

    NONE = 0
    CONTEXT_FULL = 1
    BAD_OPCODE = 2


class Sequencer(wiring.Component):
    """Token loop and in-order issue.

    A run makes ``tokens`` passes over the program from ``position`` on. Each pass takes its token from ``prompt``
    while that has one, else the token sampled by the pass before, and puts the token it samples on ``records`` with the
    position of its input. ``stop`` ends the run with the current pass. A run that would pass the end of the
    context ends with ``CONTEXT_FULL`` and writes nothing beyond it.

    Latency: an operation issues at most every ``timing.ISSUE_CYCLES``; ``timing.TOKEN_CYCLES`` lie between the issue
    of END and that of the next pass's first operation.

    Parameters
    ----------
    config : the accelerator.
    program : uint32 [operations, 3] initial contents of the program memory.

    Members
    -------
    start, stop, tokens, position : the run, ``tokens`` and ``position`` sampled at ``start``.
    running, done, fault : state of the run; ``done`` pulses at its end.
    finished : pulses at the end of each pass.
    prompt : tokens that are given.
    records : sampled tokens, the position of the input they follow, and the cycles of the pass.
    ops : one stream per dispatched opcode, named like it; a unit that is not busy must be ready.
    busy : per unit, in the order of ``Unit``.
    token, now : current token and position, for the units.
    sampled : token of the sampler.
    begin : pulses when a run starts.
    issue_stall : an operation is waiting for its units.
    load : loader port of the program memory.
    """

    def __init__(self, *, config: Config, program: np.ndarray) -> None:
        if len(program) > config.program_depth:
            raise ValueError(f"program of {len(program)} operations exceeds program_depth {config.program_depth}")
        self._config = config
        self._words = [int(a) | int(b) << 32 | int(c) << 64 for a, b, c in program]
        super().__init__({
            "start": In(1), "stop": In(1), "tokens": In(16), "position": In(16),
            "running": Out(1), "done": Out(1), "finished": Out(1), "fault": Out(8), "begin": Out(1),
            "prompt": In(stream.Signature(16)),
            "records": Out(stream.Signature(TOKEN_RECORD)),
            "ops": Out(wiring.Signature({
                opcode.name.lower(): Out(stream.Signature(op_layout(opcode))) for opcode in DISPATCHED})),
            "busy": In(len(Unit)),
            "token": Out(16), "now": Out(16), "sampled": In(16),
            "issue_stall": Out(1),
            "load": In(load_port()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=PROGRAM_BITS, depth=self._config.program_depth, init=self._words, attrs={"ram_style": "block"})
        read = memory.read_port()
        self._load_program(m, memory)

        counter = Signal(range(self._config.program_depth))
        op = Signal(PROGRAM_BITS)
        chosen = Signal(1 << OPCODE_BITS)   # one bit per opcode: that of op, decoded on its way there
        waits = Signal(len(Unit))           # units that op waits for: those in its mask and its own
        # The bit of op's opcode, if these units were idle in the cycle before. They still are, so an offer needs no
        # answer: that of a distant unit would be the longest way of the chip.
        offer = Signal.like(chosen)
        cycles = Signal(32)
        remaining = Signal(16)
        stopping = Signal()
        arriving = Cat(read.data[:OPCODE_BITS] == opcode for opcode in range(len(chosen)))
        own = Cat(Cat(arriving[opcode] for opcode in DISPATCHED if UNIT_OF[opcode] == unit).any() for unit in Unit)
        take = [op.eq(read.data), chosen.eq(arriving), waits.eq(read.data[OPCODE_BITS:FIELD_BASE] | own)]
        clear = Signal()
        starting = Signal()                 # registered, for tokens and start come from far away
        accept = Signal()
        m.d.comb += [read.addr.eq(counter), clear.eq(~(waits & self.busy).any())]
        # The units lie far apart: their state gets a cycle for the way here. By the time of an offer the memory shows
        # the operation after the one in op.
        m.d.sync += [cycles.eq(cycles + 1), offer.eq(0), starting.eq(self.start & (self.tokens != 0))]
        with m.If(self.stop):
            m.d.sync += stopping.eq(1)
        with m.If(accept):
            m.d.sync += [*take, counter.eq(counter + 1)]

        self._issue(m, op, offer)
        m.d.comb += accept.eq(Cat(offer[opcode] for opcode in DISPATCHED).any() | self.finished)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += counter.eq(0)
                with m.If(starting):
                    m.d.comb += self.begin.eq(1)
                    m.d.sync += [self.now.eq(self.position), remaining.eq(self.tokens), self.fault.eq(Fault.NONE),
                                 stopping.eq(0)]
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.comb += [self.running.eq(1), self.prompt.ready.eq(self.now < self._config.context)]
                m.d.sync += [self.token.eq(Mux(self.prompt.valid, self.prompt.payload, self.sampled)), cycles.eq(2),
                             counter.eq(1)]
                m.next = "LOAD"
                with m.If(self.now >= self._config.context):
                    m.d.sync += self.fault.eq(Fault.CONTEXT_FULL)
                    m.next = "DONE"
            with m.State("LOAD"):
                m.d.comb += self.running.eq(1)
                m.d.sync += [*take, offer.eq(Mux(self.busy.any(), 0, arriving))]
                m.next = "ISSUE"
            with m.State("ISSUE"):
                m.d.comb += self.running.eq(1)
                m.d.sync += offer.eq(Mux(clear & ~accept, chosen, 0))
                m.d.comb += self.issue_stall.eq(~clear)
                with m.If(offer[Opcode.END]):
                    m.d.comb += [self.records.valid.eq(1),
                                 self.records.payload.token.eq(self.sampled),
                                 self.records.payload.position.eq(self.now),
                                 self.records.payload.cycles.eq(cycles)]
                    with m.If(self.records.ready):
                        m.d.comb += self.finished.eq(1)
                        m.d.sync += [remaining.eq(remaining - 1), self.now.eq(self.now + 1), counter.eq(0)]
                        m.next = "NEXT"
                        with m.If((remaining == 1) | stopping):
                            m.next = "DONE"
                with m.If(chosen[max(Opcode) + 1 :].any()):
                    m.d.sync += self.fault.eq(Fault.BAD_OPCODE)
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.d.sync += counter.eq(0)
                m.next = "IDLE"
        return m

    def _issue(self, m: Module, op: Signal, offer: Signal) -> None:
        """Hand the operation to its unit, which is idle and so takes it."""
        for candidate in DISPATCHED:
            port = getattr(self.ops, candidate.name.lower())
            width = sum(bits for _, bits in FIELDS[candidate])
            m.d.comb += [port.valid.eq(offer[candidate]),
                         port.payload.as_value().eq(op[FIELD_BASE : FIELD_BASE + width])]

    def _load_program(self, m: Module, memory: Memory) -> None:
        write = memory.write_port()
        low = Signal(PIECE_BITS * LAST_PIECE)
        piece = self.load.address[:2]
        m.d.comb += [write.addr.eq(self.load.address[2:]), write.data.eq(Cat(low, self.load.data)),
                     write.en.eq(self.load.enable & (piece == LAST_PIECE))]
        for index in range(LAST_PIECE):
            with m.If(self.load.enable & (piece == index)):
                m.d.sync += low.word_select(index, PIECE_BITS).eq(self.load.data)


assert all(unit.bit_count() <= 1 for unit in UNIT_OF.values())
