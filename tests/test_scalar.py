"""The scalar unit and the registers behind it, against the golden arithmetic."""

import pytest

from rtl.scalar_registers import ScalarRegisters
from rtl.scalar_unit import ScalarUnit
from tests.bench import run_bench


@pytest.mark.parametrize("testcase", ["operations", "exhaustive_tables", "normalise"])
def test_scalar_unit(testcase: str) -> None:
    """Every function, every table entry, every bit length, reads right after writes, and cycle counts."""
    run_bench(ScalarUnit(), module="tests.cocotb_scalar", name="scalar", testcase=testcase)


@pytest.mark.parametrize(("writers", "readers"), [(0, 1), (1, 0)])
def test_registers_need_a_writer_and_a_reader(writers: int, readers: int) -> None:
    """Without either there is nothing to build."""
    with pytest.raises(ValueError, match=f"got {writers} and {readers}"):
        ScalarRegisters(writers=writers, readers=readers)
