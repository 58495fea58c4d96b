"""The peak of all rows, where the sign-magnitude comparison is exact only because of its carry."""

import pytest

from rtl.peak import Peak
from tests.bench import run_bench


@pytest.mark.parametrize("rows", [1, 5, 8])
def test_peak_of_near_values(rows: int) -> None:
    run_bench(Peak(rows=rows, primitives="portable"), module="tests.cocotb_engine_peak", name=f"engine_peak_{rows}",
              parameters={"rows": rows})
