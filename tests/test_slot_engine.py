"""The engine with slots against the golden model, alone and behind the decoder of the SDRAM stream."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rtl.config import STREAM, Config
from rtl.slot_engine import SlotEngine
from tests.bench import run_bench
from tests.slot_components import MANY_SLOTS, NARROW_SLOTS, ODD_SLOTS, SLOTS, SlotEngineWithDecoder

CARRY_CELL = [Path(__file__).parent / name for name in ("CCU2C.vlt", "CCU2C.v")]


def run_engine(config: Config, seeds: int, primitives: str = "portable", *, decoding: bool = False) -> None:
    """Random operations with ``seeds`` seeds."""
    engine = (SlotEngineWithDecoder if decoding else SlotEngine)(config=config, primitives=primitives)
    run_bench(engine, module="tests.cocotb_slot_engine", name=f"slot_engine_{config.name}_{primitives}",
              sources=CARRY_CELL if primitives == "ecp5" else [],
              parameters={"config": asdict(config), "seeds": list(range(seeds)), "decoding": decoding})


@pytest.mark.parametrize(("primitives", "seeds"), [("portable", 24), ("ecp5", 6)])
def test_odd_geometry(primitives: str, seeds: int) -> None:
    """Chains that are not full, slots and lanes that are no powers of two; carries lost between lanes, tree and sum."""
    run_engine(ODD_SLOTS, seeds, primitives)


def test_narrow_geometry() -> None:
    """Sums that need no shift."""
    assert NARROW_SLOTS.shift_max == 0
    run_engine(NARROW_SLOTS, seeds=9)


def test_more_slots_than_lanes() -> None:
    """Beats that come faster than slots, and slots than distributed RAM has words."""
    run_engine(MANY_SLOTS, seeds=9)


def test_stream_geometry() -> None:
    """Base-3 words to beats, with the columns of the stream configuration."""
    run_engine(SLOTS, seeds=6, decoding=True)


def test_bad_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match="slots must be positive, got 0"):
        replace(STREAM, slots=0)
    with pytest.raises(ValueError, match="slots 2 need weight_source sdram, rows 1 and block_beats 1"):
        replace(STREAM, slots=2, rows=2)
    with pytest.raises(ValueError, match="activation_depth 48 must be a power of two"):
        replace(STREAM, slots=2, activation_depth=48)
