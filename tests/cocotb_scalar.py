"""The scalar unit against `fixed`: operations, all table entries, and normalisation of all bit lengths."""

import random
from collections.abc import Callable
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from rtl import timing
from rtl.config import TINY
from rtl.isa import NO_SCALAR, TEMPERATURE_SCALAR, Op, Opcode, ScalarFn
from sim import fixed
from sim.fixed import HALF, ONE, Scalar
from tests.bench import StreamDriver, start

COMMON_BITS = 10
SEEDS = 20
TIMEOUT_CYCLES = 50
FUNCTIONS: dict[ScalarFn, Callable[[Scalar], Scalar]] = {
    ScalarFn.MUL: lambda a: a, ScalarFn.RECIPROCAL: fixed.reciprocal, ScalarFn.RSQRT: fixed.rsqrt,
    ScalarFn.BLOCK: fixed.block}


def word(scalar: Scalar) -> int:
    """A scalar as a register holds it."""
    return scalar.mantissa | (scalar.exponent & 511) << 16


def scalar_of(register_word: int) -> Scalar:
    """The scalar in a register."""
    exponent = register_word >> 16
    return Scalar(register_word & 0xFFFF, exponent - (exponent >> 8 << 9))


def random_scalar(rng: random.Random) -> Scalar:
    """Any mantissa, often an extreme one; an exponent that leaves room for products."""
    mantissa = rng.choice((rng.randrange(HALF, 2 * HALF), HALF, HALF + 1, 2 * HALF - 1))
    return Scalar(mantissa, rng.randrange(-60, 60))


class Unit:
    """Drives the device and mirrors its registers."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.registers = [ONE] * 32
        self.op = StreamDriver(dut, "op")
        self.results = [StreamDriver(dut, f"results__{index}") for index in range(3)]
        for port in ("read__0", "read__1"):
            getattr(dut, f"{port}__enable").value = 0
        self.set_temperature(ONE)

    def set_temperature(self, scalar: Scalar) -> None:
        self.dut.temperature.value = word(scalar)
        self.registers[TEMPERATURE_SCALAR] = scalar

    async def write(self, writer: int, register: int, value: int, exponent: int) -> None:
        """Leave a result, as another unit does."""
        await self.results[writer].send([register | value << 5 | (exponent & 511) << 41])
        normal = fixed.normalise(value)
        if register not in (NO_SCALAR, TEMPERATURE_SCALAR):
            self.registers[register] = Scalar(normal.mantissa, normal.exponent + exponent)

    async def read(self, reader: int, register: int) -> Scalar:
        """Read a register; the address is given in the cycle after this call's."""
        port = f"read__{reader}"
        getattr(self.dut, f"{port}__enable").value = 1
        getattr(self.dut, f"{port}__address").value = register
        await RisingEdge(self.dut.clk)
        getattr(self.dut, f"{port}__enable").value = 0
        await RisingEdge(self.dut.clk)
        return scalar_of(int(getattr(self.dut, f"{port}__data").value))

    async def run(self, op: Op) -> None:
        """Run an operation and compare its cycles; the model must be able to do it."""
        value = FUNCTIONS[op.fn](self.registers[op.ra])
        if op.rb != NO_SCALAR:
            value = fixed.multiply(value, self.registers[op.rb])
        value = fixed.multiply(value, Scalar(op.mantissa, op.exponent))
        await self.op.send([op.encode() >> COMMON_BITS])
        cycles = 0
        await RisingEdge(self.dut.clk)
        while self.dut.busy.value:
            cycles += 1
            assert cycles < TIMEOUT_CYCLES, f"{op} hangs"
            await RisingEdge(self.dut.clk)
        expected = timing.scalar_cycles(TINY, op)
        assert cycles == expected, f"{op}: {cycles} cycles, expected {expected}"
        self.registers[op.rd] = value


def operation(fn: ScalarFn, ra: int, rb: int, rd: int, immediate: Scalar = ONE) -> Op:
    return Op(Opcode.SCALAR, fields={
        "fn": fn, "ra": ra, "rb": rb, "rd": rd, "mantissa": immediate.mantissa, "exponent": immediate.exponent})


@cocotb.test()
async def operations(dut: Any) -> None:
    """Random operations on registers that hold results of others, with results of other units in between."""
    unit = Unit(dut)
    await start(dut)
    for seed in range(SEEDS):
        cocotb.log.info("seed %d", seed)
        rng = random.Random(seed)
        unit.set_temperature(random_scalar(rng))
        for _ in range(60):
            scalar, register = random_scalar(rng), rng.randrange(32)
            if rng.randrange(2):
                await unit.write(rng.randrange(3), register, scalar.mantissa, scalar.exponent)
            ra, rb, rd = rng.randrange(32), rng.choice((rng.randrange(32), NO_SCALAR)), rng.randrange(30)
            op = operation(rng.choice(tuple(ScalarFn)), ra, rb, rd, random_scalar(rng))
            exponent = max(abs(unit.registers[r].exponent) for r in (ra, rb))
            if exponent > 120:
                continue
            await unit.run(op)
            got = await unit.read(rng.randrange(2), rd)
            assert got == unit.registers[rd], f"seed {seed}, {op}: got {got}, expected {unit.registers[rd]}"
        for register, expected in enumerate(unit.registers):
            got = await unit.read(register % 2, register)
            assert got == expected, f"seed {seed}, S({register}): got {got}, expected {expected}"


@cocotb.test()
async def exhaustive_tables(dut: Any) -> None:
    """Both ends of every table entry, for even and odd exponents."""
    unit = Unit(dut)
    await start(dut)
    for fn in (ScalarFn.RECIPROCAL, ScalarFn.RSQRT):
        for exponent in (-15, -14):
            for index in range(fixed.TABLE_ENTRIES):
                for offset in (0, 1, 127):
                    await unit.write(1, 3, HALF + 128 * index + offset, exponent)
                    await unit.run(operation(fn, 3, NO_SCALAR, 4))
                    got, expected = await unit.read(0, 4), unit.registers[4]
                    assert got == expected, f"{fn.name} entry {index}, offset {offset}: got {got}, expected {expected}"


@cocotb.test()
async def normalise(dut: Any) -> None:
    """Values of every bit length, zero, and all three writers at once: the first goes first, none is lost."""
    unit = Unit(dut)
    await start(dut)
    rng = random.Random(0)
    values = [0, *(1 << bits for bits in range(36)), *((2 << bits) - 1 for bits in range(36))]
    for value in [*values, *(rng.getrandbits(rng.randrange(1, 37)) for _ in range(300))]:
        await unit.write(rng.randrange(3), 5, value, rng.randrange(-100, 100))
        await RisingEdge(dut.clk)
        got = await unit.read(0, 5)
        assert got == unit.registers[5], f"value {value:#x}: got {got}, expected {unit.registers[5]}"
    for _ in range(50):
        writes = [cocotb.start_soon(unit.write(index, 6 + index, rng.getrandbits(36), 0)) for index in range(3)]
        for index, write in enumerate(writes):
            await write
            await RisingEdge(dut.clk)
            got = await unit.read(1, 6 + index)
            assert got == unit.registers[6 + index], f"writer {index}: got {got}, expected {unit.registers[6 + index]}"
