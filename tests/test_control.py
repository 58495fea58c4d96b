"""Control registers and the crossing of the register bus."""

import pytest

from rtl.control import Control, RegisterAccess
from rtl.register_bus import RegisterBusCrossing
from tests.bench import STALL_PATTERNS, run_bench

SETTINGS = {"geometry": 0xC0FF_EE11, "has_stream": True, "clock_hz": 90_000_000, "context": 8, "vocab": 300, "slots": 4,
            "stream_base": 0x40, "stream_words": 0x5000, "prompt_words": 0x4000, "timeout_cycles": 1000}


@pytest.mark.parametrize("pattern", STALL_PATTERNS)
@pytest.mark.parametrize("seed", range(1, 6))
def test_traffic(pattern: str, seed: int) -> None:
    """Any mix of accesses reads and writes what the register model says, whatever the other blocks' stalls."""
    run_bench(Control(**SETTINGS), module="tests.cocotb_control", name="control", testcase="traffic", seed=seed,
              parameters={"pattern": pattern, **SETTINGS})


@pytest.mark.parametrize("testcase", ["pulses_and_status", "reset", "timeouts", "latency"])
def test_behaviour(testcase: str) -> None:
    """What the docstrings of ``Control`` and ``RegisterAccess`` claim beyond single accesses."""
    run_bench(Control(**SETTINGS), module="tests.cocotb_control", name="control", testcase=testcase,
              parameters={"pattern": "none", **SETTINGS})


@pytest.mark.parametrize("cpu_ps", [3_700, 10_000, 47_300])
def test_crossing(cpu_ps: int) -> None:
    """Every access crosses once, in order, and its answer comes back, for any ratio of the clocks."""
    run_bench(RegisterBusCrossing(), module="tests.cocotb_control", name="register_bus", testcase="crossing",
              parameters={"cpu_ps": cpu_ps})


@pytest.mark.parametrize(("name", "value"),
                         [("geometry", 1 << 32), ("clock_hz", -1), ("context", 0), ("vocab", 1 << 15)])
def test_refuses_parameter(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must .* got {value}"):
        Control(**SETTINGS | {name: value})


def test_refuses_no_timeout() -> None:
    with pytest.raises(ValueError, match="timeout_cycles must be at least 1, got 0"):
        RegisterAccess(timeout_cycles=0)
