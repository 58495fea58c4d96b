"""The rotary unit: loads tables, computes every position, compares with `fixed.rotary_factors`."""

from dataclasses import replace
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from rtl import timing
from rtl.config import TINY
from rtl.isa import Op, Opcode
from sim import fixed
from tests.bench import parameters, start

BASES = (10000.0,)
SEEDS = range(20)
TIMEOUT_CYCLES = 500


def read_factors(dut: Any, pairs: int) -> np.ndarray:
    """Cosines and sines [2, pairs]."""
    bits = int(dut.factors.value)
    words = np.array([bits >> 16 * index & 0xFFFF for index in range(2 * pairs)], np.uint16).astype(np.int16)
    return words.reshape(pairs, 2).T.astype(int)


async def load(dut: Any, table: np.ndarray) -> None:
    """Write a table [2, fine, pairs, 2] through the load port, with rubbish in the data bits above."""
    fine_bits = (table.shape[1] - 1).bit_length()
    pair_bits = (table.shape[2] - 1).bit_length()
    for (fine, index, pair, sine), value in np.ndenumerate(table):
        dut.load__enable.value = 1
        dut.load__address.value = ((fine << fine_bits | index) << pair_bits | pair) << 1 | sine
        dut.load__data.value = int(value) & 0xFFFF | 0xABCD0000
        await RisingEdge(dut.clk)
    dut.load__enable.value = 0


async def check(dut: Any, table: np.ndarray, position: int, expected_cycles: int, what: str) -> None:
    """One operation: its cycles and every factor."""
    pairs = table.shape[2]
    dut.position.value = position
    dut.op__valid.value = 1
    await RisingEdge(dut.clk)
    while not dut.op__ready.value:
        await RisingEdge(dut.clk)
    dut.op__valid.value = 0
    cycles = 0
    await RisingEdge(dut.clk)
    while dut.busy.value:
        cycles += 1
        assert cycles < TIMEOUT_CYCLES, f"{what}: position {position} hangs"
        await RisingEdge(dut.clk)
    assert cycles == expected_cycles, f"{what}: {cycles} cycles, expected {expected_cycles}"
    got, expected = read_factors(dut, pairs), np.stack(fixed.rotary_factors(table, position))
    for kind, name in enumerate(("cosine", "sine")):
        for pair in range(pairs):
            assert got[kind, pair] == expected[kind, pair], (
                f"{what}: position {position}, {name} {pair}: got {got[kind, pair]}, expected {expected[kind, pair]}")


@cocotb.test()
async def all_positions(dut: Any) -> None:
    """Every position for the initial and a loaded table, then random tables: real ones never combine all signs."""
    settings = parameters()
    context_log2, head_dim = settings["context_log2"], settings["head_dim"]
    expected_cycles = timing.rotary_cycles(replace(TINY, lanes=head_dim, rows=1, head_dim=head_dim), Op(Opcode.ROTARY))
    dut.op__valid.value = dut.load__enable.value = 0
    await start(dut)
    initial = read_factors(dut, head_dim // 2)
    assert (initial == [[1 << fixed.ROTARY_FRACTION], [0]]).all(), f"after reset: {initial}"
    for base in (settings["initial_base"], *BASES):
        table = fixed.rotary_table(context_log2, head_dim, base)
        if base in BASES:
            await load(dut, table)
        for position in range(1 << context_log2):
            await check(dut, table, position, expected_cycles, f"base {base}")
    for seed in SEEDS:
        cocotb.log.info("seed %d", seed)
        rng = np.random.default_rng(seed)
        limit = (1 << fixed.ROTARY_FRACTION) - 1
        table = rng.integers(-limit, limit + 1, (2, 1 << (context_log2 + 1) // 2, head_dim // 2, 2)).astype(np.int16)
        table = np.where(rng.integers(0, 4, table.shape) == 0, limit * np.sign(table), table)
        await load(dut, table)
        for position in rng.integers(0, 1 << context_log2, 3):
            await check(dut, table, int(position), expected_cycles, f"seed {seed}")
