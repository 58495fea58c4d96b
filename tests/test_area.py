"""The circuits of the area comparison compute what they say, and what synthesis makes of them is counted right."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from amaranth.lib import wiring
from amaranth.sim import Simulator, SimulatorContext

from host.errors import TritloomError
from studies import area
from studies.area import Area, measure
from studies.mac_units import Bf16Mac, Int8Mac, TernaryDot

TERMS = 4096
STEPS = 500


def simulate(component: wiring.Component, testbench: Callable) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("inputs", [1, 5])
def test_ternary_dot(inputs: int) -> None:
    """A negation without its carry, or a tree that loses a product: the cheap circuit would be a wrong one."""
    rng = np.random.default_rng(inputs)
    component = TernaryDot(inputs=inputs, terms=TERMS)

    async def testbench(ctx: SimulatorContext) -> None:
        expected = 0
        for step in range(STEPS):
            activations, trits = rng.integers(-128, 128, inputs), rng.integers(-1, 2, inputs)
            first = step % 50 == 0
            expected = (0 if first else expected) + int(activations @ trits)
            for index in range(inputs):
                ctx.set(component.activations[index], int(activations[index]))
                ctx.set(component.weights[index],
                        {"nonzero": int(trits[index] != 0), "negative": int(trits[index] < 0)})
            ctx.set(component.first, first)
            await ctx.tick()
            assert ctx.get(component.o) == expected, f"step {step}"

    simulate(component, testbench)


def test_int8_mac() -> None:
    """A wrong sign of the multiplier's last row; the corners are where it shows."""
    rng = np.random.default_rng(0)
    component = Int8Mac(terms=TERMS)

    async def testbench(ctx: SimulatorContext) -> None:
        expected = 0
        for step in range(STEPS):
            a, b = (int(rng.choice([-128, -127, -1, 0, 1, 127, int(rng.integers(-128, 128))])) for _ in range(2))
            first = step % 50 == 0
            expected = (0 if first else expected) + a * b
            ctx.set(component.activation, a)
            ctx.set(component.weight, b)
            ctx.set(component.first, first)
            await ctx.tick()
            assert ctx.get(component.o) == expected, f"step {step}: {a} * {b}"

    simulate(component, testbench)


def test_bf16_mac_rounds_as_numpy() -> None:
    """A sticky bit or a normalisation left out would make the float unit cheaper than an honest one."""
    rng = np.random.default_rng(1)
    component = Bf16Mac()
    exponents = rng.integers(118, 137, (2 * STEPS, 2))
    words = rng.integers(0, 1 << 16, (2 * STEPS, 2)) & 0x807F | exponents << 7
    words[1::5] = words[::5] ^ [0x8000, 0]  # cancels the product before
    words[::23, 0] = 0
    factors = (words.astype(np.uint32) << 16).view(np.float32)

    async def testbench(ctx: SimulatorContext) -> None:
        expected = np.float32(0)
        for step, ((a, b), (x, y)) in enumerate(zip(words, factors, strict=True)):
            first = step % 9 == 0
            expected = np.float32((0 if first else expected) + x * y)
            ctx.set(component.a.as_value(), int(a))
            ctx.set(component.b.as_value(), int(b))
            ctx.set(component.first, first)
            await ctx.tick()
            got = np.array([ctx.get(component.o.as_value())], np.uint32).view(np.float32)[0]
            assert got == expected, f"step {step}: {x} * {y} gave a sum of {got} instead of {expected}"

    simulate(component, testbench)


@pytest.fixture(scope="module")
def ternary() -> Area:
    return measure("ternary MAC", TernaryDot(terms=TERMS), 1)


def test_counts_of_the_ternary_mac(ternary: Area) -> None:
    """Flip-flops counted as logic, cells of another type, or carry cells forgotten in the LUT4 sites."""
    bits = len(TernaryDot(terms=TERMS).o)
    assert ternary.flip_flops == bits == 20
    assert ternary.transistors_with_flip_flops - ternary.transistors == 16 * bits
    # At least a half adder (10 transistors) per bit of the sum, at most two full adders in NAND gates (36) per bit.
    assert 10 * bits < ternary.transistors_per_mac < 72 * bits
    assert ternary.lut_sites >= ternary.lut4 + 2 * ternary.ccu2c >= bits
    assert ternary.lut_sites_per_mac == ternary.lut_sites


def test_summary_and_table_say_the_same(ternary: Area) -> None:
    """A unit that is missing from the JSON object, or a claim from the table."""
    tree = Area("tree", macs=2, transistors=100, flip_flops=3, lut4=4, ccu2c=5, dpr16x4=0, lut_sites=14)
    result = area.summary([ternary, tree], TERMS)
    assert [unit["name"] for unit in result["units"]] == ["ternary MAC", "tree"]
    assert result["units"][1]["transistors_per_mac"] == 50
    assert result["units"][1]["transistors_with_flip_flops"] == 148
    assert result["units"][1]["lut_sites_per_mac"] == 7
    assert area.table([ternary, tree], TERMS).row_count == 2 + len(area.CLAIM)


def test_engine_cells_are_counted_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accumulators counted once instead of per row, or the table fill once per row."""
    def fake(name: str, component: object, macs: int) -> Area:
        sites = {"row engine": 100, "accumulator": 10, "table fill": 1}[name]
        return Area(name, macs, None, flip_flops=0, lut4=sites, ccu2c=0, dpr16x4=0, lut_sites=sites)

    monkeypatch.setattr(area, "measure_ecp5", fake)
    config = area.CONFIGS["resident"]
    engine = area.lookup_engine(config)
    assert engine.macs == config.macs
    assert engine.lut_sites == config.rows * 110 + 1
    assert engine.transistors_per_mac is None


def test_failing_tool_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback instead of what yosys complained about."""
    fake = tmp_path / "fake-yosys"
    fake.write_text(f"#!{sys.executable}\nopen('yosys.log', 'w').write('ERROR: no such cell')\nraise SystemExit(1)\n")
    fake.chmod(0o755)
    monkeypatch.setenv("YOSYS", str(fake))
    with pytest.raises(TritloomError, match="^yosys failed: no such cell$"):
        measure("ternary MAC", TernaryDot(terms=TERMS), 1)


def test_unknown_configuration() -> None:
    """A traceback instead of the names to choose from."""
    with pytest.raises(TritloomError, match="no configuration 'huge'; choose nano, tiny, pocket, sparse, resident"):
        area.main(config="huge")
