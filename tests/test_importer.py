"""Models imported from any container they may come in; what cannot run refused by the name of its key or tensor."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from host.architecture import from_metadata
from host.checkpoint import Checkpoint, synthetic_checkpoint
from host.cli import main
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.image import Image
from host.importer import MAX_TOKENIZER_BYTES, import_checkpoint, interleave_pairs, load_checkpoint
from host.integrity import check_weights
from host.model_files import open_model
from host.session import read_image
from rtl.config import STREAM, TINY
from tests.containers import Stored, safetensors_bytes, write, write_sparse
from tests.published_models import write_bitnet_2b4t, write_bitnet_2b4t_gguf
from tests.shapes import SHAPES, STORIES

SHAPE = SHAPES["tiny"]
PARTS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
         "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
CONFIG = {
    "architectures": ["TritloomForCausalLM"], "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 512, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64, "rope_theta": 10000.0, "rope_interleaved": True, "hidden_act": "relu2",
    "embed_planes": 3, "head_planes": 2, "norm_gain": False, "tie_word_embeddings": False,
    "quantization_config": {"linear_class": "autobitlinear"}}
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return synthetic_checkpoint(SHAPE, name="m")


def stored(checkpoint: Checkpoint) -> dict[str, Stored]:
    """The tensors of a checkpoint as its file has them."""
    names = {"embed": "model.embed_tokens", "head": "lm_head"}
    names |= {f"{layer}.{part}": f"model.layers.{layer}.{name}" for layer in range(SHAPE.layers)
              for part, name in PARTS.items()}
    tensors: dict[str, Stored] = {}
    for key, name in names.items():
        integers = checkpoint.tensors[key].integers
        if "." in key:
            planes = (integers + 1).astype(np.uint8).reshape(4, -1, integers.shape[1])
            packed = planes[0] | planes[1] << 2 | planes[2] << 4 | planes[3] << 6
            tensors[f"{name}.weight"] = "U8", packed.shape, packed.tobytes()
        else:
            tensors[f"{name}.weight"] = "I8", integers.shape, integers.tobytes()
        tensors[f"{name}.weight_scale"] = "F32", (1,), np.float32(checkpoint.tensors[key].scale).tobytes()
    return tensors


def write_model(folder: Path, checkpoint: Checkpoint, config: dict[str, object] | None = None,
                **tensors: Stored) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    write(folder / "model.safetensors", safetensors_bytes(stored(checkpoint) | tensors))
    return folder


def assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.shape == expected.shape
    assert set(found.tensors) == set(expected.tensors)
    for key, tensor in expected.tensors.items():
        assert np.array_equal(found.tensors[key].integers, tensor.integers), key
        assert found.tensors[key].scale == np.float32(tensor.scale), key


def test_weights_survive_single_file_and_shards(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """A projection taken for another, or a shard forgotten."""
    single = write_model(tmp_path / "single", checkpoint)
    assert_equal(load_checkpoint(single), checkpoint)
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    (sharded / "config.json").write_text(json.dumps(CONFIG))
    weight_map = {}
    tensors = list(stored(checkpoint).items())
    for index, start in enumerate(range(0, len(tensors), 10)):
        part = dict(tensors[start : start + 10])
        write(sharded / f"{index}.safetensors", safetensors_bytes(part))
        weight_map |= dict.fromkeys(part, f"{index}.safetensors")
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_equal(load_checkpoint(sharded), checkpoint)


def test_import_writes_an_image_with_the_model_s_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image that differs from the compiler's, or that does not say which weights it was made of."""
    with pytest.raises(SystemExit) as ended:
        main(["import", str(STORIES), "-o", str(tmp_path / "a.img")])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    image = Image.load(tmp_path / "a.img")
    assert image.image_id == read_image(STORIES, None).image_id
    record = check_weights(open_model(STORIES)).record
    assert image.model["integrity"] == record
    assert record["sha256"] in out and f"{image.image_id:08x}" in out


