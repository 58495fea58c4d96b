"""Random chains of vector and scalar operations, run back to back, then all state compared with the golden model."""

import random
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from rtl import timing
from rtl.config import Config
from rtl.isa import Op, Opcode, Target
from sim import fixed
from tests.bench import StreamDriver, parameters, start
from tests.test_vector import CONFIGS
from tests.vector_chain import Chain, Model

ENGINE_REGISTERS, ATTENTION_REGISTERS = (20, 21), (22, 23)
PORT = {Opcode.VECTOR: "vector_op", Opcode.EMBED: "embed_op", Opcode.SCALAR: "scalar_op"}
CYCLES = {Opcode.VECTOR: timing.vector_cycles, Opcode.EMBED: timing.embed_cycles, Opcode.SCALAR: timing.scalar_cycles}
COMMON_BITS = 10
TIMEOUT_CYCLES = 3000


def pack(values: Any, bits: int) -> int:
    """Integers side by side, first lowest."""
    return sum((int(value) & (1 << bits) - 1) << bits * i for i, value in enumerate(values))


def unpack(word: int, bits: int, count: int) -> np.ndarray:
    """Signed integers from a word."""
    fields = [word >> bits * i & (1 << bits) - 1 for i in range(count)]
    return np.array([field - (field >> bits - 1 << bits) for field in fields])


def scalar_word(scalar: fixed.Scalar) -> int:
    """A scalar as a register holds it."""
    return scalar.mantissa | (scalar.exponent & 511) << 16


class Machine:
    """The device under test: starts operations, records what leaves it, reads and writes its state."""

    def __init__(self, dut: Any, model: Model, config: Config) -> None:
        self.dut, self.model, self.config = dut, model, config
        self.cycle = 0
        self.written: dict[tuple[str, int], np.ndarray] = {}
        for port in (*PORT.values(), "engine", "attention"):
            getattr(dut, f"{port}__valid").value = 0
        for port in ("rows", "beats", "bank", "look", "scalar"):
            getattr(dut, f"{port}__enable").value = 0

    async def watch(self) -> None:
        """Count cycles, answer reads of the embedding, record writes to the targets and results of other units."""
        dut, lanes = self.dut, self.config.lanes
        rows = self.model.codes.reshape(-1, lanes)
        code_bits = self.config.embed_bits
        while True:
            await RisingEdge(dut.clk)
            self.cycle += 1
            if dut.embedding__enable.value:
                dut.embedding__data.value = pack(rows[int(dut.embedding__address.value)], code_bits)
            if dut.far__enable.value:
                beat = self.model.vector[self.config.attention_beat + int(dut.far__address.value)]
                dut.far__data.value = pack(beat, 18)
            for port in ("engine", "attention"):
                if getattr(dut, f"{port}__valid").value and getattr(dut, f"{port}__ready").value:
                    word = int(getattr(dut, f"{port}__payload").value)
                    normal, exponent = fixed.normalise(word >> 5 & (1 << 36) - 1), int(unpack(word >> 41, 9, 1)[0])
                    if word & 31 not in self.model.constants:
                        self.model.scalars[word & 31] = fixed.Scalar(normal.mantissa, normal.exponent + exponent)
            for port in ("activation", "query"):
                if getattr(dut, f"{port}__enable").value:
                    values = unpack(int(getattr(dut, f"{port}__data").value), 8, lanes)
                    self.written[port, int(getattr(dut, f"{port}__address").value)] = values
            if dut.query__enable.value:
                self.written["query_exponent", 0] = np.array([int(dut.query__exponent.value)])
            if dut.cache__enable.value:
                values = unpack(int(dut.cache__data.value), 8, lanes)
                where = int(dut.cache__value.value), int(dut.cache__slot.value)
                self.written["cache", 2 * where[1] + where[0]] = np.array([*values, int(dut.cache__exponent.value)])

    async def load(self) -> None:
        """Write the model's state: vector memory half by rows and half by beats, scalars through a result stream."""
        dut, c = self.dut, self.config
        for beat, values in enumerate(self.model.vector[: c.vector_depth]):
            if beat >= c.engine_beats:
                dut.bank__enable.value, dut.bank__address.value = 1, beat - c.engine_beats
                dut.bank__data.value = pack(values, 18)
                await RisingEdge(dut.clk)
                dut.bank__enable.value, dut.bank__data.value = 0, 0
            elif beat % 2:
                dut.beats__enable.value, dut.beats__address.value = 1, beat
                dut.beats__data.value = pack(values, 18)
                await RisingEdge(dut.clk)
                dut.beats__enable.value, dut.beats__data.value = 0, 0
            else:
                for lane in range(0, c.lanes, c.part):
                    # Also what lies before and after the part: other parts of it are written over later.
                    dut.rows__enable.value, dut.rows__address.value = 1, beat
                    dut.rows__part.value = 1 << lane // c.part
                    around = np.concatenate([values, self.model.vector[(beat + 1) % c.engine_beats]])
                    dut.rows__data.value = pack(around[lane:][: c.rows], 18)
                    await RisingEdge(dut.clk)
                dut.rows__enable.value, dut.rows__data.value = 0, 0
        cosine, sine = self.model.factors
        dut.rotary.value = pack([v for pair in zip(cosine, sine, strict=True) for v in pair], 16)
        dut.token.value = self.model.token
        dut.history.value = int(self.model.position > 0)
        dut.temperature.value = scalar_word(self.model.temperature)
        engine = StreamDriver(dut, "engine")
        for register in range(30):
            scalar = self.model.random_scalar()
            await engine.send([result_word(register, scalar.mantissa, scalar.exponent)])
        await RisingEdge(dut.clk)

    async def run(self, ops: list[Op], *, exact: bool) -> None:
        """Start operations back to back and check how long each takes."""
        starts = []
        for op in ops:
            name = PORT[op.opcode]
            getattr(self.dut, f"{name}__payload").value = op.encode() >> COMMON_BITS
            getattr(self.dut, f"{name}__valid").value = 1
            await self._until(lambda name=name: getattr(self.dut, f"{name}__ready").value, op)
            starts.append(self.cycle)
            getattr(self.dut, f"{name}__valid").value = 0
        await RisingEdge(self.dut.clk)
        await self._until(lambda: not int(self.dut.busy.value), ops[-1])
        starts.append(self.cycle)
        for op, begin, end in zip(ops, starts, starts[1:], strict=False):
            took, expected = end - begin - 1, CYCLES[op.opcode](self.config, op)
            assert took == expected or (not exact and took > expected), f"{op}: {took} cycles, expected {expected}"

    async def _until(self, condition: Any, op: Op) -> None:
        for _ in range(TIMEOUT_CYCLES):
            await RisingEdge(self.dut.clk)
            if condition():
                return
        raise AssertionError(f"{op} hangs")

    async def _read(self, port: str, address: int, cycles: int) -> int:
        """What a port shows some cycles after it was given an address."""
        getattr(self.dut, f"{port}__enable").value = 1
        getattr(self.dut, f"{port}__address").value = address
        await RisingEdge(self.dut.clk)
        getattr(self.dut, f"{port}__enable").value = 0
        for _ in range(cycles):
            await RisingEdge(self.dut.clk)
        return int(getattr(self.dut, f"{port}__data").value)

    async def compare(self, ops: list[Op]) -> None:
        """All state the model has against what the device has or wrote."""
        context = "\n".join(map(str, ops))
        model = self.model
        for beat, expected in enumerate(model.vector[: self.config.vector_depth]):
            values = unpack(await self._read("look", beat, 2), 18, len(expected))
            check(f"vector memory beat {beat}", values, expected, context)
        for register in range(30):
            word = await self._read("scalar", register, 1)
            check(f"S({register})", np.array([word]), np.array([scalar_word(model.scalars[register])]), context)
        state = {"activation": model.activation, "query": model.query, "query_exponent": [model.query_exponent]}
        for (port, address), values in self.written.items():
            if port == "cache":
                slot, target = address >> 1, (Target.KEY, Target.VALUE)[address & 1]
                expected = np.array([*model.cache[target][slot, model.position],
                                     model.cache_exponents[target][slot, model.position]])
            else:
                expected = np.atleast_1d(state[port][address])
            check(f"{port} {address}", values, expected, context)
        targets = {op.target for op in ops if op.opcode == Opcode.VECTOR}
        for target, port in ((Target.ACTIVATION, "activation"), (Target.QUERY, "query"), (Target.KEY, "cache")):
            written = any(name == port for name, _ in self.written)
            assert written or target not in targets, f"no write to {port} after\n{context}"


