"""The sequencer: issue order, wait masks, token loop, slots, drafts, bounds."""

import random
from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl.config import STREAM, TINY
from rtl.isa import NO_SCALAR, UNIT_OF, Op, Opcode, Unit
from rtl.sequencer import Sequencer
from rtl.token_loop import Fault
from sim.token_loop import TokenLoop

SCALAR_FIELDS = {"fn": 0, "ra": NO_SCALAR, "rb": NO_SCALAR, "rd": 0, "mantissa": 1 << 15, "exponent": -15}
MATVEC_FIELDS = {"src": 0, "blocks": 1, "fill": 1, "groups": 1, "planes": 1, "dst": 5, "shift": 0, "rd": 6,
                 "address": 0, "unfilled": 0}
OPS = {
    Opcode.ROTARY: {}, Opcode.ATTEND: {"slot": 1, "rd": 3, "reach": 7}, Opcode.SCALAR: SCALAR_FIELDS,
    Opcode.SAMPLE: {"src": 1, "count": 9, "ra": 4}, Opcode.MATVEC: MATVEC_FIELDS,
}
UNIT_INDEX = {Opcode.MATVEC: 0, Opcode.SCALAR: 2, Opcode.ATTEND: 3, Opcode.SAMPLE: 4, Opcode.ROTARY: 5}
LETTERS = 3                # tokens that sampler and drafter choose from, so that they often agree


def encode(program: list[Op]) -> np.ndarray:
    """Program words as the memory holds them."""
    return np.array([[op.encode() >> 32 * i & 0xFFFFFFFF for i in range(3)] for op in program], np.uint32)


def random_program(rng: random.Random, length: int) -> list[Op]:
    """Operations with random waits, a SECTION among them, ended by a sample and an END that waits for all."""
    body = [Op(opcode, Unit(rng.randrange(64)), OPS.get(opcode, {"reads": 0}))
            for opcode in rng.choices([*OPS, Opcode.SECTION], k=length)]
    body = [op for op in body if op.opcode != Opcode.SAMPLE]
    body.insert(rng.randrange(len(body) + 1), Op(Opcode.SECTION, Unit(rng.randrange(64)), {"reads": 1}))
    return [*body, Op(Opcode.SAMPLE, Unit(0), OPS[Opcode.SAMPLE]), Op(Opcode.END, Unit(63))]


class LetterGuesser:
    """A drafter whose guesses depend on all it was taught."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Know nothing."""
        self.taught = self.ahead = 0

    def push(self, token: int) -> None:
        """Another token of the text."""
        self.taught = self.ahead = (5 * self.taught + token + 1) % 97

    def draft(self) -> int | None:
        """A letter, or none."""
        self.ahead = (self.ahead * 7 + 3) % 89
        guess = self.ahead % (LETTERS + 1)
        return guess if guess < LETTERS else None


