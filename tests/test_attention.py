"""Attention unit and KV cache, exactly against the golden model."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped
from amaranth.sim import Simulator

from rtl.attention import Attention
from rtl.attention_head import HeadScore
from rtl.config import CONFIGS, Config
from rtl.exp2 import Exp2Negative
from rtl.kv_cache import KvCache
from rtl.timing import EXP2_CYCLES
from sim.fixed import exp2_negative
from tests.bench import run_bench


class CachedAttention(wiring.Component):
    """An attention unit that reads a cache."""

    def __init__(self, config: Config) -> None:
        self.cache, self.unit = KvCache(config=config), Attention(config=config)
        ports = self.unit.signature.members
        super().__init__({
            **{name: ports[name] for name in ("op", "busy", "query", "position", "read", "result")},
            "write": self.cache.signature.members["write"]})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cache, m.submodules.unit = self.cache, self.unit
        connect(m, self.unit.cache, self.cache.read)
        connect(m, flipped(self.write), self.cache.write)
        connect(m, flipped(self.op), self.unit.op)
        connect(m, flipped(self.query), self.unit.query)
        connect(m, flipped(self.read), self.unit.read)
        connect(m, self.unit.result, flipped(self.result))
        m.d.comb += [
            self.busy.eq(self.unit.busy), self.unit.position.eq(self.position), self.cache.position.eq(self.position)]
        return m


@pytest.mark.parametrize(("name", "changes", "seeds"), [
    ("tiny", {}, 20),
    ("groups", {"lanes": 12, "rows": 12, "head_dim": 6, "query_groups": 3, "context": 16}, 20),
    ("words", {"lanes": 8, "word_beats": 2, "query_groups": 2, "context": 16}, 20),
])
def test_matches_golden(name: str, changes: dict[str, int], seeds: int) -> None:
    """Beats, sums and cycles of every operation equal the golden model's, under stalls of the result."""
    run_bench(CachedAttention(replace(CONFIGS["tiny"], **changes)), module="tests.cocotb_attention",
              name=f"attention_{name}", parameters={"config": "tiny", "replace": changes, "seeds": seeds})


def test_exp2() -> None:
    """Every distance that leaves a bit of the result, and those beyond, gives the golden power of two."""
    rng = np.random.default_rng(1)
    distances = np.concatenate([np.arange(13 << 10), rng.integers(13 << 10, 1 << 18, 500), [(1 << 18) - 1]])
    dut, powers = Exp2Negative(), []

    async def bench(ctx) -> None:
        for distance in [*distances.tolist(), *[0] * EXP2_CYCLES]:
            ctx.set(dut.distance, distance)
            await ctx.tick()
            powers.append(ctx.get(dut.probability))

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    actual, expected = np.array(powers[EXP2_CYCLES - 1 : -1]), exp2_negative(distances)
    wrong = np.flatnonzero(actual != expected)
    assert not wrong.size, f"2**-{distances[wrong[0]]}/1024: got {actual[wrong[0]]}, expected {expected[wrong[0]]}"


def test_head_needs_a_sum() -> None:
    """A head of one element has no adder tree; the message names the value."""
    with pytest.raises(ValueError, match="at least 2, got 1"):
        HeadScore(head_dim=1)