def test_gains_reach_the_checkpoint(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """A norm's gains dropped without a word, ones kept, or those of another norm's place taken."""
    name = "model.layers.0.input_layernorm.weight"
    ones = np.ones(24, np.float32)
    assert not load_checkpoint(write_model(tmp_path / "m", checkpoint, **{name: ("F32", (24,), ones.tobytes())})).gains
    ones[7] = 1.01
    found = load_checkpoint(write_model(tmp_path / "n", checkpoint, **{name: ("F32", (24,), ones.tobytes())}))
    assert_equal(found, checkpoint)
    assert list(found.gains) == ["0.qkv"] and np.array_equal(found.gains["0.qkv"], ones)
    with pytest.raises(TritloomError, match="gains of m's norms need 2 rows of the embedding memory, tiny has 0"):
        compile_checkpoint(replace(found, name="m"), TINY)


@pytest.mark.parametrize(("name", "size", "value", "message"), [
    ("model.layers.0.input_layernorm.weight", 24, 0.0, "no gains that are finite and not all zero"),
    ("model.layers.0.input_layernorm.weight", 24, np.nan, "no gains that are finite and not all zero"),
    ("model.layers.0.input_layernorm.weight", 23, 2.0, "has 23 gains, the configuration asks for 24"),
    ("model.layers.2.input_layernorm.weight", 24, 2.0, "in each of 2 layers"),
    ("model.layers.0.self_attn.q_norm.weight", 4, 2.0, "in a place without a norm"),
    ("model.layers.0.mlp.up_proj.rms_norm.weight", 24, 1.0, "1 sub-norms such as"),
    ("model.layers.1.self_attn.attn_sub_norm.weight", 8, 1.0, "layer 0 has no sub-norm before its o projection"),
])
def test_gains_that_cannot_run_are_named(tmp_path: Path, checkpoint: Checkpoint, name: str, size: int, value: float,
                                         message: str) -> None:
    """Gains of another size, of no norm, or of one norm in some layers only."""
    gains = np.full(size, value, np.float32)
    with pytest.raises(TritloomError) as refused:
        load_checkpoint(write_model(tmp_path / "m", checkpoint, **{name: ("F32", (size,), gains.tobytes())}))
    assert message in str(refused.value)


@pytest.mark.parametrize(("config", "message"), [
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu' (supported: 'relu2', 'silu')"),
    ({"rope_interleaved": None}, "rope_interleaved is None (supported: True, False)"),
    ({"rope_scaling": {"type": "yarn"}}, "rope_scaling is"),
    ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters.rope_type is 'llama3' (supported: 'default')"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5 (supported: 1)"),
    ({"num_local_experts": 8}, "num_local_experts is 8 (supported: none)"),
    ({"quantization_config": {}}, "quantization_config.linear_class None"),
])
def test_settings_that_cannot_run_are_named(tmp_path: Path, checkpoint: Checkpoint, config: dict[str, object],
                                            message: str) -> None:
    """A model compiled into one that computes something else."""
    with pytest.raises(TritloomError) as refused:
        load_checkpoint(write_model(tmp_path / "m", checkpoint, config))
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "tensor", "message"), [
    ("model.layers.0.mlp.up_proj.bias", ("F32", (48,), bytes(192)), "have no part in the token program"),
    ("lm_head.weight", ("I32", (512, 24), bytes(49152)), "lm_head.weight is I32 (supported: I8, F32, F16, BF16)"),
    ("lm_head.weight", ("BF16", (512, 24), bytes(24576)), "is BF16 and has a scale tensor; supported: one or the"),
    ("lm_head.weight", ("I8", (512, 24), b"\x05" + bytes(12287)), "values beyond 4, the limit of 2 trit planes"),
    ("model.embed_tokens.weight", ("I8", (512, 24), b"\x80" + bytes(12287)), "values beyond 13, the limit of 3"),
    (UP, ("F32", (48, 24), np.repeat(np.float32([1, -2]), 576).tobytes()), "one scale per row; supported: one per"),
    (UP, ("U8", (12, 24), b"\x55" * 288), "up_proj.weight holds nothing but 0"),
])
def test_tensors_that_cannot_run_are_named(tmp_path: Path, checkpoint: Checkpoint, name: str, tensor: Stored,
                                           message: str) -> None:
    """A tensor left out, clipped, or given another's scale."""
    folder = write_model(tmp_path / "m", checkpoint, **{name: tensor})
    with pytest.raises(TritloomError) as refused:
        load_checkpoint(folder)
    assert message in str(refused.value)


