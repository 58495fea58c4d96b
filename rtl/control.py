"""Control registers: what the CPU sees of the engine."""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, C, Cat, Module, Mux, ResetInserter, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.csr_map import CONTROL_VERSION, COUNTERS, ENGINE_ADDRESS, ENGINE_CSRS, FLAG_STREAM, IDENTITY
from rtl.queue import Queue
from rtl.register_bus import REQUEST, RegisterBus

TOKEN = data.StructLayout({"token": 16, "position": 15, "cycles": 32})
LOAD = data.StructLayout({"data": 32, "address": 28, "space": 4})
TEMPERATURE = data.StructLayout({"mantissa": 16, "exponent": signed(9), "enable": 1})

RUN = wiring.Signature({
    "start": Out(1), "stop": Out(1), "soft_reset": Out(1), "tokens": Out(16), "position": Out(16),
    "prompt_passes": Out(16), "speculation": Out(2), "running": In(1), "fault": In(8),
})
HOST_READ = wiring.Signature({"request": Out(stream.Signature(28)), "response": In(stream.Signature(32))})
Registers = dict[str, Value]
COUNTER_PORTS = wiring.Signature({name: Out(32) for name in COUNTERS})


class RegisterAccess(wiring.Component):
    """One access of the register bus at a time, given up after ``timeout_cycles``.

    Latency: ``active`` rises 2 clocks after the request is taken; the response is offered 1 clock after ``done``.

    Parameters
    ----------
    timeout_cycles : longest time that ``active`` waits for ``done``.

    Members
    -------
    bus : In register bus.
    active : Out, the access is going on; address, write flag and data are steady from the clock before on.
    access : Out the request.
    done : In, the access ends with this clock.
    read_data : In, taken in the clock of ``done``.
    timeout : Out, high in the clock in which an access is given up.
    """

    def __init__(self, *, timeout_cycles: int) -> None:
        if timeout_cycles < 1:
            raise ValueError(f"timeout_cycles must be at least 1, got {timeout_cycles}")
        self.timeout_cycles = timeout_cycles
        super().__init__({"bus": In(RegisterBus()), "active": Out(1), "access": Out(REQUEST), "done": In(1),
                          "read_data": In(32), "timeout": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        waited = Signal(range(self.timeout_cycles))
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.bus.request.ready.eq(1)
                m.d.sync += [self.access.eq(self.bus.request.payload), waited.eq(0)]
                with m.If(self.bus.request.valid):
                    m.next = "Decode"
            with m.State("Decode"):
                m.next = "Active"
            with m.State("Active"):
                m.d.comb += [
                    self.active.eq(1), self.timeout.eq((waited == self.timeout_cycles - 1) & ~self.done),
                ]
                m.d.sync += [waited.eq(waited + 1), self.bus.response.payload.eq(Mux(self.done, self.read_data, 0))]
                with m.If(self.done | self.timeout):
                    m.next = "Respond"
            with m.State("Respond"):
                m.d.comb += self.bus.response.valid.eq(1)
                with m.If(self.bus.response.ready):
                    m.next = "Idle"
        return m


class Control(wiring.Component):
    """Registers of ``rtl/csr_map.py`` behind a register bus.

    An access that waits for another block (PROMPT, LOAD_DATA, READ_DATA) is given up after ``timeout_cycles``: it then
    counts as done, reads zero, and sets the timeout flag of STATUS, which the reset bit of CONTROL clears. So a stuck
    block never takes the CPU with it.

    Latency: a response is offered 3 clocks after its request is taken, and later for accesses that wait.

    Parameters
    ----------
    geometry : fingerprint of the configuration.
    has_stream : whether weights stream from SDRAM.
    clock_hz : engine clock.
    context, vocab : positions and tokens; both queues hold ``context`` items.
    slots : tokens that share a pass.
    stream_base, stream_words, prompt_words : of the image in SDRAM; values after reset.
    timeout_cycles : longest wait of one access.

    Members
    -------
    bus : In register bus.
    run : Out start, stop, soft_reset (pulses), tokens, position, prompt_passes, speculation; In running, fault.
    prompt : Out stream of prompt tokens.
    tokens : In stream of sampled tokens, their positions and clocks.
    load : Out stream of words for the memories of the engine.
    host_read : Out request stream of SDRAM word addresses, In response stream of words.
    temperature, seed, stream_base, stream_words, prompt_words : Out settings.
    counters : In, one 32-bit value per name in ``COUNTERS``.

    Raises
    ------
    ValueError: a parameter does not fit its register.
    """

    def __init__(self, *, geometry: int, has_stream: bool, clock_hz: int, context: int, vocab: int,
                 slots: int = 1, stream_base: int = 0, stream_words: int = 0, prompt_words: int = 0,
                 timeout_cycles: int = 65536) -> None:
        words = {"geometry": geometry, "clock_hz": clock_hz, "stream_base": stream_base, "stream_words": stream_words,
                 "prompt_words": prompt_words}
        for name, value in words.items():
            if not 0 <= value < 1 << 32:
                raise ValueError(f"{name} must fit 32 bits, got {value}")
        for name, value in {"context": context, "vocab": vocab, "slots": slots}.items():
            if not 0 < value < 1 << 15:
                raise ValueError(f"{name} must be in 1..{(1 << 15) - 1}, got {value}")
        self.context = context
        self.timeout_cycles = timeout_cycles
        self._constants = {"ID": IDENTITY, "VERSION": CONTROL_VERSION, "GEOMETRY": geometry,
                           "FLAGS": FLAG_STREAM * has_stream, "CLOCK_HZ": clock_hz, "CONTEXT": context, "VOCAB": vocab,
                           "SLOTS": slots}
        self._initial = {"STREAM_BASE": stream_base, "STREAM_WORDS": stream_words, "PROMPT_WORDS": prompt_words}
        super().__init__({
            "bus": In(RegisterBus()), "run": Out(RUN),
            "prompt": Out(stream.Signature(16)), "tokens": In(stream.Signature(TOKEN)),
            "load": Out(stream.Signature(LOAD)), "host_read": Out(HOST_READ),
            "temperature": Out(TEMPERATURE), "seed": Out(32), "stream_base": Out(32), "stream_words": Out(32),
            "prompt_words": Out(32), "counters": In(COUNTER_PORTS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.access = access = RegisterAccess(timeout_cycles=self.timeout_cycles)
        wiring.connect(m, wiring.flipped(self.bus), access.bus)
        request = access.access
        # Which register is meant is a register stage of its own: the decoder and the read multiplexer stay short paths.
        is_at = {name: Signal(name=f"is_{name.lower()}") for name in ENGINE_ADDRESS}
        m.d.sync += [is_it.eq(request.address == ENGINE_ADDRESS[name]) for name, is_it in is_at.items()]
        read = {name: Signal(name=f"read_{name.lower()}") for name in ENGINE_ADDRESS}
        write = {name: Signal(name=f"write_{name.lower()}") for name in ENGINE_ADDRESS}
        for name in ENGINE_ADDRESS:
            m.d.comb += [read[name].eq(access.active & is_at[name] & ~request.write),
                         write[name].eq(access.active & is_at[name] & request.write)]

        stored = {csr.name: Signal(32, name=csr.name.lower(), init=self._initial.get(csr.name, 0))
                  for csr in ENGINE_CSRS if csr.access == "rw"}
        for name, value in stored.items():
            with m.If(write[name]):
                m.d.sync += value.eq(request.data)
        values = self._constants | stored | {"STATUS": self._follow_run(m, write, request.data, access.timeout)}
        queue_values, queue_waits = self._connect_queues(m, read, write, request.data)
        memory_values, memory_waits = self._connect_memories(m, read, write, request.data, stored["LOAD_ADDRESS"])
        values |= queue_values | memory_values
        m.d.comb += access.done.eq(~(queue_waits | memory_waits))

        counter = Signal(32)
        m.d.sync += counter.eq(Array(getattr(self.counters, name) for name in COUNTERS)[stored["COUNTER_SELECT"][:4]])
        values["COUNTER_VALUE"] = counter
        # One register is selected at most, so the multiplexer needs no priorities.
        m.d.comb += access.read_data.eq(reduce(or_, (Mux(is_at[name], value, 0) for name, value in values.items())))

        m.d.comb += [
            self.run.tokens.eq(stored["RUN_TOKENS"]), self.run.position.eq(stored["RUN_POSITION"]),
            self.run.prompt_passes.eq(stored["PROMPT_PASSES"]), self.run.speculation.eq(stored["SPECULATION"]),
            self.temperature.mantissa.eq(stored["TEMPERATURE"][:16]),
            self.temperature.exponent.eq(stored["TEMPERATURE"][16:25]),
            self.temperature.enable.eq(stored["TEMPERATURE"][31]),
            self.seed.eq(stored["SEED"]),
            self.stream_base.eq(stored["STREAM_BASE"]), self.stream_words.eq(stored["STREAM_WORDS"]),
            self.prompt_words.eq(stored["PROMPT_WORDS"]),
        ]
        return m

    def _follow_run(self, m: Module, write: Registers, written: Value, timeout: Value) -> Value:
        """Pulses to the core; returns the STATUS register."""
        pulses = (self.run.start, self.run.stop, self.run.soft_reset)
        m.d.sync += [pulse.eq(write["CONTROL"] & written[bit]) for bit, pulse in enumerate(pulses)]
        was_running, done, timed_out = Signal(), Signal(), Signal()
        m.d.sync += was_running.eq(self.run.running)
        with m.If(self.run.start):
            m.d.sync += done.eq(0)
        with m.Elif(was_running & ~self.run.running):
            m.d.sync += done.eq(1)
        with m.If(timeout):
            m.d.sync += timed_out.eq(1)
        with m.Elif(self.run.soft_reset):
            m.d.sync += timed_out.eq(0)
        return Cat(self.run.running, done, timed_out, C(0, 5), self.run.fault)

    def _connect_queues(self, m: Module, read: Registers, write: Registers, written: Value) -> tuple[Registers, Value]:
        """Prompt and token queue; returns their registers, and when an access must wait."""
        clear = ResetInserter(self.run.soft_reset)
        m.submodules.prompt_queue = prompts = clear(Queue(16, depth=self.context))
        m.submodules.token_queue = tokens = clear(Queue(TOKEN, depth=self.context))
        wiring.connect(m, prompts.o, wiring.flipped(self.prompt))
        wiring.connect(m, wiring.flipped(self.tokens), tokens.i)
        m.d.comb += [prompts.i.payload.eq(written), prompts.i.valid.eq(write["PROMPT"]),
                     tokens.o.ready.eq(read["TOKEN"])]
        token, token_cycles = tokens.o.payload, Signal(32)
        with m.If(read["TOKEN"] & tokens.o.valid):
            m.d.sync += token_cycles.eq(token.cycles)
        values = {"TOKEN": Cat(token.token, token.position, tokens.o.valid), "TOKEN_CYCLES": token_cycles}
        return values, write["PROMPT"] & ~prompts.i.ready

    def _connect_memories(self, m: Module, read: Registers, write: Registers, written: Value,
                          address: Signal) -> tuple[Registers, Value]:
        """Load and read-back ports; returns the register, and when an access must wait."""
        asked = Signal()
        loaded, answered = Signal(), Signal()
        m.d.comb += [
            self.load.payload.data.eq(written), Cat(self.load.payload.address, self.load.payload.space).eq(address),
            self.load.valid.eq(write["LOAD_DATA"]), loaded.eq(self.load.valid & self.load.ready),
            self.host_read.request.payload.eq(address), self.host_read.request.valid.eq(read["READ_DATA"] & ~asked),
            self.host_read.response.ready.eq(1), answered.eq(asked & self.host_read.response.valid),
        ]
        with m.If(~read["READ_DATA"] | answered):
            m.d.sync += asked.eq(0)
        with m.Elif(self.host_read.request.valid & self.host_read.request.ready):
            m.d.sync += asked.eq(1)
        with m.If(loaded | answered):
            m.d.sync += address.eq(address + 1)
        waits = (write["LOAD_DATA"] & ~loaded) | (read["READ_DATA"] & ~answered)
        return {"READ_DATA": self.host_read.response.payload}, waits
