"""Ordinary weights rewritten for integers: the same function, and less lost where models are known to lose most."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import host.importer
from host.balance import Weights, balance, spread_channels, turn_keys
from host.checkpoint import Checkpoint, Shape, Tensor, layer_shapes
from host.compiler import compile_checkpoint
from host.importer import import_checkpoint
from host.planes import PlaneBudget
from sim.golden import Golden
from studies.planes import FloatReference, Floats, float_predictions, golden_predictions, losses, windows
from tests.bench import ROOT
from tests.containers import Stored
from tests.shapes import SHAPES
from tests.test_planes import PLANED, divergence, float_tensors, write_llama

# The model is not shipped; where the trainer finds it, so does the test.
DATA = Path(os.environ.get("TRITLOOM_DATA", ROOT.parent / "shared" / "data"))
GROUPED = Shape(hidden=22, feed_forward=36, layers=2, heads=6, kv_heads=2, head_dim=8, vocab=40, context=64,
                activation="silu")
TOKENS = np.random.default_rng(1).integers(0, 512, 60)


def random_weights(shape: Shape) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"embed": (shape.vocab, shape.hidden), "head": (shape.vocab, shape.hidden)}
    sizes |= {f"{layer}.{key}": size
              for layer in range(shape.layers) for key, size in layer_shapes(shape, layer).items()}
    return {key: rng.normal(0, size[1] ** -0.5, size) for key, size in sizes.items()}


def float_logits(weights: dict[str, np.ndarray], shape: Shape) -> np.ndarray:
    tensors = {key: Tensor(matrix, 1.0) for key, matrix in weights.items()}
    return FloatReference(Checkpoint("m", shape, tensors)).logits(TOKENS % shape.vocab)


@pytest.mark.parametrize("rewrite", [spread_channels, turn_keys])
def test_the_function_stays_the_same(rewrite: Callable[[Weights, Shape], Weights]) -> None:
    """A matrix left out, a basis that is not orthogonal, a query head that follows another head's keys."""
    weights = random_weights(GROUPED)
    rewritten = rewrite(weights, GROUPED)
    assert not np.allclose(rewritten["1.q"], weights["1.q"], atol=0.01)
    assert np.allclose(float_logits(rewritten, GROUPED), float_logits(weights, GROUPED), rtol=0, atol=1e-9)


def test_weights_on_few_levels_are_left_alone() -> None:
    """Trits with a scale per row, which need two planes, spread over five."""
    weights = random_weights(GROUPED)
    weights["1.up"] = np.sign(weights["1.up"]) * np.linspace(0.1, 0.2, len(weights["1.up"]))[:, None]
    assert balance(weights, GROUPED) is weights


def tensors_with_constant_keys() -> dict[str, Stored]:
    """A channel of the residual stream that never changes, in which keys and queries of the slow pair are large."""
    tensors = float_tensors(SHAPES["tiny"])
    values = {name: np.frombuffer(data, "<f4").reshape(size).copy() for name, (_, size, data) in tensors.items()}
    rng = np.random.default_rng(1)
    values["model.embed_tokens.weight"][:, 3] = 0.6
    for layer in range(2):
        at = f"model.layers.{layer}.self_attn"
        # Of halves of a head, elements 1 and 3 are a pair.
        values[f"{at}.k_proj.weight"][3::4, 3] = rng.uniform(4, 8, 2)
        values[f"{at}.q_proj.weight"][1::4, 3] = rng.uniform(4, 8, 2)
        values[f"{at}.o_proj.weight"] *= 4
    return {name: (dtype, size, values[name].tobytes()) for name, (dtype, size, _) in tensors.items()}


def test_constant_keys_lose_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that no longer rewrites, or a rewriting that no longer helps."""
    folder = write_llama(tmp_path / "m", tensors_with_constant_keys())
    real = FloatReference(import_checkpoint(folder, config=PLANED, budget=Floats())[0]).logits(TOKENS)
    lost = []
    for rewrite in (host.importer.balance, lambda weights, shape: weights):
        monkeypatch.setattr(host.importer, "balance", rewrite)
        checkpoint = import_checkpoint(folder, config=PLANED, budget=PlaneBudget(5))[0]
        lost.append(divergence(real, Golden(compile_checkpoint(checkpoint, PLANED)).logits(TOKENS.tolist())))
    assert lost[0] < 0.3 * lost[1]


def test_a_head_of_zero_keys_passes() -> None:
    """A division by the peak of its keys, which warns and leaves weights that are no numbers."""
    weights = random_weights(GROUPED)
    weights["1.k"][:8] = 0
    assert np.allclose(float_logits(turn_keys(weights, GROUPED), GROUPED), float_logits(weights, GROUPED), atol=1e-9)


@pytest.mark.skipif(not (DATA / "stories260K.bin").exists(), reason="TRITLOOM_DATA names no folder with stories260K")
def test_stories260k_loses_less_than_two_hundredths() -> None:
    """What an import without options costs a real model: 0.008 nats, with a bound for 2,048 tokens."""
    texts = windows(DATA, 8)
    real, found = float_predictions(DATA, texts[:, :-1]), golden_predictions(DATA, texts[:, :-1], PlaneBudget())[0]
    assert losses(found, texts).mean() - losses(real, texts).mean() < 0.02
