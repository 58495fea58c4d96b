"""The drafter against its golden model, and the table that the compiler makes for it."""

from dataclasses import replace

import numpy as np
import pytest

from rtl.config import DRAFT_TAG_BITS, DRAFT_TOKENS, DRAFT_WAYS, NANO, RESIDENT, Config
from rtl.drafter import Drafter
from sim.drafter import context_key, split_key
from tests.bench import run_bench


def letters(config: Config) -> list[int]:
    """The few tokens that most texts of these tests consist of, with all bits among them."""
    return [0, 1, 2, config.vocab - 3, config.vocab - 2, config.vocab - 1]


def random_table(config: Config, seed: int) -> np.ndarray:
    """A learned table of noise and zeros, and among them words for contexts of letters, some twice in a set."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << DRAFT_TAG_BITS + config.token_bits, (config.draft_sets, DRAFT_WAYS), np.uint32)
    table = np.where(rng.integers(0, 8, words.shape) == 0, 0, words)
    for _ in range(table.size):
        context = rng.choice(letters(config), rng.integers(1, DRAFT_TOKENS + 1)).tolist()
        place, tag = split_key(context_key(context), config.draft_sets, DRAFT_TAG_BITS)
        table[place, rng.integers(DRAFT_WAYS)] = tag << config.token_bits | int(rng.choice(letters(config)))
    return table


@pytest.mark.parametrize(("name", "base", "draft_sets"), [("resident", RESIDENT, 64), ("nano", NANO, 4)])
def test_matches_golden(name: str, base: Config, draft_sets: int) -> None:
    """Every draft and its latency, in texts of few tokens so that contexts recur."""
    config = replace(base, draft_sets=draft_sets)
    run_bench(Drafter(config=config, init=random_table(config, 0)), module="tests.cocotb_drafter",
              name=f"drafter_{name}", parameters={"config": name, "draft_sets": draft_sets})
