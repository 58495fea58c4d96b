"""cocotb side of test_engine_peak: peaks of elements that lie close together."""

from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from rtl.config import ELEMENT_BITS
from rtl.timing import peak_steps
from tests.bench import parameters, start

ELEMENT_MASK = (1 << ELEMENT_BITS) - 1


@cocotb.test()
@cocotb.parametrize(seed=list(range(20)))
async def peaks(dut: Any, seed: int) -> None:
    """Values around a centre and its negative: equal magnitudes of either sign, and such that differ by one."""
    chance = np.random.default_rng(seed)
    rows = parameters()["rows"]
    for port in (dut.clear, dut.valid, dut.finish):
        port.value = 0
    await start(dut)
    for operation in range(20):
        dut.clear.value = 1
        await RisingEdge(dut.clk)
        dut.clear.value = 0
        count = int(chance.integers(1, 6))
        centre = int(chance.choice([0, 1, 5, 64, (1 << ELEMENT_BITS - 1) - 3]))
        values = chance.choice([-1, 1], (count, rows)) * (centre + chance.integers(0, 3, (count, rows)))
        for index, row in enumerate(values):
            elements = [int(value) & ELEMENT_MASK for value in row]
            dut.valid.value = 1
            dut.elements.value = sum(element << ELEMENT_BITS * place for place, element in enumerate(elements))
            dut.finish.value = int(index == count - 1)
            await RisingEdge(dut.clk)
        dut.valid.value = 0
        dut.finish.value = 0
        for cycle in range(1 + peak_steps(rows)):
            await RisingEdge(dut.clk)
            assert int(dut.done.value) == (cycle == peak_steps(rows)), f"operation {operation}: done in cycle {cycle}"
        got, expected = int(dut.value.value), int(np.abs(values).max())
        assert got == expected, f"operation {operation}: peak {got}, expected {expected} of {values.tolist()}"