def check(what: str, actual: np.ndarray, expected: np.ndarray, context: str) -> None:
    """Compare exactly; name the first difference."""
    for index, (left, right) in enumerate(zip(actual, expected, strict=True)):
        assert left == right, f"{what}[{index}]: got {left}, expected {right}, after\n{context}"


def result_word(register: int, value: int, exponent: int) -> int:
    """A RESULT as one integer."""
    return register | value << 5 | (exponent & 511) << 41


async def disturb(dut: Any, port: str, registers: tuple[int, int], pattern: str, rng: random.Random) -> None:
    """Results of another unit, in registers that operations leave alone."""
    driver = StreamDriver(dut, port, pattern=pattern, seed=rng.getrandbits(32))
    while True:
        value, exponent = rng.getrandbits(rng.randrange(37)), rng.randrange(-50, 50)
        await driver.send([result_word(rng.choice(registers), value, exponent)])


@cocotb.test()
async def random_chains(dut: Any) -> None:
    """Functions, targets, register hazards between neighbours, and cycle counts."""
    settings = parameters()
    config, pattern = CONFIGS[settings["config"]], settings["pattern"]
    for seed in range(settings["seeds"]):
        cocotb.log.info("seed %d", seed)
        rng = random.Random(seed)
        model = Model(config, rng)
        machine = Machine(dut, model, config)
        if seed == 0:
            await start(dut)
        watcher = cocotb.start_soon(machine.watch())
        await machine.load()
        chain = Chain(model, rng).operations()
        for _ in range(settings["chains"]):
            others = []
            if pattern != "none":
                others = [cocotb.start_soon(disturb(dut, port, registers, pattern, rng)) for port, registers in
                          (("engine", ENGINE_REGISTERS), ("attention", ATTENTION_REGISTERS))]
            ops = [op for _ in range(rng.randrange(1, 5)) for op in next(chain)]
            await machine.run(ops, exact=pattern == "none")
            for other in others:
                other.cancel()
            dut.engine__valid.value = dut.attention__valid.value = 0
            await RisingEdge(dut.clk)
            await RisingEdge(dut.clk)
            await machine.compare(ops)
        watcher.cancel()
