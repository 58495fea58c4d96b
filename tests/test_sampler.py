"""Sampler, exactly against the golden model; and the golden model against the distribution it samples."""

from dataclasses import replace

import numpy as np
import pytest

from rtl.config import CONFIGS
from rtl.sampler import Sampler
from sim.fixed import GUMBEL_FRACTION, Scalar, noise_seed
from sim.golden import sample
from tests.bench import run_bench


@pytest.mark.parametrize(("name", "changes", "seeds"), [
    ("wide", {"lanes": 40, "sampler_lanes": 4}, 20),
    ("odd", {"lanes": 6, "rows": 6, "head_dim": 6, "sampler_lanes": 3}, 20),
])
def test_matches_golden(name: str, changes: dict[str, int], seeds: int) -> None:
    """Tokens and cycles of greedy and of noisy operations equal the golden model's."""
    run_bench(Sampler(config=replace(CONFIGS["tiny"], **changes)), module="tests.cocotb_sampler",
              name=f"sampler_{name}", parameters={"config": "tiny", "replace": changes, "seeds": seeds})


def test_distribution() -> None:
    """Frequencies over many draws follow the softmax of the scaled logits within four standard deviations."""
    draws = 4000
    logits = np.array([3000, 1000, -2000, 2500, 0, -6000])
    scale = Scalar.from_float(2.0**GUMBEL_FRACTION / 2000)
    weights = np.exp(logits / 2000)
    probabilities = weights / weights.sum()
    states = [noise_seed(7, lane) for lane in range(4)]
    counts = np.bincount([sample(logits, scale, states) for _ in range(draws)], minlength=len(logits))
    deviation = np.sqrt(draws * probabilities * (1 - probabilities))
    excess = np.abs(counts - draws * probabilities) / deviation
    assert excess.max() < 4, f"token {excess.argmax()}: {counts[excess.argmax()]} of {draws} draws"
