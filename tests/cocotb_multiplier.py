"""cocotb side of test_multiplier: extremes and random operands, a new pair in every cycle."""

from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from tests.bench import check_equal, parameters, start

LATENCY = 2


@cocotb.test()
@cocotb.parametrize(seed=list(range(20)))
async def products(dut: Any, seed: int) -> None:
    """Every product appears two cycles after its operands."""
    chance = np.random.default_rng(seed)
    a_bits, b_bits = parameters()["a_bits"], parameters()["b_bits"]
    await start(dut)
    pairs = []
    for bits in (a_bits, b_bits):
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
        pairs.append(np.concatenate([chance.permutation([low, low, high, high, 0, -1, 1]),
                                     chance.integers(low, high + 1, 200)]))
    got = []
    for a, b in zip(*(np.pad(values, (0, LATENCY)) for values in pairs), strict=True):
        dut.a.value, dut.b.value = int(a) & (1 << a_bits) - 1, int(b) & (1 << b_bits) - 1
        await RisingEdge(dut.clk)
        got.append(dut.o.value.to_signed())
    check_equal("product", got[LATENCY:], [int(a) * int(b) for a, b in zip(*pairs, strict=True)])
