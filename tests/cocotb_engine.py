"""cocotb side of test_engine: random operations on an engine and its weight source."""

from collections.abc import Iterator
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from host.packing import to_base3
from rtl.config import ELEMENT_BITS, Config, sum_shift
from rtl.isa import FIELDS, Op, Opcode
from rtl.timing import engine_cycles
from sim.golden import matvec
from tests.bench import STALL_PATTERNS, StreamDriver, StreamMonitor, check_equal, parameters, start
from tests.engine_components import initial_trits, packed, random_trits

OPERATIONS = 8


def op_bits(op: Op) -> int:
    """Payload of the operation port."""
    word, position = 0, 0
    for name, width in FIELDS[Opcode.MATVEC]:
        word |= getattr(op, name) << position
        position += width
    return word


def pack(values: np.ndarray, bits: int) -> int:
    """Integers side by side, first in the low bits."""
    mask = (1 << bits) - 1
    return sum((int(value) & mask) << bits * index for index, value in enumerate(values))


def random_ops(config: Config, chance: np.random.Generator) -> Iterator[Op]:
    """Operations that fit the configuration; the first fills the tables, some of the others use them again."""
    blocks = 1
    for index in range(OPERATIONS):
        fill = index == 0 or chance.random() < 0.6
        if fill:
            blocks = int(chance.integers(1, config.table_blocks + 1))
        planes = int(chance.choice([1, 1, config.weight_planes, chance.integers(1, config.weight_planes + 1)]))
        tiles = config.weight_depth or 60
        groups = int(chance.integers(1, min(40, tiles // (planes * blocks)) + 1)) if index else 1
        count = groups * planes * blocks
        destination = int(chance.integers(0, config.vector_depth - -(-groups * config.rows // config.lanes) + 1))
        yield Op(Opcode.MATVEC, fields={
            "src": int(chance.integers(0, config.activation_depth - blocks * config.block_beats + 1)),
            "blocks": blocks, "fill": int(fill), "groups": groups, "planes": planes, "dst": destination,
            "shift": int(chance.integers(sum_shift(blocks * config.columns, planes), config.shift_max + 1)),
            "rd": int(chance.integers(0, 32)),
            "address": int(chance.integers(0, config.weight_depth - count + 1)) if config.weight_depth else 0,
            "unfilled": int(chance.integers(0, config.block_beats)) if config.has_sparse_codes else 0})


class Bench:
    """The ports of an engine, and the model of what it holds."""

    def __init__(self, dut: Any, config: Config, chance: np.random.Generator, pattern: str) -> None:
        self.dut, self.config, self.chance = dut, config, chance
        self.pattern = pattern
        self.ops = StreamDriver(dut, "op")
        self.results = StreamMonitor(dut, "result", pattern=pattern, seed=int(chance.integers(1 << 30)))
        dut.activation__enable.value = 0
        self.buffer = np.zeros((config.activation_depth, config.lanes), np.int64)
        self.filled = np.zeros(0, np.int64)

    async def write_activations(self) -> None:
        """Fill the whole buffer; sometimes with the extremes that need the widest sums."""
        choices = [127, -127] if self.chance.random() < 0.2 else np.arange(-127, 128)
        self.buffer = self.chance.choice(choices, self.buffer.shape)
        for beat in self.chance.permutation(len(self.buffer)):
            self.dut.activation__enable.value = 1
            self.dut.activation__address.value = int(beat)
            self.dut.activation__data.value = pack(self.buffer[beat], 8)
            await RisingEdge(self.dut.clk)
        self.dut.activation__enable.value = 0

    def expect(self, op: Op, tiles: np.ndarray) -> np.ndarray:
        """Elements that an operation on trits [tiles, rows, columns] writes."""
        c = self.config
        if op.fill:
            filled = self.buffer[op.src : op.src + op.blocks * c.block_beats].copy()
            filled[len(filled) - op.unfilled :] = 0
            self.filled = filled.ravel()
        split = tiles.reshape(op.groups, op.planes, op.blocks, c.rows, c.columns).astype(np.int64)
        combined = np.einsum("p,gpbrc->grbc", 3 ** np.arange(op.planes - 1, -1, -1), split)
        return matvec(combined.reshape(op.groups * c.rows, -1).astype(np.float64), self.filled, op.shift)

    async def run(self, op: Op, expected: np.ndarray) -> None:
        """Run an operation and compare all that it writes, its peak, and how long it took."""
        c, dut = self.config, self.dut
        writes: list[tuple[int, int]] = []
        busy_cycles = 0
        sending = cocotb.start_soon(self.ops.send([op_bits(op)]))
        receiving = cocotb.start_soon(self.results.receive(1, timeout_cycles=100_000))
        await sending
        while True:
            await RisingEdge(dut.clk)
            if dut.write__enable.value:
                part = int(dut.write__part.value)
                assert part.bit_count() == 1, f"{op}: writes to parts {part:b}"
                place = int(dut.write__address.value) * (c.lanes // c.part) + part.bit_length() - 1
                writes.append((place, int(dut.write__data.value)))
            if not dut.busy.value:
                break
            busy_cycles += 1
            assert busy_cycles < 100_000, f"{op}: still busy"
        first, step = op.dst * c.lanes // c.part, c.rows // c.part
        what = f"{c.name} {op.fields}"
        check_equal(f"{what}: place of write", [address for address, _ in writes],
                    [first + step * group for group in range(op.groups)])
        check_equal(f"{what}: write", [word for _, word in writes],
                    [pack(group, ELEMENT_BITS) for group in expected.reshape(op.groups, c.rows)])
        peak = int(np.abs(expected).max())
        check_equal(f"{what}: result", await receiving, [op.rd | peak << 5])
        if self.pattern == "none":
            check_equal(f"{what}: cycles", [busy_cycles], [engine_cycles(c, op)])


async def no_write_while_idle(dut: Any) -> None:
    """Nothing is written and no result offered unless an operation is under way."""
    while True:
        await RisingEdge(dut.clk)
        if not dut.busy.value:
            assert not dut.write__enable.value, "write while idle"
            assert not dut.result__valid.value, "result while idle"


async def load(dut: Any, words: np.ndarray, config: Config) -> None:
    """Write words [tiles, rows * row_words] that a test replaced through the load port, two pieces each."""
    row_bits, word_bits = (config.rows - 1).bit_length(), (config.row_words - 1).bit_length()
    for tile in range(0, len(words), parameters()["load_stride"]):
        for place, value in enumerate(words[tile]):
            row, word = divmod(place, config.row_words)
            address = ((tile << row_bits | row) << word_bits | word) << 1
            for piece in range(2):
                dut.load__enable.value = 1
                dut.load__address.value = address | piece
                dut.load__data.value = int(value) >> 32 * piece & 0xFFFFFFFF
                await RisingEdge(dut.clk)
    dut.load__enable.value = 0


async def feed_memory(dut: Any, config: Config, chance: np.random.Generator, seed: int) -> np.ndarray:
    """Trits of a memory: its initial ones for the first seed, in part new ones for the others."""
    trits = initial_trits(config)
    if seed:
        stride = parameters()["load_stride"]
        trits[::stride] = random_trits(config, chance, len(trits))[::stride]
        await load(dut, packed(trits, config.code_trits), config)
    return trits


@cocotb.test()
@cocotb.parametrize(seed=parameters()["seeds"])
async def operations(dut: Any, seed: int) -> None:
    """Random operations on tiles from block RAM, or from base-3 words whose stream knows no operations."""
    config = Config(**parameters()["config"])
    chance = np.random.default_rng(seed)
    pattern = STALL_PATTERNS[seed % 3]
    bench = Bench(dut, config, chance, pattern)
    streaming = config.weight_source == "sdram"
    if streaming:
        words = StreamDriver(dut, "words", pattern=pattern, seed=seed)
    else:
        dut.load__enable.value = 0
    await start(dut)
    cocotb.start_soon(no_write_while_idle(dut))
    ops = list(random_ops(config, chance))
    counts = [op.groups * op.planes * op.blocks for op in ops]
    if streaming:
        positions = [sum(counts[:index]) for index in range(len(counts))]
        trits = chance.integers(-1, 2, (sum(counts), config.rows, config.columns)).astype(np.int8)
        trits[: counts[0]] = 1
        cocotb.start_soon(words.send([int(word) for word in to_base3(trits).view("<u4")]))
    else:
        positions = [op.address for op in ops]
        trits = await feed_memory(dut, config, chance, seed)
    for op, count, position in zip(ops, counts, positions, strict=True):
        if op.fill:
            await bench.write_activations()
        await bench.run(op, bench.expect(op, trits[position : position + count]))
