"""Models whose attention and feed-forward read the same normed vector: reading, meaning, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from host.architecture import from_config
from host.checkpoint import synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from rtl.config import TINY
from sim.golden import Golden
from sim.reference import Reference
from tests.shapes import SHAPES, STORIES
from tests.test_golden import golden_logits
from tests.test_planes import divergence

BANKED = replace(TINY, name="banked", bank_beats=16)
SHAPE = replace(SHAPES["tiny"], is_parallel=True)


@pytest.mark.parametrize("config", [TINY, BANKED], ids=lambda config: config.name)
def test_golden_model_is_close_to_the_reference(config) -> None:
    """A feed-forward that reads what attention has added to, or scales that are those of another order."""
    model = synthetic_checkpoint(SHAPE)
    tokens = np.random.default_rng(3).integers(0, SHAPE.vocab, 32)
    golden = golden_logits(Golden(compile_checkpoint(model, config)), tokens.tolist())
    ordinary = replace(model, shape=SHAPES["tiny"])
    assert divergence(Reference(model).logits(tokens), golden) < 0.01
    assert divergence(Reference(ordinary).logits(tokens), golden) > 0.05


def test_configuration_is_read() -> None:
    """A key that is lost, or taken for true because it is there."""
    said = json.loads((STORIES / "config.json").read_text())
    for value in (False, True):
        architecture = from_config(said | {"use_parallel_residual": value})
        assert architecture.shape.is_parallel == value and not architecture.objections


@pytest.mark.parametrize("change", [
    {"use_parallel_residual": "yes"}, {"use_parallel_residual": True, "hidden_act": "silu"},
    {"use_parallel_residual": True, "architectures": ["BitNetForCausalLM"]}])
def test_what_cannot_run_is_refused(change: dict[str, object]) -> None:
    """Another meaning of the key, or a gate that this program does not have."""
    said = json.loads((STORIES / "config.json").read_text())
    assert any("use_parallel_residual" in line for line in from_config(said | change).objections)


def test_gains_are_refused() -> None:
    """Gains of norms that would be left out."""
    gains = {"0.qkv": np.linspace(0.5, 2, SHAPE.hidden, dtype=np.float32)}
    model = replace(synthetic_checkpoint(SHAPE), gains=gains)
    with pytest.raises(TritloomError, match="without gains"):
        compile_checkpoint(model, replace(BANKED, gain_rows=8))


def test_gains_of_a_second_norm_are_refused() -> None:
    """A feed-forward with a norm of its own, which this program does not compute."""
    model = replace(synthetic_checkpoint(SHAPE), gains={"0.gate": np.full(SHAPE.hidden, 2, np.float32)})
    with pytest.raises(TritloomError, match="without gains"):
        compile_checkpoint(model, BANKED)
