"""The MatMul-free language model imported; variants refused by the name of their key or tensor."""

import json
from pathlib import Path

import numpy as np
import pytest

from host.architecture import from_config
from host.errors import TritloomError
from host.fit import fit
from host.importer import import_checkpoint, load_checkpoint
from host.integrity import check_weights
from host.model_files import open_model
from rtl.config import CONFIGS, HGRN
from tests.containers import Stored, safetensors_bytes, write
from tests.published_models import write_mmfree_370m
from tests.small_hgrn import CONFIG, FEED, HIDDEN, LAYERS, SmallHgrn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_hash_is_that_of_the_check(folder: Path) -> None:
    """A head or bounds that count in one of two hashes, or in none."""
    path = SmallHgrn().write(folder / "hgrn")
    _, integrity = import_checkpoint(path, config=HGRN)
    assert integrity == check_weights(open_model(path))
    assert list(integrity.nonzero)[:3] == ["head", "0.i", "0.f"] and len(integrity.nonzero) == 6 * LAYERS + 1
    other = SmallHgrn()
    other.stored["model.lower_bounds"] = "F32", (LAYERS, HIDDEN), bytes(4 * LAYERS * HIDDEN)
    assert check_weights(open_model(other.write(folder / "other"))).sha256 != integrity.sha256


def test_both_halves_share_a_scale(folder: Path) -> None:
    """Gate and up projection, one matrix in the file, quantised apart."""
    checkpoint = load_checkpoint(SmallHgrn().write(folder / "hgrn"), HGRN)
    gate, up = checkpoint.tensors["0.gate"], checkpoint.tensors["0.up"]
    weights = SmallHgrn().weights["model.layers.0.mlp.gate_proj.weight"]
    assert gate.scale == up.scale == pytest.approx(np.abs(weights).mean(), rel=1e-6)
    both = np.concatenate([gate.integers, up.integers])
    assert np.array_equal(both, np.clip(np.rint(weights / np.abs(weights).mean()), -1, 1))
    assert checkpoint.shape.feed_forward == FEED and checkpoint.tensors["head"].planes == 1


@pytest.mark.parametrize(("hidden", "feed_forward"), [(1024, 2816), (2048, 5632), (2560, 6912)])
def test_size_of_the_feed_forward_follows_from_the_ratio(hidden: int, feed_forward: int) -> None:
    """The configurations of the published models, of 370M to 2.7B, leave it out."""
    published = CONFIG | {"hidden_size": hidden, "intermediate_size": None, "vocab_size": 32000}
    assert from_config(published).shape.feed_forward == feed_forward
    assert from_config(published | {"hidden_ratio": None}).shape.feed_forward == feed_forward
    assert from_config(published | {"hidden_ratio": 2.0}).shape.feed_forward < feed_forward


@pytest.mark.parametrize(("config", "message"), [
    ({"use_short_conv": True}, "'use_short_conv' is True (supported: False)"),
    ({"use_moe": 1}, "'use_moe' is 1 (supported: False)"),
    ({"expand_ratio": 2}, "expand_ratio is 2 (supported: 1)"),
    ({"attn_mode": "chunk"}, "attn_mode is 'chunk' (supported: 'fused_recurrent')"),
    ({"hidden_act": "relu2"}, "hidden_act is 'relu2' (supported: 'swish', 'silu')"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings is True (supported: False)"),
    ({"quantization_config": {"quant_method": "bitnet"}}, "quantization_config is {'quant_method': 'bitnet'}"),
    ({"use_lower_bound": False}, "tensors such as 'model.lower_bounds' have no part"),
    ({"use_lower_bound": None}, "use_lower_bound is None (supported: True, False)"),
    ({"hidden_ratio": "4", "intermediate_size": None}, "hidden_ratio must be a number above 0 and at most 64, got '4'"),
    ({"hidden_size": None, "intermediate_size": None}, "hidden_size is missing"),
    ({"hidden_size": "big", "intermediate_size": None}, "hidden_size must be an integer from 1"),
    ({"intermediate_size": 64}, "gate_proj.weight has shape [144, 48], the configuration asks for [128, 48]"),
])
def test_settings_that_cannot_run_are_named(tmp_path: Path, config: dict[str, object], message: str) -> None:
    """A variant compiled into the published model."""
    model = SmallHgrn()
    model.config |= config
    with pytest.raises(TritloomError) as refused:
        load_checkpoint(model.write(tmp_path / "m"), HGRN)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "tensor", "message"), [
    ("model.layers.1.attn.f_proj.norm.weight", None, "1.attn.f_proj.norm.weight is missing from the weights"),
    ("lm_head.norm.weight", None, "lm_head.norm.weight is missing from the weights"),
    ("model.layers.2.attn.g_proj.weight", None, "2.attn.g_proj.weight is missing from the weights"),
    ("model.lower_bounds", None, "is missing from the weights; the checkpoint is incomplete, or use_lower_bound"),
    ("model.lower_bounds", ("F32", (LAYERS, 4), bytes(16 * LAYERS)), "has shape [3, 4], the configuration asks for"),
    ("model.lower_bounds", ("F32", (LAYERS, HIDDEN), b"\xff" * 4 * LAYERS * HIDDEN), "no bounds that are finite"),
    ("model.lower_bounds", ("I32", (LAYERS, HIDDEN), bytes(4 * LAYERS * HIDDEN)), "no bounds that are finite"),
    ("lm_head.weight", ("I8", (512, HIDDEN), bytes(512 * HIDDEN)), "is I8, which holds no ternary weights"),
    ("lm_head.weight", ("F32", (512, HIDDEN), bytes(2048 * HIDDEN)), "lm_head.weight holds nothing but 0"),
    ("model.layers.0.attn.i_conv1d.weight", ("F32", (48, 4), bytes(768)), "'model.layers.0.attn.i_conv1d.weight' have"),
    ("model.layers.0.attn.i_proj.norm.weight", ("F32", (4,), bytes(12) + b"\0\0\0@"), "has 4 gains, the configuration"),
])
def test_tensors_that_cannot_run_are_named(tmp_path: Path, name: str, tensor: Stored | None, message: str) -> None:
    """A norm left out, a bound of another layer, or a head that is no matrix of trits."""
    model = SmallHgrn()
    if tensor is None:
        del model.stored[name]
    else:
        model.stored[name] = tensor
    with pytest.raises(TritloomError) as refused:
        load_checkpoint(model.write(tmp_path / "m"), HGRN)
    assert message in str(refused.value)


