"""Attention with its cache against the golden model, one operation after another."""

from dataclasses import replace
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge, RisingEdge

from rtl.config import CONFIGS, Config
from rtl.isa import Op, Opcode
from rtl.timing import attention_cycles
from sim.golden import attend
from tests.bench import STALL_PATTERNS, StreamMonitor, parameters, start

TIMEOUT_CYCLES = 4000
STYLES = ("random", "extreme", "flat", "sparse")


def pack(values: np.ndarray, bits: int) -> int:
    """Little-endian fields of signed values."""
    return sum((int(value) & (1 << bits) - 1) << bits * index for index, value in enumerate(values))


def unpack(word: int, bits: int, count: int) -> list[int]:
    """Signed fields of a word."""
    fields = [word >> bits * index & (1 << bits) - 1 for index in range(count)]
    return [field - (field >> bits - 1 << bits) for field in fields]


class History:
    """Keys and values of one slot, and the queries that meet them."""

    def __init__(self, rng: np.random.Generator, config: Config, style: str, positions: int) -> None:
        shape = (positions, config.word_lanes)
        self.query = rng.integers(-127, 128, (config.query_groups, config.word_lanes))
        self.keys, self.values = rng.integers(-127, 128, (2, *shape))
        self.query_exponent = int(rng.integers(0, 8))
        self.key_exponents = rng.integers(0, 6, positions)
        self.value_exponents = rng.integers(0, 12, positions)
        match style:
            case "extreme":
                self.query = np.full_like(self.query, 127)
                self.keys, self.values = rng.choice([-128, 127], (2, *shape))
                self.keys[rng.integers(positions)] = 127
                self.query_exponent = int(rng.choice([0, 7, 11, 15]))
                self.key_exponents = rng.choice([0, 3, 11, 15], positions)
                self.value_exponents = rng.choice([0, 15], positions)
            case "flat":
                self.keys = np.zeros_like(self.keys)
                self.values = np.full_like(self.values, int(rng.choice([-128, 127])))
                self.value_exponents = np.full_like(self.value_exponents, 11)
            case "sparse":
                self.keys[rng.random(shape) < 0.9] = 0
                self.query_exponent = 3

    def expected(self, config: Config, reach: int) -> tuple[np.ndarray, list[Any]]:
        """Beats and scalars of the golden model over the last position and ``reach`` before it."""
        seen = slice(-reach - 1, None)
        return attend(self.query, self.query_exponent, self.keys[seen], self.key_exponents[seen], self.values[seen],
                      self.value_exponents[seen], config)


class Bench:
    """The device."""

    def __init__(self, dut: Any, config: Config) -> None:
        self.dut, self.config = dut, config
        for port in ("op__valid", "query__enable", "write__enable", "read__enable", "result__ready"):
            getattr(dut, port).value = 0
        dut.position.value = 0

    async def read(self) -> list[list[int]]:
        """All beats that the unit holds, read from the cycle on in which it is idle."""
        dut, c, beats = self.dut, self.config, []
        dut.read__enable.value = 1
        count = c.query_groups * c.word_beats
        for index in range(count + 1):
            dut.read__address.value = index % count
            if index:
                await FallingEdge(dut.clk)
                beats.append(unpack(int(dut.read__data.value), 18, c.lanes))
            await RisingEdge(dut.clk)
        dut.read__enable.value = 0
        return beats

    async def fill(self, history: History, slot: int) -> None:
        """Write the cache and the queries."""
        dut = self.dut
        dut.write__slot.value = slot
        dut.write__enable.value = 1
        halves = ((0, history.keys, history.key_exponents), (1, history.values, history.value_exponents))
        for value, data, exponents in halves:
            dut.write__value.value = value
            for position in range(len(data)):
                dut.position.value = position
                dut.write__exponent.value = int(exponents[position])
                beats = data[position].reshape(self.config.word_beats, -1)
                for beat, elements in enumerate(beats):
                    dut.write__data.value = pack(elements, 8)
                    dut.write__last.value = beat == len(beats) - 1
                    await RisingEdge(dut.clk)
        dut.write__enable.value = 0
        dut.query__exponent.value = history.query_exponent
        dut.query__enable.value = 1
        for beat, data in enumerate(history.query.reshape(-1, self.config.lanes)):
            dut.query__address.value = beat
            dut.query__data.value = pack(data, 8)
            await RisingEdge(dut.clk)
        dut.query__enable.value = 0

    async def attend(self, op: Op, pattern: str, pattern_seed: int) -> tuple[int, list[int]]:
        """Run one operation: busy cycles and results."""
        dut = self.dut
        results = StreamMonitor(dut, "result", pattern=pattern, seed=pattern_seed)
        dut.op__payload.value = op.slot | op.rd << 8 | op.reach << 13
        dut.op__valid.value = 1
        await RisingEdge(dut.clk)
        assert dut.op__ready.value, "an idle unit must take an operation"
        dut.op__valid.value = 0
        receive = cocotb.start_soon(results.receive(self.config.heads_parallel, timeout_cycles=TIMEOUT_CYCLES))
        cycles = 0
        while True:
            await FallingEdge(dut.clk)
            assert dut.op__ready.value == (not dut.busy.value), "ready must mean idle"
            if not dut.busy.value:
                break
            cycles += 1
            assert cycles < TIMEOUT_CYCLES, "busy did not fall"
        assert receive.done(), "busy fell before the last result"
        await RisingEdge(dut.clk)
        return cycles, receive.result()