def test_constant_tensors_pass_by_force(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """A deliberately empty layer that cannot be imported at all, or one that leaves no trace in the record."""
    folder = write_model(tmp_path / "m", checkpoint, **{UP: ("U8", (12, 24), b"\x55" * 288)})
    found, integrity = import_checkpoint(folder, force=True)
    assert not found.tensors["1.up"].integers.any()
    assert integrity.suspects == (UP,) and integrity.nonzero["1.up"] == 0


def test_published_models_are_refused_before_a_weight_is_read(tmp_path: Path) -> None:
    """A gigabyte decoded before it turns out that the configuration does not hold the model."""
    for path in (write_bitnet_2b4t(tmp_path), write_bitnet_2b4t_gguf(tmp_path / "m.gguf")):
        assert open_model(path).architecture.shape.sub_norms == ("o", "down")
        with pytest.raises(TritloomError, match="head_dim 128 does not fit stream"):
            import_checkpoint(path, config=STREAM)


def test_the_tokenizer_is_taken_along(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """An image without a tokenizer although the model has one, or a file of any size swallowed."""
    folder = write_model(tmp_path / "m", checkpoint)
    assert load_checkpoint(folder).tokenizer == b""
    write(folder / "tokenizer.bin", b"words")
    assert load_checkpoint(folder).tokenizer == b"words"
    write_sparse(folder / "tokenizer.bin", b"", MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(TritloomError, match="this is not a tokenizer"):
        load_checkpoint(folder)


def test_unknown_configurations_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback for a misspelt name."""
    with pytest.raises(SystemExit) as ended:
        main(["import", str(STORIES), "-o", str(tmp_path / "a.img"), "--config", "big"])
    assert ended.value.code == 1
    assert "there is no configuration 'big'; choose" in capsys.readouterr().err


def test_dividing_scales_reach_the_checkpoint(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """The convention applied when weights are checked and forgotten when they are imported."""
    config = {"quantization_config": {"linear_class": "bitlinear"}}
    found = load_checkpoint(write_model(tmp_path / "m", checkpoint, config))
    scale = np.float32(checkpoint.tensors["0.q"].scale)
    assert found.tensors["0.q"].scale == pytest.approx(1 / scale)
    assert found.tensors["embed"].scale == np.float32(checkpoint.tensors["embed"].scale)


def test_half_rotated_heads_keep_their_scores(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Rows permuted the other way round, across heads, or in values too."""
    half = load_checkpoint(write_model(tmp_path / "half", checkpoint, {"rope_interleaved": False}))
    a = np.random.default_rng(0).normal(size=(5, SHAPE.hidden))
    angle = np.arange(5)[:, None, None] * SHAPE.rope_theta ** (-np.arange(0, SHAPE.head_dim, 2) / SHAPE.head_dim)

    def heads(weights: np.ndarray) -> np.ndarray:
        return (a @ weights.T).reshape(5, SHAPE.heads, SHAPE.head_dim)

    def turned(x: np.ndarray, first: slice, second: slice) -> np.ndarray:
        out = np.empty_like(x)
        out[..., first] = x[..., first] * np.cos(angle) - x[..., second] * np.sin(angle)
        out[..., second] = x[..., second] * np.cos(angle) + x[..., first] * np.sin(angle)
        return out

    middle = SHAPE.head_dim // 2
    published, imported = (
        np.einsum("thd,uhd->htu", *(turned(heads(model.tensors[f"1.{part}"].integers), *pair) for part in "qk"))
        for model, pair in ((checkpoint, (slice(middle), slice(middle, None))),
                            (half, (slice(0, None, 2), slice(1, None, 2)))))
    assert np.allclose(published, imported)
    assert not np.array_equal(half.tensors["1.q"].integers, checkpoint.tensors["1.q"].integers)
    assert np.array_equal(half.tensors["1.v"].integers, checkpoint.tensors["1.v"].integers)


def test_pairs_lie_as_each_container_has_them() -> None:
    """Queries of a llama GGUF, which its converter has permuted, permuted once more, or others not at all."""
    rows = np.arange(8)[:, None]
    assert interleave_pairs(rows, 4).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    for name, is_half in (("llama", False), ("bitnet", True), ("bitnet-25", True), ("bitnet-b1.58", True)):
        sizes = {"embedding_length": 8, "feed_forward_length": 8, "block_count": 1, "attention.head_count": 2,
                 "context_length": 8}
        metadata = {"general.architecture": name} | {f"{name}.{key}": size for key, size in sizes.items()}
        assert from_metadata(metadata, 8, tied=False).rotate_half == is_half


@pytest.mark.parametrize(("key", "value"), [
    ("rope.scaling.factor", 2.0), ("rope.dimension_count", 2), ("expert_count", 8), ("attention.value_length", 8),
    ("attention.sliding_window", 4096)])
def test_gguf_settings_that_cannot_run_are_named(key: str, value: object) -> None:
    """Positions scaled, part of a head rotated, or experts, in metadata that nobody looked at."""
    sizes = {"embedding_length": 8, "feed_forward_length": 8, "block_count": 1, "attention.head_count": 2,
             "context_length": 8}
    metadata = {"general.architecture": "llama"} | {f"llama.{name}": size for name, size in sizes.items()}
    assert not from_metadata(metadata, 8, tied=False).objections
    (objection,) = from_metadata(metadata | {f"llama.{key}": value}, 8, tied=False).objections
    assert objection.startswith(f"llama.{key} is {value} (supported: ")
