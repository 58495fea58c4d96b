"""The two sources of weight tiles alone: block RAM and the decoder of the SDRAM stream."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from rtl.config import STREAM, Config
from rtl.trit_decoder import TritDecoder
from rtl.weight_memory import WeightMemory
from tests.bench import run_bench
from tests.engine_components import ODD_MEMORY, ODD_STREAM, WIDE_STREAM, initial_trits, packed


def test_weight_memory_delivers_every_tile() -> None:
    memory = WeightMemory(config=ODD_MEMORY, init=packed(initial_trits(ODD_MEMORY)))
    run_bench(memory, module="tests.cocotb_weight_source", name="weight_memory",
              parameters={"config": asdict(ODD_MEMORY)})


@pytest.mark.parametrize("config", [ODD_STREAM, WIDE_STREAM], ids=lambda config: config.name)
def test_trit_decoder_delivers_every_tile(config: Config) -> None:
    run_bench(TritDecoder(config=config), module="tests.cocotb_weight_source", name=f"trit_decoder_{config.name}",
              parameters={"config": asdict(config)})


def test_one_word_tiles() -> None:
    """A tile per word: the decoder must release a tile in every clock."""
    config = replace(STREAM, name="one_word", slots=1, lanes=20, head_dim=20)
    run_bench(TritDecoder(config=config), module="tests.cocotb_weight_source", name="trit_decoder_one_word",
              parameters={"config": asdict(config)})


def test_bad_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 20, got 24"):
        TritDecoder(config=replace(STREAM, slots=1, lanes=24, head_dim=4))
    with pytest.raises(ValueError, match=r"init must be \[at most 64, 15\], got \(65, 15\)"):
        WeightMemory(config=ODD_MEMORY, init=np.zeros((65, 15), np.uint64))
    with pytest.raises(ValueError, match="weight_depth must be at least 2, got 0"):
        WeightMemory(config=STREAM, init=np.zeros((0, 2), np.uint64))
