"""The tile engine joined with its weight sources against the golden model."""

from dataclasses import asdict

import pytest

from rtl.config import TINY, Config
from tests.bench import run_bench
from tests.engine_components import (
    ODD_MEMORY,
    ODD_SPARSE,
    ODD_STREAM,
    RESIDENT_ROWS,
    SPARSE_BLOCKS,
    SPARSE_ROWS,
    WIDE_STREAM,
    EngineWithDecoder,
    EngineWithMemory,
)


def run_engine(config: Config, seeds: int, load_stride: int = 1) -> None:
    """Random operations with ``seeds`` seeds; every ``load_stride``-th tile of a memory is loaded."""
    streaming = config.weight_source == "sdram"
    run_bench((EngineWithDecoder if streaming else EngineWithMemory)(config=config), module="tests.cocotb_engine",
              name=f"engine_{config.name}",
              parameters={"config": asdict(config), "seeds": list(range(seeds)), "load_stride": load_stride})


@pytest.mark.parametrize("config", [ODD_MEMORY, ODD_STREAM], ids=lambda config: config.name)
def test_odd_geometries(config: Config) -> None:
    """Row counts that are no power of two, partly used codes and words, more planes: nothing hangs on round sizes."""
    run_engine(config, seeds=9)


def test_tiny_engine() -> None:
    run_engine(TINY, seeds=6, load_stride=37)


def test_block_tables() -> None:
    """Tables in block RAM with one row: the streaming geometry with fewer blocks."""
    run_engine(WIDE_STREAM, seeds=6)


def test_resident_rows() -> None:
    """The columns of the resident geometry; its eight rows are those of the tiny one."""
    run_engine(RESIDENT_ROWS, seeds=6, load_stride=17)


@pytest.mark.parametrize("config", [ODD_SPARSE, SPARSE_BLOCKS, SPARSE_ROWS], ids=lambda config: config.name)
def test_sparse_codes(config: Config) -> None:
    """Four trits per code: an entry of the wrong columns or sign, or activations where there are none."""
    run_engine(config, seeds=6, load_stride=17)
