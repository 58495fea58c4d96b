"""Ordinary weights in trit planes: how near they come, how many planes they get, and what a model of them computes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from host.checkpoint import Shape, layer_shapes, synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.importer import import_checkpoint, load_checkpoint
from host.planes import PlaneBudget, to_trit_planes
from rtl.config import TINY
from sim.golden import Golden
from sim.reference import Reference
from tests.containers import Stored, gguf_bytes, safetensors_bytes, write
from tests.shapes import SHAPES
from tests.test_golden import golden_logits
from tests.test_importer import PARTS, assert_equal, stored

NORMAL = np.random.default_rng(0).normal(size=(120, 90)).astype(np.float32)
PLANED = replace(TINY, name="planed", weight_planes=5, weight_depth=1024, embed_planes=5)
SHAPE = SHAPES["tiny"]
LLAMA = {"architectures": ["LlamaForCausalLM"], "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 2, "head_dim": 4, "vocab_size": 512, "max_position_embeddings": 64,
         "hidden_act": "relu2", "tie_word_embeddings": True}
NORMS = {"input_layernorm": 24, "post_attention_layernorm": 24}


def float_tensors(shape: Shape, *, seed: int = 0, head: bool = False) -> dict[str, Stored]:
    """An ordinary Llama with gains, all float32."""
    rng = np.random.default_rng(seed)
    sizes = dict.fromkeys(["model.embed_tokens", *(["lm_head"] if head else [])], (shape.vocab, shape.hidden))
    sizes |= {f"model.layers.{layer}.{PARTS[part]}": size for layer in range(shape.layers)
              for part, size in layer_shapes(shape, layer).items()}
    tensors: dict[str, Stored] = {}
    for name, size in sizes.items():
        spread = 0.2 if name == "model.embed_tokens" else size[1] ** -0.5
        tensors[f"{name}.weight"] = "F32", size, rng.normal(0, spread, size).astype("<f4").tobytes()
    norms = {f"model.layers.{layer}.{name}" for layer in range(shape.layers) for name in NORMS} | {"model.norm"}
    for name in sorted(norms):
        tensors[f"{name}.weight"] = "F32", (shape.hidden,), rng.uniform(0.5, 2, shape.hidden).astype("<f4").tobytes()
    return tensors


def write_llama(folder: Path, tensors: dict[str, Stored], **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA | config))
    write(folder / "model.safetensors", safetensors_bytes(tensors))
    return folder


def divergence(real: np.ndarray, found: np.ndarray) -> float:
    """Mean KL in nats of logits [T, vocab]."""
    real, found = (x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)
                   for x in (real, found))
    return float((np.exp(real) * (real - found)).sum(1).mean())


@pytest.mark.parametrize(("planes", "most"), [(1, 0.45), (2, 0.20), (3, 0.08), (4, 0.031), (5, 0.012)])
def test_error_of_normal_weights(planes: int, most: float) -> None:
    """A scale that clips too much or wastes levels."""
    tensor = to_trit_planes(NORMAL, planes)
    assert np.abs(tensor.integers).max() <= 3**planes // 2
    difference = NORMAL - tensor.integers * tensor.scale
    assert tensor.error == pytest.approx(np.sqrt(np.square(difference).sum() / np.square(NORMAL).sum()), rel=1e-4)
    assert tensor.error < most


def test_integers_stay_themselves() -> None:
    """A scale next to the right one."""
    integers = np.random.default_rng(1).integers(-13, 14, (40, 30))
    assert np.array_equal(to_trit_planes(integers * np.float32(0.37), 3).integers, integers)
    assert not to_trit_planes(np.zeros((3, 4), np.float32), 2).integers.any()


def test_planes_follow_from_the_error() -> None:
    """More planes than the budget asks for, fewer, or more than there are."""
    assert PlaneBudget(error=0.2).quantise("w", NORMAL, 5).planes == 2
    assert PlaneBudget(error=0.03).quantise("w", NORMAL, 5).planes == 4
    assert PlaneBudget().quantise("w", NORMAL, 5).planes == 5
    assert PlaneBudget().quantise("w", NORMAL, 2).planes == 2
    assert PlaneBudget(planes=3).quantise("w", NORMAL, 5).planes == 3
    with pytest.raises(TritloomError, match="tensor w has an error of 0.17. in the 2 trit planes"):
        PlaneBudget(error=0.1).quantise("w", NORMAL, 2)
    with pytest.raises(TritloomError, match="would take 3 trit planes, the configuration holds 2"):
        PlaneBudget(planes=3).quantise("w", NORMAL, 2)
    for damaged in (np.inf, np.nan):
        with pytest.raises(TritloomError, match="as a damaged file would"):
            PlaneBudget().quantise("w", np.full((1, 1), damaged), 5)


@pytest.mark.parametrize("head", [False, True])
def test_an_ordinary_llama_computes_what_its_floats_do(tmp_path: Path, head: bool) -> None:
    """Gains left out, planes of queries and keys mixed up, or a tied head that is not the embedding."""
    tensors = float_tensors(SHAPE, head=head)
    folder = write_llama(tmp_path / "m", tensors, tie_word_embeddings=not head)
    checkpoint = load_checkpoint(folder, PLANED)
    assert checkpoint.shape.embed_planes == 5 and checkpoint.shape.head_planes == 5
    weights = {name: np.frombuffer(data, "<f4").reshape(size) for name, (_, size, data) in tensors.items()}
    exact = dict(checkpoint.tensors)
    embedding = weights["model.embed_tokens.weight"]
    for key in exact:
        layer, _, part = key.rpartition(".")
        norm = {"o": None, "down": None, "gate": "post_attention_layernorm", "up": "post_attention_layernorm"}.get(
            part, "input_layernorm")
        if not layer:
            floats = embedding if key == "embed" or not head else weights["lm_head.weight"]
            floats = floats * weights["model.norm.weight"] if key == "head" else floats
        else:
            floats = weights[f"model.layers.{layer}.{PARTS[part]}.weight"]
            floats = floats * weights[f"model.layers.{layer}.{norm}.weight"] if norm else floats
        if part in "qk":
            floats = floats.reshape(2, 2, 2, 24).transpose(0, 2, 1, 3).reshape(8, 24)
        exact[key] = replace(exact[key], integers=floats, scale=1.0)
    tokens = np.random.default_rng(2).integers(0, 512, 40)
    real = Reference(replace(checkpoint, tensors=exact)).logits(tokens)
    planes = Reference(checkpoint).logits(tokens)
    golden = golden_logits(Golden(compile_checkpoint(checkpoint, PLANED)), tokens.tolist())
    assert divergence(real, planes) < 0.02
    assert divergence(planes, golden) < 0.005


def test_planes_are_combined_per_matrix(tmp_path: Path) -> None:
    """Queries of two planes read as those of the four that keys have."""
    rng = np.random.default_rng(3)
    base = synthetic_checkpoint(SHAPE)
    tensors = dict(base.tensors)
    for name, planes in (("0.k", 4), ("0.q", 2), ("1.down", 3), ("1.gate", 5)):
        integers = rng.integers(-(3**planes // 2), 3**planes // 2 + 1, tensors[name].integers.shape, np.int8)
        tensors[name] = replace(tensors[name], integers=integers, planes=planes, scale=tensors[name].scale / 3**planes)
    checkpoint = replace(base, tensors=tensors)
    tokens = rng.integers(0, 512, 30)
    golden = golden_logits(Golden(compile_checkpoint(checkpoint, PLANED)), tokens.tolist())
    assert divergence(Reference(checkpoint).logits(tokens), golden) < 0.002
    with pytest.raises(TritloomError, match="matrix 0.qkv has 4 trit planes, tiny holds 2"):
        compile_checkpoint(checkpoint, TINY)


def test_float_embedding_and_head_of_a_ternary_model(tmp_path: Path) -> None:
    """A BitNet checkpoint, tied and bf16, refused; or its trits quantised too."""
    model = synthetic_checkpoint(SHAPE, name="m")
    tensors = stored(model)
    for name in ("lm_head.weight", "lm_head.weight_scale", "model.embed_tokens.weight_scale"):
        del tensors[name]
    floats = np.random.default_rng(4).normal(size=(512, 24)).astype(np.float32)
    tensors["model.embed_tokens.weight"] = "BF16", (512, 24), (floats.view(np.uint32) >> 16).astype("<u2").tobytes()
    settings = {"quantization_config": {"linear_class": "autobitlinear"}, "rope_interleaved": True}
    folder = write_llama(tmp_path / "m", tensors, **settings)
    found, integrity = import_checkpoint(folder, config=PLANED)
    ternary = {name: tensor for name, tensor in found.tensors.items() if "." in name}
    assert_equal(replace(found, tensors=ternary, shape=SHAPE),
                 replace(model, tensors={name: model.tensors[name] for name in ternary}))
    assert set(found.quantised) == {"embed", "head"}
    assert found.tensors["embed"].error < 0.012 and found.tensors["head"].error < 0.012
    assert integrity.record["sha256"] == import_checkpoint(folder, config=TINY)[1].record["sha256"]
    assert load_checkpoint(folder, TINY).tensors["head"].planes == TINY.weight_planes


def write_gguf(path: Path, arch: str) -> Path:
    names = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up",
             "down": "ffn_down"}
    plain = float_tensors(SHAPE)
    tensors = {"token_embd.weight": plain["model.embed_tokens.weight"]}
    for layer in range(2):
        for part, name in names.items():
            tensors[f"blk.{layer}.{name}.weight"] = plain[f"model.layers.{layer}.{PARTS[part]}.weight"]
    sizes = {"embedding_length": 24, "feed_forward_length": 48, "block_count": 2, "attention.head_count": 2,
             "attention.key_length": 4, "context_length": 64}
    metadata = {"general.architecture": arch} | {f"{arch}.{key}": ("u32", size) for key, size in sizes.items()}
    return write(path, gguf_bytes(metadata, tensors))


def test_floats_of_a_ternary_architecture_must_be_ternary(tmp_path: Path) -> None:
    """Weights that a BitNet model rounds to trits before use, rounded to something else."""
    with pytest.raises(TritloomError, match="weights that are not -s, 0 and s"):
        load_checkpoint(write_gguf(tmp_path / "m.gguf", "bitnet-25"), PLANED)


def test_trits_of_many_scales_become_planes(tmp_path: Path) -> None:
    """A TriLM, whose shards have scales of their own, refused, or all rows given the first row's scale."""
    tensors = float_tensors(SHAPE)
    name = "model.layers.0.mlp.up_proj.weight"
    rng = np.random.default_rng(5)
    trits = rng.integers(-1, 2, (48, 24)) * np.repeat(np.float32([0.1, 0.13]), 24)[:, None]
    tensors[name] = "F32", (48, 24), trits.astype("<f4").tobytes()
    tensors["model.layers.0.post_attention_layernorm.weight"] = "F32", (24,), np.ones(24, "<f4").tobytes()
    found = load_checkpoint(write_llama(tmp_path / "m", tensors), PLANED).tensors["0.up"]
    assert found.planes > 1
    assert np.abs(found.integers * found.scale - trits).max() < 0.03 * 0.13
