"""The drafter under random texts: every draft and its latency equal the golden model's."""

from dataclasses import replace
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge

from host.image import wide_words
from rtl.config import CONFIGS, DRAFT_TAG_BITS, Config
from rtl.timing import DRAFT_CYCLES, remember_cycles
from sim.drafter import Drafter
from tests.bench import parameters, start
from tests.test_drafter import letters, random_table

TEXTS = 40


class Bench:
    """The component beside its golden model."""

    def __init__(self, dut: Any, config: Config, table: np.ndarray) -> None:
        self.dut, self.config, self.table = dut, config, table
        self.known = 0

    def begin(self, *, uses_text: bool, uses_table: bool) -> None:
        """Another text, to which the first token belongs."""
        self.dut.uses_text.value, self.dut.uses_table.value = uses_text, uses_table
        self.golden = Drafter(self.config, self.table, uses_text=uses_text, uses_table=uses_table)

    async def load(self, table: np.ndarray) -> None:
        """Write another learned table through the load port, as the image says."""
        for address, word in enumerate(wide_words(table, DRAFT_TAG_BITS + self.config.token_bits).tolist()):
            self.dut.load__enable.value, self.dut.load__address.value, self.dut.load__data.value = 1, address, word
            await FallingEdge(self.dut.clk)
        self.dut.load__enable.value = 0
        self.table = table

    async def push(self, token: int, *, first: bool, where: str) -> None:
        """A token of the text; the drafter is ready again exactly when its first draft must be there."""
        dut = self.dut
        dut.tokens__payload.value = token | first << 16
        dut.tokens__valid.value = 1
        assert dut.tokens__ready.value, f"{where}: must take a token"
        await FallingEdge(dut.clk)
        dut.tokens__valid.value = 0
        self.golden.push(token)
        await self._offered(remember_cycles(self.config, first=first), where)

    async def draft(self, where: str) -> int:
        """The next draft, compared."""
        dut = self.dut
        offered = int(dut.drafts__payload.value)
        expected = self.golden.draft()
        assert offered == (0 if expected is None else expected | 1 << 16), (
            f"{where}: offered {offered:#x}, expected {expected}")
        self.known += expected is not None
        dut.drafts__ready.value = 1
        await FallingEdge(dut.clk)
        dut.drafts__ready.value = 0
        await self._offered(DRAFT_CYCLES, where)
        return expected or 0

    async def _offered(self, cycles: int, where: str) -> None:
        """Wait for a draft, which comes so many cycles after the transfer that the last cycle was."""
        for cycle in range(1, cycles):
            assert not self.dut.drafts__valid.value, f"{where}: a draft after {cycle} cycles, expected {cycles}"
            await FallingEdge(self.dut.clk)
        assert self.dut.drafts__valid.value, f"{where}: no draft after {cycles} cycles"


@cocotb.test()
async def matches_golden(dut: Any) -> None:
    """Texts of few and of many tokens, follow and ignore drafts, with either source and with both."""
    given = parameters()
    config = replace(CONFIGS[given["config"]], draft_sets=given["draft_sets"])
    for port in (dut.tokens__valid, dut.drafts__ready, dut.load__enable, dut.uses_text, dut.uses_table):
        port.value = 0
    await start(dut)
    await FallingEdge(dut.clk)
    assert not dut.drafts__valid.value, "a draft before any text"
    bench = Bench(dut, config, random_table(config, 0))
    for seed in range(TEXTS):
        await check_text(bench, seed)
    assert bench.known > 1000, f"only {bench.known} drafts were known, so little was compared"


async def check_text(bench: Bench, seed: int) -> None:
    """One text."""
    rng, config = np.random.default_rng(seed), bench.config
    if seed % 8 == 7:
        await bench.load(random_table(config, seed))
    bench.begin(uses_text=seed % 4 != 1, uses_table=seed % 4 != 2)
    alphabet = letters(config) if seed % 3 else range(config.vocab)
    tokens: list[int] = []
    drafted = 0
    for position in range(int(rng.integers(1, 60))):
        where = f"seed {seed} position {position}"
        # Follow a draft often, as a text does whose drafts are good.
        token = drafted if rng.integers(2) else int(rng.choice(alphabet))
        await bench.push(token, first=position == 0, where=where)
        tokens.insert(0, token)
        for count in range(int(rng.integers(0, 5))):
            drafted = await bench.draft(f"{where} draft {count}")