class Bench:
    """A sequencer with units that stay busy for random times and record what they were given.

    Parameters
    ----------
    program : what it runs.
    rng : of everything random.
    slots : of a pass.
    speculate : let a `LetterGuesser` propose drafts.
    """

    def __init__(self, program: list[Op], rng: random.Random, *, slots: int = 1, speculate: bool = False) -> None:
        self.program, self.rng = program, rng
        self.config = TINY if slots == 1 else replace(STREAM, slots=slots)
        self.dut = Sequencer(config=self.config, program=encode(program))
        self.drafter = LetterGuesser() if speculate else None
        self.issued: list[tuple[Opcode, int, int, int]] = []      # opcode, slot, token, position
        self.violations: list[str] = []
        self.records: list[tuple[int, int]] = []
        self.cycles = 0
        self.letters = random.Random(rng.random())

    async def units(self, ctx) -> None:
        """Take what is offered, hold ``busy``, and check each offer against its wait mask and its own unit."""
        left = [0] * 6
        ports = {opcode: getattr(self.dut.ops, opcode.name.lower()) for opcode in OPS}
        sample = 0
        while True:
            busy = sum(1 << i for i, n in enumerate(left) if n)
            ctx.set(self.dut.busy, busy)
            await ctx.delay(0)
            accepted = [opcode for opcode, port in ports.items() if ctx.get(port.valid)]
            for opcode in accepted:
                payload = ctx.get(ports[opcode].payload)
                self._take(opcode, payload, busy, ctx.get(self.dut.token), ctx.get(self.dut.now))
                if opcode == Opcode.SAMPLE:
                    sample = self.letters.randrange(LETTERS)
                    self.samples.append(sample)
            left = [max(0, n - 1) for n in left]
            for opcode in accepted:
                left[UNIT_INDEX[opcode]] = self.rng.randrange(1, 9)
            await ctx.tick()
            ctx.set(self.dut.sampled, sample if left[UNIT_INDEX[Opcode.SAMPLE]] <= 1 else 99)

    def _take(self, opcode: Opcode, payload, busy: int, token: int, position: int) -> None:
        """Compare an offer with the order that passes have."""
        if not self.expected:
            self.violations.append(f"{opcode.name} was issued after the end of the pass")
            return
        index, op, slot = self.expected.pop(0)
        given = self.current.tokens[slot], self.current.position + slot
        if op.opcode != opcode or (op.wait | UNIT_OF[opcode]) & busy:
            self.violations.append(f"issued {opcode.name}, program has {index}: {op}, busy {busy:b}")
        elif opcode != Opcode.MATVEC and (token, position) != given:
            self.violations.append(f"operation {index} slot {slot}: {token} at {position}, not {given}")
        elif opcode in (Opcode.ATTEND, Opcode.SCALAR) and payload.rd != op.rd + 32 * slot:
            self.violations.append(f"operation {index} slot {slot}: register {payload.rd}")
        self.issued.append((opcode, slot, token, position))

    def run(self, prompt: list[int], tokens: int, position: int = 0, stop_after: int | None = None) -> int:
        """Run, checking every pass and every record against `sim.token_loop`; return the fault code."""
        result: list[int] = []
        loop = TokenLoop(slots=self.config.slots, context=self.config.context, prompt=prompt, tokens=tokens,
                         position=position, drafter=LetterGuesser() if self.drafter else None)

        def begin() -> None:
            self.current = loop.begin()
            # What a pass issues, apart from END and SECTION, which no unit sees.
            self.expected = [] if self.current is None else [
                (index, op, slot) for index, op, slot in self.current.operations(self.program)
                if op.opcode in OPS and (op.opcode != Opcode.SAMPLE or self.current.samples(slot))]
            self.samples: list[int] = []

        async def control(ctx) -> None:
            dut = self.dut
            ctx.set(dut.tokens, tokens)
            ctx.set(dut.position, position)
            ctx.set(dut.drafts.enable, self.drafter is not None)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            waiting, pause, guess, text = list(prompt), 0, None, 0
            due: list = []
            fresh = 1
            begin()
            for _ in range(40000):
                ctx.set(dut.prompt.valid, bool(waiting) and not pause)
                ctx.set(dut.prompt.payload, waiting[0] if waiting else 0)
                ctx.set(dut.records.ready, self.rng.random() < 0.5)
                ctx.set(dut.stop, len(self.records) == stop_after)
                text = max(0, text - 1)
                ctx.set(dut.drafts.text.ready, not text)
                if guess is None and not text and self.drafter:
                    guess = [self.drafter.draft()]
                ctx.set(dut.drafts.guesses.valid, guess is not None and not text)
                if guess is not None:
                    ctx.set(dut.drafts.guesses.payload, {"token": guess[0] or 0, "known": guess[0] is not None})
                await ctx.delay(0)
                pause = max(0, pause - 1)
                if ctx.get(dut.prompt.valid) and ctx.get(dut.prompt.ready):
                    waiting.pop(0)
                    pause = 1
                if ctx.get(dut.drafts.text.valid) and ctx.get(dut.drafts.text.ready):
                    assert self.drafter, "the text goes to a drafter that is off"
                    pushed = ctx.get(dut.drafts.text.payload)
                    assert pushed.first == fresh
                    fresh, guess, text = 0, None, self.rng.randrange(1, 9)
                    self.drafter.push(pushed.token)
                elif ctx.get(dut.drafts.guesses.valid) and ctx.get(dut.drafts.guesses.ready):
                    guess, text = None, self.rng.randrange(1, 5)
                if ctx.get(dut.records.valid) and ctx.get(dut.records.ready):
                    if not due:
                        assert not self.expected, f"the pass ended before {self.expected[0]}"
                        sampled = [0] * (len(self.current.tokens) - len(self.samples)) + self.samples
                        due = loop.end(self.current, sampled)
                        assert ctx.get(dut.rewind) in (0, len(due) == 1 and len(self.current.tokens) > 1)
                        length = len(self.current.tokens)
                    record = ctx.get(dut.records.payload)
                    want = due.pop(0)
                    assert (record.token, record.position) == (want.token, want.position)
                    assert (record.cycles > 0) == (not due)
                    if not due:
                        counted = want.position + 1 - self.current.position
                        assert ctx.get(dut.rewind) == (counted < length)
                        assert counted == length or ctx.get(dut.rewind_slot) == counted
                    self.cycles += record.cycles
                    self.records.append((record.token, record.position))
                    if not due:
                        begin()
                if ctx.get(dut.done):
                    result.append(ctx.get(dut.fault))
                    return
                await ctx.tick()

        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self.units, background=True)
        simulator.add_testbench(control)
        simulator.run()
        assert result, "the run did not end within 40000 cycles"
        assert not self.violations, self.violations[0]
        return result[0]


