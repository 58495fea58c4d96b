"""Hugging Face transformers and the gguf package as judges: what they wrote, imported, computes what they compute."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from transformers import BitNetConfig, LlamaConfig

from host.architecture import HUGGING_FACE_KEYS, REQUIRED, from_config
from host.checkpoint import Checkpoint, Tensor
from host.compiler import compile_checkpoint
from host.importer import import_checkpoint, load_checkpoint
from host.planes import PlaneBudget
from sim.golden import Golden
from sim.reference import Reference
from tests.gguf_models import write_gguf
from tests.test_golden import golden_logits
from tests.test_planes import divergence
from tests.transformers_models import KINDS, Drawn, run

SEEDS = range(24)
WINDOW = 8              # tokens of a sequence on which int8 activations are compared
MOST_ERROR = 1e-4       # of logits in floats, relative to the largest of their position


@dataclass(frozen=True)
class Limits:
    """How many times as far from float32 as bf16 the golden model may be.

    Parameters
    ----------
    each : divergence of a model.
    changed : top tokens of all models together.
    published : divergence of all, where float32 and bf16 have weights that were not quantised.
    """

    each: float
    changed: float
    published: float


# The aim is 1.5. It is missed where only the golden model has int8 activations, or weights in planes.
TERNARY_LIMITS = Limits(each=1.5, changed=1.5, published=2.5)
FLOATS_LIMITS = Limits(each=8, changed=2.5, published=12)


@dataclass(frozen=True)
class Distance:
    """Of logits from those of the float32 run.

    Members
    -------
    divergence : mean KL in nats.
    changed : fraction of positions with another top token.
    """

    divergence: float
    changed: float

    @staticmethod
    def between(real: np.ndarray, found: np.ndarray) -> "Distance":
        return Distance(divergence(real, found), float((real.argmax(1) != found.argmax(1)).mean()))

    def __str__(self) -> str:
        return f"{self.divergence:.4f} ({self.changed:.1%})"


@dataclass(frozen=True)
class Distances:
    """Of the golden model and of the bf16 run, on the weights as imported and as published."""

    golden: Distance
    bf16: Distance
    golden_published: Distance
    bf16_published: Distance


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transformers")


@cache
def distances(seed: int, folder: Path) -> Distances:
    drawn = Drawn(seed)
    published, config = drawn.write(folder / f"{seed}"), drawn.accelerator()
    checkpoint, _ = import_checkpoint(published, config=config, budget=PlaneBudget(planes=config.weight_planes))
    imported = drawn.write_imported(folder / f"{seed}-imported", checkpoint)
    golden = golden_logits(Golden(compile_checkpoint(checkpoint, config)), drawn.tokens.tolist())
    found = []
    for path in (imported, published):
        real = run(path, drawn.tokens)
        found += [Distance.between(real, golden), Distance.between(real, run(path, drawn.tokens, torch.bfloat16))]
    return Distances(*found)


def mean(found: list[Distance]) -> Distance:
    return Distance(float(np.mean([d.divergence for d in found])), float(np.mean([d.changed for d in found])))


def unrounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """What the importer makes of a model, but for floats becoming integers."""
    with monkeypatch.context() as patch:
        patch.setattr(PlaneBudget, "quantise", lambda self, name, weights, limit: Tensor(weights, 1.0, limit))
        return load_checkpoint(path)


def relative_error(real: np.ndarray, found: np.ndarray) -> float:
    """Largest difference of logits [T, vocab], relative to the largest logit of its position."""
    return float((np.abs(found - real).max(1) / np.abs(real).max(1)).max())


@pytest.mark.parametrize("seed", SEEDS)
def test_reference_computes_what_transformers_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Any convention misread: pairs, groups, norms and their epsilon, ties, trits and scales, int8 activations.

    A value that lies on a tie of the int8 rounding, within the precision of float32, goes either way and takes the rest
    of its sequence along. So these are compared on short sequences, of which few are so unlucky.
    """
    drawn = Drawn(seed)
    path = drawn.write(tmp_path / "published")
    checkpoint = unrounded(path, monkeypatch)
    floats = Reference(checkpoint, float_inputs=checkpoint.tensors).logits(drawn.tokens)
    assert relative_error(run(drawn.write_floats(tmp_path / "floats"), drawn.tokens), floats) < MOST_ERROR
    if drawn.kind.linear_class:
        windows = drawn.tokens.reshape(-1, WINDOW)
        quantised = Reference(checkpoint, float_inputs=("head",))
        errors = [relative_error(real, quantised.logits(window))
                  for real, window in zip(run(path, windows), windows, strict=True)]
        assert np.mean(np.array(errors) < MOST_ERROR) > 0.5, errors
        assert relative_error(run(path, drawn.tokens), floats) > 100 * MOST_ERROR


