"""The multiplier as a block and as plain registers: both are the same function of the same cycles."""

from pathlib import Path

import pytest

from rtl.multiplier import Multiplier
from tests.bench import run_bench

BLOCK = Path(__file__).parent / "MULT18X18D.v"


@pytest.mark.parametrize("primitives", ["portable", "ecp5"])
@pytest.mark.parametrize(("a_bits", "b_bits"), [(18, 18), (8, 17)])
def test_products(primitives: str, a_bits: int, b_bits: int) -> None:
    """Swapped or missing pins of the block, unsigned operands, a register too many."""
    run_bench(Multiplier(a_bits=a_bits, b_bits=b_bits, primitives=primitives), module="tests.cocotb_multiplier",
              name=f"multiplier_{primitives}_{a_bits}_{b_bits}", sources=[BLOCK] if primitives == "ecp5" else [],
              parameters={"a_bits": a_bits, "b_bits": b_bits})


def test_width_is_checked() -> None:
    """An operand wider than the block."""
    with pytest.raises(ValueError, match="a_bits must be 1..18, got 19"):
        Multiplier(a_bits=19, b_bits=8, primitives="ecp5")
