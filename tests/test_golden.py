"""The golden model against the float reference, and its own contracts."""

import time
from pathlib import Path

import numpy as np
import pytest

from host.compiler import compile_checkpoint
from host.importer import load_checkpoint
from host.tokenizer import Tokenizer
from rtl.config import POCKET, RESIDENT, STREAM, TINY, Config
from sim.fixed import GUMBEL, Scalar, noise_seed
from sim.golden import Golden, exact_floats, sample
from sim.reference import Reference, negative_log_likelihood
from tests.shapes import POCKET_STORIES, STORIES, synthetic_image

TEXT = """Once upon a time, there was a little dog named Max. Max liked to run and play in the park. One day, he found
a big red ball. He was very happy. He ran to his friend Lily and said, "Look at my ball!" Lily smiled and they played
all day. When the sun went down, Max went home to his mom. He was tired but happy.""".replace("\n", " ")


def golden_logits(golden: Golden, tokens: list[int]) -> np.ndarray:
    """Real logits float64 [T, vocab] of the integer model."""
    return golden.logits(tokens)


@pytest.mark.parametrize(("model", "config", "most"), [(STORIES, RESIDENT, 1.9), (POCKET_STORIES, POCKET, 2.4)])
def test_loss_is_that_of_the_float_reference(model: Path, config: Config, most: float) -> None:
    """A wrong scale, rounding or permutation anywhere in compiler or golden model."""
    checkpoint = load_checkpoint(model)
    golden, reference = Golden(compile_checkpoint(checkpoint, config)), Reference(checkpoint)
    tokens = np.array(Tokenizer(checkpoint.tokenizer).encode(TEXT))[: config.context]
    real, integer = reference.logits(tokens[:-1]), golden_logits(golden, list(tokens[:-1]))
    float_loss = negative_log_likelihood(real, tokens[1:]).mean()
    integer_loss = negative_log_likelihood(integer, tokens[1:]).mean()
    assert float_loss < most
    assert abs(float_loss - integer_loss) < 0.01
    assert (real.argmax(1) == integer.argmax(1)).mean() > 0.95


def test_is_vectorised() -> None:
    """Loops over elements, which cost a factor of 20 and more.

    An idle machine makes 200 tokens per second (``tritloom bench`` shows its own rate); a crowded one a third of that.
    """
    golden = Golden(compile_checkpoint(load_checkpoint(STORIES), RESIDENT))
    rates = []
    for _ in range(3):
        start = time.thread_time()
        golden.generate([1], 60)
        rates.append(60 / (time.thread_time() - start))
    assert max(rates) > 30, f"{max(rates):.0f} tokens per second"


@pytest.mark.parametrize(("largest", "chosen"), [(1, np.float32), (66_051, np.float32), (66_053, np.float64)])
def test_matrices_stay_exact(largest: int, chosen: type) -> None:
    """A sum that float32 would round: 2 * 66,052 * 127 is just below 2**24."""
    weights = np.array([[largest, largest]])
    converted = exact_floats(weights)
    assert converted.dtype == chosen
    assert (converted @ np.array([127, 126], chosen))[0] == largest * 253


@pytest.mark.parametrize("seed", range(3))
def test_stream_and_resident_programs_agree_where_their_arithmetic_does(seed: int) -> None:
    """Weights cut differently for SDRAM than for block RAM."""
    checkpoint = load_checkpoint(STORIES)
    a = Golden(compile_checkpoint(checkpoint, RESIDENT))
    b = Golden(compile_checkpoint(checkpoint, STREAM))
    tokens = np.random.default_rng(seed).integers(3, 512, 12).tolist()
    first, second = golden_logits(a, tokens), golden_logits(b, tokens)
    assert np.abs(first - second).mean() < 0.02 * np.abs(first).mean()


def test_same_seed_same_story_other_seed_other_story() -> None:
    """Sampling that ignores its seed, or is not reproducible."""
    golden = Golden(synthetic_image("tiny"))
    one = Scalar.from_float(1.0)
    first = golden.generate([1, 5], 20, temperature=one, seed=1)
    assert golden.generate([1, 5], 20, temperature=one, seed=1) == first
    assert golden.generate([1, 5], 20, temperature=one, seed=2) != first


def test_gumbel_maximum_draws_from_the_softmax() -> None:
    """Noise that is correlated, skewed, or of the wrong scale."""
    rng = np.random.default_rng(0)
    logits = rng.integers(-512, 512, 8)
    states = [noise_seed(7, lane) for lane in range(4)]
    draws = [sample(logits, Scalar.from_float(1.0), states) for _ in range(20000)]
    expected = np.exp(logits / 256)
    expected /= expected.sum()
    observed = np.bincount(draws, minlength=8) / len(draws)
    assert np.abs(observed - expected).max() < 0.015
    assert len(GUMBEL) == 1024


def test_greedy_takes_the_first_of_equals() -> None:
    """Ties broken by a later index."""
    assert sample(np.array([3, 9, 9, 1]), None, [1]) == 1


def test_refuses_tokens_and_positions_out_of_range() -> None:
    """A silent read beyond the embedding or the cache."""
    golden = Golden(synthetic_image("tiny"))
    with pytest.raises(IndexError, match="vocabulary"):
        golden.step(TINY.vocab, 0)
    with pytest.raises(IndexError, match="context"):
        golden.step(0, TINY.context)
