"""The published checkpoints that write stories: layout, ranges, the agreement of their papers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from host.packing import has_one_zero_in_four
from host.tiler import to_planes
from host.tokenizer import BOS
from models.training.data import Tokenizer

MODELS = Path(__file__).resolve().parents[1] / "models"


@dataclass(frozen=True)
class Published:
    """The files of a checkpoint."""

    folder: Path
    config: dict[str, Any]
    record: dict[str, Any]
    card: str
    tensors: dict[str, np.ndarray]

    @staticmethod
    @cache
    def read(name: str) -> Published:
        """The files in a folder of models/."""
        folder = MODELS / name
        return Published(folder, json.loads((folder / "config.json").read_text()),
                         json.loads((folder / "loss_curve.json").read_text()), (folder / "README.md").read_text(),
                         load_file(folder / "model.safetensors"))

    def codes(self, name: str) -> np.ndarray:
        """The 2-bit codes of a packed tensor: uint8 [out, in]."""
        return np.concatenate([self.tensors[name] >> shift & 3 for shift in (0, 2, 4, 6)])


def packed(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Rows and columns of every projection."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    groups = config.get("feed_forward_groups", [1] * layers)
    windows = config.get("attention_windows", [config["max_position_embeddings"]] * layers)
    query, key = (config[heads] * config["head_dim"] for heads in ("num_attention_heads", "num_key_value_heads"))
    attention = {"q": (query, hidden), "k": (key, hidden), "v": (key, hidden), "o": (hidden, query)}
    found = {}
    for layer in range(layers):
        feed = config["intermediate_size"] * groups[layer] // max(groups)
        feed_forward = {"gate": (feed, hidden), "up": (feed, hidden), "down": (hidden, feed)}
        parts = {"self_attn": attention if windows[layer] else {}, "mlp": feed_forward if feed else {}}
        found |= {f"model.layers.{layer}.{part}.{name}_proj.weight": shape
                  for part, shapes in parts.items() for name, shape in shapes.items()}
    return found


DENSE, SPARSE, POCKET = "stories1m", "stories1m-sparse", "stories150k"
PLANES = {"model.embed_tokens.weight": 13, "lm_head.weight": 4}
PACKED = [(model, name) for model in (DENSE, SPARSE, POCKET) for name in packed(Published.read(model).config)]


@pytest.fixture(params=[DENSE, SPARSE, POCKET])
def published(request: pytest.FixtureRequest) -> Published:
    return Published.read(request.param)


def test_the_file_holds_exactly_the_tensors_of_the_shape(published: Published) -> None:
    """A missing scale or a leftover tensor would be silently ignored by an importer."""
    weights = [*packed(published.config), *PLANES]
    assert set(published.tensors) == {*weights, *(f"{name}_scale" for name in weights)}


@pytest.mark.parametrize(("model", "name"), PACKED)
def test_packed_trits_have_the_shape_of_the_configuration_and_no_fourth_code(model: str, name: str) -> None:
    """Code 3 is no trit: it appears when rows are packed from a wrong quarter or a wrong sign."""
    published = Published.read(model)
    rows, columns = packed(published.config)[name]
    assert published.tensors[name].dtype == np.uint8
    assert published.tensors[name].shape == (rows // 4, columns)
    assert published.codes(name).max() <= 2


@pytest.mark.parametrize(("model", "name"), PACKED)
def test_trits_use_all_three_values_in_the_proportion_of_absmean(model: str, name: str) -> None:
    """Absmean leaves a third to two thirds of the weights at zero; a collapsed tensor does not."""
    trits = Published.read(model).codes(name).astype(int) - 1
    assert 0.3 < np.mean(trits != 0) < 0.9
    assert abs(trits.mean()) < 0.2


@pytest.mark.parametrize("name", PLANES)
def test_plane_integers_fill_their_range_and_no_more(published: Published, name: str) -> None:
    """Three planes reach 13 and two reach 4; a wrong step shows as clipping or unused planes."""
    values = published.tensors[name]
    assert values.dtype == np.int8
    assert values.shape == (published.config["vocab_size"], published.config["hidden_size"])
    assert np.abs(values).max() == PLANES[name]
    # A sparse group has two weights that are 2 or 4, so the largest is more frequent there.
    assert np.mean(np.abs(values) == PLANES[name]) < (0.2 if published.config.get("weight_sparsity") else 0.15)


def test_scales_are_single_positive_floats(published: Published) -> None:
    """The format has one scale per tensor, multiplied onto the integer product."""
    for name in (*packed(published.config), *PLANES):
        scale = published.tensors[f"{name}_scale"]
        assert scale.dtype == np.float32, name
        assert scale.shape == (1,), name
        assert np.isfinite(scale[0]) and scale[0] > 0, name


def test_configuration_declares_the_bitnet_layout(published: Published) -> None:
    """Scales are multiplied only under linear_class autobitlinear; another class divides."""
    assert published.config["architectures"] == ["TritloomForCausalLM"]
    assert published.config["quantization_config"] == {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
    }
    assert (published.config["embed_planes"], published.config["head_planes"]) == (3, 2)
    assert published.config["num_attention_heads"] % published.config["num_key_value_heads"] == 0


def test_tokenizer_has_the_vocabulary_and_reproduces_text(published: Published) -> None:
    """The tokenizer beside the weights must be the one that they were trained with."""
    tokenizer = Tokenizer(published.folder / "tokenizer.bin")
    text = 'Once upon a time, there was a café.\nTom said, "Hi!"'
    tokens = tokenizer.encode(text)
    assert len(tokenizer.pieces) == published.config["vocab_size"]
    assert tokens[:5] == [BOS, *tokenizer.encode("Once upon a time")[1:5]]
    assert max(tokens) < published.config["vocab_size"]
    assert tokenizer.decode(tokens) == text


def test_card_states_the_recorded_losses(published: Published) -> None:
    """A card left over from another checkpoint would quote other numbers."""
    quoted = re.findall(r"^\| stories[\w-]+ .*\| (\d\.\d{4}) \|$", published.card, re.MULTILINE)
    held_out = published.record["held_out"]
    assert quoted == [f"{held_out['student_nats_per_token']:.4f}", f"{held_out['teacher_nats_per_token']:.4f}"]


def test_record_describes_a_finished_run(published: Published) -> None:
    """The curve must reach the last step, and the model must have learned in it."""
    curve = published.record["curve"]
    assert curve[-1]["step"] == published.record["steps_done"]
    # The first point of a run that starts from a trained model is as good as that model.
    assert curve[-1]["held_out"] < (1.0 if published.record["options"]["start"] else 0.7) * curve[0]["held_out"]
    assert abs(curve[-1]["held_out"] - published.record["held_out"]["student_nats_per_token"]) < 0.15
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in published.record["sha256"].values())


def test_the_sparse_model_has_one_zero_in_four_weights() -> None:
    """Weights that no code of four holds."""
    sparse = Published.read(SPARSE)
    assert sparse.config["weight_sparsity"] == "3:4"
    for name in packed(sparse.config):
        assert has_one_zero_in_four(sparse.codes(name).astype(np.int8) - 1), name
    for plane in to_planes(sparse.tensors["lm_head.weight"], 2):
        assert has_one_zero_in_four(plane)