def test_bounds_that_leave_a_layer_nothing_are_refused(tmp_path: Path) -> None:
    """A division by the largest gain where that is zero."""
    model, bounds = SmallHgrn(), np.zeros((LAYERS, HIDDEN), "<f4")
    bounds[1:] = 200
    model.stored["model.lower_bounds"] = "F32", bounds.shape, bounds.tobytes()
    with pytest.raises(TritloomError, match="bounds forget gates so that a layer takes nothing in"):
        load_checkpoint(model.write(tmp_path / "m"), HGRN)


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configurations_refuse_it(tmp_path: Path, name: str) -> None:
    """A recurrence run by gateware without its sigmoid."""
    path = SmallHgrn().write(tmp_path / "m")
    with pytest.raises(TritloomError, match=f"by the recurrence hgrn, {name} by attention only; use"):
        load_checkpoint(path, CONFIGS[name])
    found = fit(open_model(path), "ulx3s", name)
    assert not found.fits and "use a configuration with has_recurrence" in found.refusal


def test_fit_sizes_the_whole_model(tmp_path: Path) -> None:
    """A KV cache for a model that has none, or states, bounds or half of a matrix forgotten."""
    found = fit(open_model(SmallHgrn().write(tmp_path / "m")), "ulx3s", "stream")
    needed = {limit.what: limit.needed_bytes for limit in found.limits}
    beats = 3 + LAYERS * 3 + 3 + 26     # of x, states, what several norms read, and logits, in 20 lanes
    assert needed["KV cache"] == 0 and needed["vector memory"] == beats * 20 * 18 // 8
    rows = LAYERS * (5 * 60 + 2 * 80) * 60 // 5 + LAYERS * 60 * 80 // 5 - LAYERS * 60 * 60 // 5 + 520 * 60 // 5
    assert found.stream_bytes == rows
    by_name = {tensor.name: tensor for tensor in found.placed}
    assert by_name["model.lower_bounds"].size_bytes == LAYERS * HIDDEN * 18 // 8


def test_published_model_is_sized_and_refused(tmp_path: Path) -> None:
    """A name or a key of the published checkpoint that is not known, or weights read although it is too large."""
    found = fit(open_model(write_mmfree_370m(tmp_path)), "ulx3s", "stream")
    # Rows and columns padded to 20: i, f, g, o; gate, up, down; head. Five trits in a byte.
    needed = (24 * (4 * 1040**2 + 3 * 2820 * 1040) + 32000 * 1040) // 5
    assert found.stream_bytes == needed == 69_655_040
    assert f"SDRAM needs {needed} bytes, {needed - (32 << 20)} more than there are" in found.refusal
    assert "no part" not in found.refusal and not open_model(tmp_path).objections
    with pytest.raises(TritloomError, match="the model needs [0-9]+ vector memory beats, hgrn has 128"):
        import_checkpoint(tmp_path, config=HGRN)


def test_single_file_and_shards_are_the_same(tmp_path: Path) -> None:
    """A shard with bounds or norms forgotten."""
    model = SmallHgrn()
    whole = load_checkpoint(model.write(tmp_path / "m"), HGRN)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "config.json").write_text(json.dumps(model.config))
    names = list(model.stored)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        write(tmp_path / "s" / file, safetensors_bytes({name: model.stored[name] for name in part}))
    weight_map = {name: file for file, part in shards.items() for name in part}
    (tmp_path / "s" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sharded = load_checkpoint(tmp_path / "s", HGRN)
    assert sharded.shape == whole.shape and set(sharded.gains) == set(whole.gains)
    assert all(np.array_equal(sharded.tensors[key].integers, whole.tensors[key].integers) for key in whole.tensors)
