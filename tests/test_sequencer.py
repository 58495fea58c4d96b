"""The sequencer: issue order, wait masks, token loop, bounds."""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl.config import TINY
from rtl.isa import NO_SCALAR, UNIT_OF, Op, Opcode, Unit
from rtl.sequencer import Fault, Sequencer

SCALAR_FIELDS = {"fn": 0, "ra": NO_SCALAR, "rb": NO_SCALAR, "rd": 0, "mantissa": 1 << 15, "exponent": -15}
OPS = {
    Opcode.ROTARY: {}, Opcode.ATTEND: {"slot": 1, "rd": 3}, Opcode.SCALAR: SCALAR_FIELDS,
    Opcode.SAMPLE: {"src": 1, "count": 9, "ra": 4},
}
UNIT_INDEX = {Opcode.SCALAR: 2, Opcode.ATTEND: 3, Opcode.SAMPLE: 4, Opcode.ROTARY: 5}


def encode(program: list[Op]) -> np.ndarray:
    """Program words as the memory holds them."""
    return np.array([[op.encode() >> 32 * i & 0xFFFFFFFF for i in range(3)] for op in program], np.uint32)


def random_program(rng: random.Random, length: int) -> list[Op]:
    """Operations with random waits, ended by one that waits for all."""
    body = [Op(opcode, Unit(rng.randrange(64)), OPS[opcode]) for opcode in rng.choices(list(OPS), k=length)]
    return [*body, Op(Opcode.END, Unit(63))]


class Bench:
    """A sequencer with units that stay busy for random times and record what they were given."""

    def __init__(self, program: list[Op], rng: random.Random) -> None:
        self.program, self.rng = program, rng
        self.dut = Sequencer(config=TINY, program=encode(program))
        self.issued: list[tuple[int, Opcode]] = []
        self.violations: list[str] = []
        self.records: list[tuple[int, int]] = []
        self.cycle = 0

    async def units(self, ctx) -> None:
        """Take what is offered, hold ``busy``, and check each offer against its wait mask and its own unit."""
        left = [0] * 6
        ports = {opcode: getattr(self.dut.ops, opcode.name.lower()) for opcode in OPS}
        while True:
            busy = sum(1 << i for i, n in enumerate(left) if n)
            ctx.set(self.dut.busy, busy)
            await ctx.delay(0)
            accepted = [opcode for opcode, port in ports.items() if ctx.get(port.valid)]
            for opcode in accepted:
                op = self.program[len(self.issued) % (len(self.program) - 1)]
                if op.opcode != opcode or (op.wait | UNIT_OF[opcode]) & busy:
                    self.violations.append(f"cycle {self.cycle}: issued {opcode.name}, program has {op}, busy {busy:b}")
                self.issued.append((self.cycle, opcode))
            left = [max(0, n - 1) for n in left]
            for opcode in accepted:
                left[UNIT_INDEX[opcode]] = self.rng.randrange(1, 9)
            await ctx.tick()
            self.cycle += 1

    def run(self, prompt: list[int], passes: int, position: int = 0, stop_after: int | None = None) -> int:
        """Run and return the fault code."""
        result: list[int] = []

        async def control(ctx) -> None:
            dut = self.dut
            ctx.set(dut.tokens, passes)
            ctx.set(dut.position, position)
            ctx.set(dut.sampled, 77)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            waiting = list(prompt)
            for _ in range(20000):
                ctx.set(dut.prompt.valid, bool(waiting))
                ctx.set(dut.prompt.payload, waiting[0] if waiting else 0)
                ctx.set(dut.records.ready, self.rng.random() < 0.5)
                ctx.set(dut.stop, len(self.records) == stop_after)
                await ctx.delay(0)
                if waiting and ctx.get(dut.prompt.ready):
                    waiting.pop(0)
                if ctx.get(dut.records.valid) and ctx.get(dut.records.ready):
                    record = ctx.get(dut.records.payload)
                    self.records.append((record.token, record.position))
                if ctx.get(dut.done):
                    result.append(ctx.get(dut.fault))
                    return
                await ctx.tick()

        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self.units, background=True)
        simulator.add_testbench(control)
        simulator.run()
        assert result, "the run did not end within 20000 cycles"
        assert not self.violations, self.violations[0]
        return result[0]


@pytest.mark.parametrize("seed", range(20))
def test_issues_in_order_and_honours_wait_masks(seed: int) -> None:
    """An operation issued out of order, twice, or before its own unit and those in its mask are idle."""
    rng = random.Random(seed)
    program = random_program(rng, rng.randrange(1, 30))
    bench = Bench(program, rng)
    passes = rng.randrange(1, 4)
    assert bench.run([1], passes) == Fault.NONE
    assert len(bench.issued) == passes * (len(program) - 1)


def test_every_pass_leaves_a_record_with_the_position_of_its_input() -> None:
    """A pass over the prompt without its prediction, or positions off by one."""
    bench = Bench(random_program(random.Random(1), 5), random.Random(1))
    assert bench.run([5, 6, 7], passes=6) == Fault.NONE
    assert bench.records == [(77, position) for position in range(6)]


def test_stops_at_the_end_of_the_context() -> None:
    """A pass at a position the KV cache does not have."""
    bench = Bench(random_program(random.Random(2), 5), random.Random(2))
    assert bench.run([5], passes=9, position=TINY.context - 2) == Fault.CONTEXT_FULL
    assert [position for _, position in bench.records] == [TINY.context - 2, TINY.context - 1]


def test_stop_ends_the_run_with_the_current_pass() -> None:
    """A stop that is lost, or one that cuts a pass short."""
    program = random_program(random.Random(3), 5)
    bench = Bench(program, random.Random(3))
    assert bench.run([5], passes=50, stop_after=2) == Fault.NONE
    assert len(bench.records) == 3
    assert len(bench.issued) == 3 * (len(program) - 1)


def test_rejects_a_program_longer_than_its_memory() -> None:
    """Operations cut off silently."""
    program = [Op(Opcode.ROTARY)] * (TINY.program_depth + 1)
    with pytest.raises(ValueError, match="exceeds program_depth"):
        Sequencer(config=TINY, program=encode(program))
