"""cocotb side of test_slot_engine: random operations on every slot of an engine."""

from collections.abc import Iterator
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from host.packing import to_base3
from rtl.config import ELEMENT_BITS, Config, sum_shift
from rtl.isa import Op, Opcode
from rtl.timing import engine_cycles
from sim.golden import matvec
from tests.bench import STALL_PATTERNS, StreamDriver, check_equal, parameters, stalls, start
from tests.cocotb_engine import op_bits, pack

OPERATIONS = 8


def random_ops(config: Config, chance: np.random.Generator) -> Iterator[Op]:
    """Operations that fit the configuration; half of them with so few tiles per row that slots would collide."""
    for index in range(OPERATIONS):
        few = chance.random() < 0.5
        blocks = int(chance.integers(1, min(3, config.table_blocks) + 1 if few else config.table_blocks + 1))
        planes = int(chance.choice([1, config.weight_planes, chance.integers(1, config.weight_planes + 1)]))
        beats = int(chance.integers(1, max(2, min(6, 800 // (config.lanes * blocks * planes)))))
        yield Op(Opcode.MATVEC, fields={
            "src": int(chance.integers(0, config.activation_depth - blocks + 1)), "blocks": blocks,
            "fill": int(index == 0 or chance.random() < 0.6), "groups": beats * config.lanes, "planes": planes,
            "dst": int(chance.integers(0, 256 - beats + 1)),
            "shift": int(chance.integers(sum_shift(blocks * config.columns, planes), config.shift_max + 1)),
            "rd": int(chance.integers(0, 32)), "address": 0, "unfilled": 0})


class Bench:
    """The ports of an engine, and the model of what it holds."""

    def __init__(self, dut: Any, config: Config, chance: np.random.Generator, pattern: str) -> None:
        self.dut, self.config, self.chance, self.pattern = dut, config, chance, pattern
        self.ops = StreamDriver(dut, "op")
        self.stalls = stalls(pattern, int(chance.integers(1 << 30)))
        dut.activation__enable.value = 0
        dut.result__ready.value = 0
        dut.slots.value = config.slots
        self.buffer = np.zeros((config.slots, config.activation_depth, config.lanes), np.int64)

    async def write_activations(self, part: float) -> None:
        """Write this part of all buffers in any order; sometimes with the extremes that need the widest sums."""
        depth = self.config.activation_depth
        choices = [127, -127] if self.chance.random() < 0.3 else np.arange(-127, 128)
        places = self.chance.permutation(self.config.slots * depth)
        for slot, beat in (divmod(int(place), depth) for place in places[: int(len(places) * part)]):
            self.buffer[slot, beat] = self.chance.choice(choices, self.config.lanes)
            self.dut.activation__enable.value = 1
            self.dut.activation__address.value = slot * depth + beat
            self.dut.activation__data.value = pack(self.buffer[slot, beat], 8)
            await RisingEdge(self.dut.clk)
        self.dut.activation__enable.value = 0

    def expect(self, op: Op, trits: np.ndarray) -> list[np.ndarray]:
        """Elements of each slot for trits [tiles, columns]."""
        split = trits.reshape(op.groups, op.planes, op.blocks * self.config.columns).astype(np.int64)
        weights = np.einsum("p,gpc->gc", 3 ** np.arange(op.planes - 1, -1, -1), split).astype(np.float64)
        return [matvec(weights, slot[op.src : op.src + op.blocks].ravel(), op.shift) for slot in self.buffer]

    async def run(self, op: Op, slots: int, expected: list[np.ndarray]) -> None:
        """Run an operation and compare all that it writes, the peaks, and how long it took."""
        c, dut = self.config, self.dut
        writes: dict[int, list[tuple[int, int]]] = {}
        results: list[tuple[int, int]] = []
        busy_cycles = last_write = 0
        dut.slots.value = slots
        await self.ops.send([op_bits(op)])
        while True:
            dut.result__ready.value = ready = not next(self.stalls)
            await RisingEdge(dut.clk)
            if dut.write__enable.value:
                writes.setdefault(int(dut.write__slot.value), []).append(
                    (int(dut.write__beat.value), int(dut.write__data.value)))
                last_write = busy_cycles
            if ready and dut.result__valid.value:
                results.append((int(dut.result_slot.value), int(dut.result__payload.value)))
            if not dut.busy.value:
                break
            busy_cycles += 1
            assert busy_cycles < 100_000, f"{op}: still busy"
        dut.result__ready.value = 0
        what = f"{c.name} {slots} slots {op.fields}"
        assert sorted(writes) == list(range(slots)), f"{what}: slots {sorted(writes)} write"
        for slot, elements in enumerate(expected[:slots]):
            beats = elements.reshape(-1, c.lanes)
            check_equal(f"{what}: beat of slot {slot}", [beat for beat, _ in writes[slot]],
                        [op.dst + index for index in range(len(beats))])
            check_equal(f"{what}: data of slot {slot}", [data for _, data in writes[slot]],
                        [pack(beat, ELEMENT_BITS) for beat in beats])
        peaks = [int(np.abs(elements).max()) for elements in expected[:slots]]
        check_equal(f"{what}: slot of result", [slot for slot, _ in results], range(slots))
        check_equal(f"{what}: result", [result for _, result in results], [op.rd | peak << 5 for peak in peaks])
        assert busy_cycles - last_write >= 2, f"{what}: written {busy_cycles - last_write} cycles before it is idle"
        if self.pattern == "none":
            check_equal(f"{what}: cycles", [busy_cycles], [engine_cycles(c, op, slots)])


async def no_write_while_idle(dut: Any) -> None:
    """Nothing is written and no result offered unless an operation is under way; no data without a write."""
    while True:
        await RisingEdge(dut.clk)
        assert dut.write__enable.value or not int(dut.write__data.value), "data are not zero"
        if not dut.busy.value:
            assert not dut.write__enable.value, "write while idle"
            assert not dut.result__valid.value, "result while idle"


def words_of(tiles: np.ndarray) -> list[int]:
    """Payloads of the tile stream for trits [tiles, columns]: nonzero in the low bit, negative in the high."""
    return [pack((tile != 0) | (tile < 0) << 1, 2) for tile in tiles]


@cocotb.test()
@cocotb.parametrize(seed=parameters()["seeds"])
async def operations(dut: Any, seed: int) -> None:
    """Random operations with any number of slots, on trits or on base-3 words."""
    config = Config(**parameters()["config"])
    chance = np.random.default_rng(seed)
    pattern = STALL_PATTERNS[seed % 3]
    decoding = parameters()["decoding"]
    bench = Bench(dut, config, chance, pattern)
    tiles = StreamDriver(dut, "words" if decoding else "tiles", pattern=pattern, seed=seed)
    await start(dut)
    cocotb.start_soon(no_write_while_idle(dut))
    ops = list(random_ops(config, chance))
    ends = np.cumsum([op.groups * op.planes * op.blocks for op in ops])
    trits = chance.integers(-1, 2, (int(ends[-1]), config.columns)).astype(np.int8)
    trits[: ends[0]] = 1
    words = [int(word) for word in to_base3(trits).view("<u4")] if decoding else words_of(trits)
    cocotb.start_soon(tiles.send(words))
    for index, (op, end) in enumerate(zip(ops, ends, strict=True)):
        await bench.write_activations(chance.choice([0, 0.3, 1]) if index else 1)
        slots = int(chance.choice([1, config.slots, chance.integers(1, config.slots + 1)]))
        await bench.run(op, slots, bench.expect(op, trits[end - op.groups * op.planes * op.blocks : end]))
    for _ in range(config.slots):   # a reset would leave sums in the slots that the last tiles have not passed yet
        await RisingEdge(dut.clk)
