"""The rotary unit against the golden factors, for every position."""

import numpy as np
import pytest

from rtl.rotary import Rotary
from sim import fixed
from tests.bench import run_bench

INITIAL_BASE = 2000.0


@pytest.mark.parametrize(("context_log2", "head_dim"), [(6, 4), (8, 20), (5, 12)])
def test_all_positions(context_log2: int, head_dim: int) -> None:
    """Odd and even splits of the position, and pair counts that are no power of two."""
    init = fixed.rotary_table(context_log2, head_dim, INITIAL_BASE)
    run_bench(Rotary(context_log2=context_log2, head_dim=head_dim, init=init), module="tests.cocotb_rotary",
              name=f"rotary_{context_log2}_{head_dim}",
              parameters={"context_log2": context_log2, "head_dim": head_dim, "initial_base": INITIAL_BASE})


@pytest.mark.parametrize("head_dim", [0, 5])
def test_head_dim_must_be_even(head_dim: int) -> None:
    """A pair has two elements."""
    with pytest.raises(ValueError, match=f"head_dim {head_dim}"):
        Rotary(context_log2=8, head_dim=head_dim)


def test_init_must_have_the_shape_of_the_table() -> None:
    """A table for another context would rotate by the wrong angles."""
    with pytest.raises(ValueError, match="got .2, 8, 4, 2."):
        Rotary(context_log2=8, head_dim=8, init=np.zeros((2, 8, 4, 2), np.int16))