@pytest.mark.parametrize("seed", range(20))
def test_issues_in_order_and_honours_wait_masks(seed: int) -> None:
    """An operation issued out of order, twice, or before its own unit and those in its mask are idle."""
    rng = random.Random(seed)
    bench = Bench(random_program(rng, rng.randrange(1, 30)), rng)
    assert bench.run([1], rng.randrange(1, 4)) == Fault.NONE


@pytest.mark.parametrize("seed", range(24))
def test_slots_share_passes_as_the_token_loop_says(seed: int) -> None:
    """A slot left out or done twice, another's token or registers, a sample too many, a draft judged wrongly."""
    rng = random.Random(seed)
    slots = rng.randrange(2, 9)
    bench = Bench(random_program(rng, rng.randrange(1, 12)), rng, slots=slots, speculate=bool(seed % 3))
    prompt = [rng.randrange(LETTERS) for _ in range(rng.randrange(1, 3 * slots))]
    tokens = len(prompt) + rng.randrange(0, 12)
    assert bench.run(prompt, tokens) == Fault.NONE
    assert len(bench.records) == tokens


def test_every_pass_leaves_a_record_with_the_position_of_its_input() -> None:
    """A pass over the prompt without its prediction, or positions off by one."""
    bench = Bench(random_program(random.Random(1), 5), random.Random(1))
    assert bench.run([5, 6, 7], 6) == Fault.NONE
    assert [position for _, position in bench.records] == list(range(6))


@pytest.mark.parametrize("slots", [1, 4])
def test_stops_at_the_end_of_the_context(slots: int) -> None:
    """A pass at a position the KV cache does not have."""
    bench = Bench(random_program(random.Random(2), 5), random.Random(2), slots=slots, speculate=slots > 1)
    context = bench.config.context
    assert bench.run([1], 9, position=context - 2) == Fault.CONTEXT_FULL
    assert [position for _, position in bench.records] == [context - 2, context - 1]


def test_stop_ends_the_run_with_the_current_pass() -> None:
    """A stop that is lost, or one that cuts a pass short."""
    bench = Bench(random_program(random.Random(3), 5), random.Random(3))
    assert bench.run([1], 50, stop_after=2) == Fault.NONE
    assert len(bench.records) == 3


def test_rejects_a_program_longer_than_its_memory() -> None:
    """Operations cut off silently."""
    program = [Op(Opcode.ROTARY)] * (TINY.program_depth + 1)
    with pytest.raises(ValueError, match="exceeds program_depth"):
        Sequencer(config=TINY, program=encode(program))