@cocotb.test()
async def matches_golden(dut: Any) -> None:
    """Every beat, sum and cycle count equals the golden model's, whatever a case before left behind."""
    given = parameters()
    config = replace(CONFIGS[given["config"]], **given["replace"])
    bench = Bench(dut, config)
    await start(dut)
    for seed in range(given["seeds"]):
        await check_seed(bench, config, seed)


async def check_seed(bench: Bench, config: Config, seed: int) -> None:
    """Operations of all styles, under all stall patterns, from one seed."""
    rng = np.random.default_rng(seed)
    for case in range(12):
        style, pattern = STYLES[case % 4], STALL_PATTERNS[case // 4]
        last = int(rng.choice([0, 1, rng.integers(config.context), config.context - 1]))
        last = {0: 0, 1: config.context - 1}.get(case, last)
        slot = int(rng.integers(config.kv_slots))
        rd = int(rng.integers(31 - config.heads_parallel))
        reach = int(rng.choice([0, 1, rng.integers(config.context), last, config.context - 1]))
        op = Op(Opcode.ATTEND, fields={"slot": slot, "rd": rd, "reach": reach})
        where = f"seed {seed} case {case} {style} position {last} reach {reach} stalls {pattern}"
        history = History(rng, config, style, last + 1)
        out, sums = history.expected(config, reach)
        beats = out.reshape(-1, config.lanes)
        await bench.fill(history, slot)
        cycles, results = await bench.attend(op, pattern, case)

        for index, beat in enumerate(await bench.read()):
            for lane, value in enumerate(beat):
                expected = int(beats[index, lane])
                assert value == expected, f"{where}: beat {index} lane {lane} is {value}, expected {expected}"
        for head, (word, scalar) in enumerate(zip(results, sums, strict=True)):
            register, value, exponent = word & 31, word >> 5 & (1 << 36) - 1, unpack(word >> 41, 9, 1)[0]
            assert register == rd + head, f"{where}: head {head} goes to register {register}, expected {rd + head}"
            value_exponent = value.bit_length() - 16
            mantissa = value >> value_exponent if value_exponent >= 0 else value << -value_exponent
            actual = (mantissa, value_exponent + exponent)
            expected = (scalar.mantissa, scalar.exponent)
            assert actual == expected, f"{where}: head {head} sum is {actual}, expected {expected}"
        predicted = attention_cycles(config, op, last)
        assert cycles == predicted if pattern == "none" else cycles >= predicted, (
            f"{where}: busy for {cycles} cycles, predicted {predicted}")
        bench.dut._log.info("%s: %d cycles", where, cycles)