@pytest.mark.parametrize("seed", SEEDS)
def test_golden_model_is_as_near_as_bf16(folder: Path, seed: int) -> None:
    """A rounding, scale or table that costs more than the arithmetic these models usually run in."""
    drawn, found = Drawn(seed), distances(seed, folder)
    print(f"{seed} {drawn.name}: golden {found.golden}, bf16 {found.bf16}; "
          f"published: golden {found.golden_published}, bf16 {found.bf16_published}")
    limits = TERNARY_LIMITS if drawn.kind.linear_class else FLOATS_LIMITS
    assert found.golden.divergence < limits.each * found.bf16.divergence


@pytest.mark.parametrize("ternary", [True, False])
def test_golden_model_keeps_the_top_token_as_bf16_does(folder: Path, ternary: bool) -> None:
    """The same for the token that greedy decoding takes; few positions of a model change, so those of all count."""
    found = [distances(seed, folder) for seed in SEEDS if bool(Drawn(seed).kind.linear_class) == ternary]
    columns = zip(*(vars(d).values() for d in found), strict=True)
    golden, bf16, *published = (mean(list(column)) for column in columns)
    ratios = [d.golden.divergence / d.bf16.divergence for d in found]
    print(f"{'ternary' if ternary else 'floats'}, {len(found)} models: golden {golden}, bf16 {bf16}, at worst "
          f"{max(ratios):.2f} times; published: golden {published[0]}, bf16 {published[1]}")
    limits = TERNARY_LIMITS if ternary else FLOATS_LIMITS
    assert golden.changed < limits.changed * bf16.changed
    assert published[0].divergence < limits.published * published[1].divergence


def assert_same(found: Checkpoint, expected: Checkpoint, precision: float) -> None:
    """Trits and gains equal, scales within a precision, other floats within that of small fp16 numbers."""
    epsilon = expected.shape.norm_epsilon
    assert found.shape.norm_epsilon == pytest.approx(epsilon, rel=1e-6)
    assert replace(found.shape, norm_epsilon=epsilon) == expected.shape
    assert found.gains.keys() == expected.gains.keys() and found.tensors.keys() == expected.tensors.keys()
    for name, gain in expected.gains.items():
        assert np.array_equal(found.gains[name], gain), name
    for name, tensor in expected.tensors.items():
        assert np.allclose(found.tensors[name].integers, tensor.integers, rtol=0, atol=2.0**-24), name
        assert found.tensors[name].scale == pytest.approx(tensor.scale, rel=precision), name


@pytest.mark.parametrize("seed", SEEDS)
def test_gguf_of_floats_is_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Pairs permuted twice or not at all, a tied head that is missing, or trits in floats taken for master weights."""
    drawn = Drawn(seed)
    kind = Type.F32 if drawn.kind.linear_class or drawn.dtype == torch.float32 else Type.BF16
    path = write_gguf(tmp_path / "m.gguf", drawn, kind, (Type.F32, Type.F16, Type.BF16)[seed % 3])
    assert_same(unrounded(path, monkeypatch), unrounded(drawn.write(tmp_path / "m"), monkeypatch), 1e-6)


@pytest.mark.parametrize("kind", [Type.TQ1_0, Type.TQ2_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("seed", [seed for seed, kind in enumerate(KINDS.values()) if kind.linear_class])
def test_gguf_of_trits_is_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int,
                                         kind: Type) -> None:
    """Trits in another order than the package packs them, or a scale of another block."""
    drawn = Drawn(seed, wide=True)
    path = write_gguf(tmp_path / "m.gguf", drawn, kind, Type.F16)
    assert_same(unrounded(path, monkeypatch), unrounded(drawn.write(tmp_path / "m"), monkeypatch), 2.0**-11)


@pytest.mark.parametrize("config", [BitNetConfig(), LlamaConfig()], ids=lambda config: config.model_type)
def test_settings_left_out_are_those_of_transformers(config: BitNetConfig | LlamaConfig) -> None:
    """The base of the rotary embedding, or an epsilon, of another class where config.json does not say."""
    name = f"{type(config).__name__.removesuffix('Config')}ForCausalLM"
    keys = ["hidden_act", *(HUGGING_FACE_KEYS[field] for field in REQUIRED)]
    found = from_config({"architectures": [name]} | {key: getattr(config, key) for key in keys})
    assert found.shape.rope_theta == config.rope_parameters["rope_theta"]
    assert found.shape.norm_epsilon == config.rms_norm_eps
    assert found.shape.kv_heads == config.num_key_value_heads
    assert found.tied == config.tie_word_embeddings
