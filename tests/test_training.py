"""The published checkpoint models/stories1m: layout, ranges and the agreement of its papers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from models.training.data import BOS, Tokenizer

MODEL = Path(__file__).resolve().parents[1] / "models" / "stories1m"
CONFIG = json.loads((MODEL / "config.json").read_text())
RECORD = json.loads((MODEL / "loss_curve.json").read_text())
CARD = (MODEL / "README.md").read_text()
TENSORS = load_file(MODEL / "model.safetensors")

HIDDEN, FF = CONFIG["hidden_size"], CONFIG["intermediate_size"]
QUERY = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
KEY = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
PROJECTIONS = {
    "self_attn.q_proj": (QUERY, HIDDEN),
    "self_attn.k_proj": (KEY, HIDDEN),
    "self_attn.v_proj": (KEY, HIDDEN),
    "self_attn.o_proj": (HIDDEN, QUERY),
    "mlp.gate_proj": (FF, HIDDEN),
    "mlp.up_proj": (FF, HIDDEN),
    "mlp.down_proj": (HIDDEN, FF),
}
LAYERS = range(CONFIG["num_hidden_layers"])
PACKED = {f"model.layers.{layer}.{name}.weight": shape for layer in LAYERS for name, shape in PROJECTIONS.items()}
PLANES = {"model.embed_tokens.weight": 13, "lm_head.weight": 4}


def codes(name: str) -> np.ndarray:
    """The 2-bit codes of a packed tensor: uint8 [out, in]."""
    return np.concatenate([TENSORS[name] >> shift & 3 for shift in (0, 2, 4, 6)])


def test_the_file_holds_exactly_the_tensors_of_the_shape() -> None:
    """A missing scale or a leftover tensor would be silently ignored by an importer."""
    weights = [*PACKED, *PLANES]
    assert set(TENSORS) == {*weights, *(f"{name}_scale" for name in weights)}


@pytest.mark.parametrize("name", PACKED)
def test_packed_trits_have_the_shape_of_the_configuration_and_no_fourth_code(name: str) -> None:
    """Code 3 is no trit: it appears when rows are packed from a wrong quarter or a wrong sign."""
    rows, columns = PACKED[name]
    assert TENSORS[name].dtype == np.uint8
    assert TENSORS[name].shape == (rows // 4, columns)
    assert codes(name).max() <= 2


@pytest.mark.parametrize("name", PACKED)
def test_trits_use_all_three_values_in_the_proportion_of_absmean(name: str) -> None:
    """Absmean leaves a third to two thirds of the weights at zero; a collapsed tensor does not."""
    trits = codes(name).astype(int) - 1
    assert 0.3 < np.mean(trits != 0) < 0.9
    assert abs(trits.mean()) < 0.2


@pytest.mark.parametrize("name", PLANES)
def test_plane_integers_fill_their_range_and_no_more(name: str) -> None:
    """Three planes reach 13 and two reach 4; a wrong step shows as clipping or unused planes."""
    values = TENSORS[name]
    assert values.dtype == np.int8
    assert values.shape == (CONFIG["vocab_size"], HIDDEN)
    assert np.abs(values).max() == PLANES[name]
    assert np.mean(np.abs(values) == PLANES[name]) < 0.15


@pytest.mark.parametrize("name", [*PACKED, *PLANES])
def test_scales_are_single_positive_floats(name: str) -> None:
    """The format has one scale per tensor, multiplied onto the integer product."""
    scale = TENSORS[f"{name}_scale"]
    assert scale.dtype == np.float32
    assert scale.shape == (1,)
    assert np.isfinite(scale[0]) and scale[0] > 0


def test_configuration_declares_the_bitnet_layout() -> None:
    """Scales are multiplied only under linear_class autobitlinear; another class divides."""
    assert CONFIG["architectures"] == ["TritloomForCausalLM"]
    assert CONFIG["quantization_config"] == {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
    }
    assert (CONFIG["embed_planes"], CONFIG["head_planes"]) == (3, 2)
    assert CONFIG["num_attention_heads"] % CONFIG["num_key_value_heads"] == 0


def test_tokenizer_has_the_vocabulary_and_reproduces_text() -> None:
    """The tokenizer beside the weights must be the one that they were trained with."""
    tokenizer = Tokenizer(MODEL / "tokenizer.bin")
    text = 'Once upon a time, there was a café.\nTom said, "Hi!"'
    tokens = tokenizer.encode(text)
    assert len(tokenizer.pieces) == CONFIG["vocab_size"]
    assert tokens[:5] == [BOS, *tokenizer.encode("Once upon a time")[1:5]]
    assert max(tokens) < CONFIG["vocab_size"]
    assert tokenizer.decode(tokens) == text


def test_card_states_the_recorded_losses() -> None:
    """A card left over from another checkpoint would quote other numbers."""
    quoted = re.findall(r"^\| stories\w+ .*\| (\d\.\d{4}) \|$", CARD, re.MULTILINE)
    held_out = RECORD["held_out"]
    assert quoted == [f"{held_out['student_nats_per_token']:.4f}", f"{held_out['teacher_nats_per_token']:.4f}"]


def test_record_describes_a_finished_run() -> None:
    """The curve must reach the last step, and the model must have learned in it."""
    curve = RECORD["curve"]
    assert curve[-1]["step"] == RECORD["steps_done"]
    # A run that starts from a trained model has less left to learn.
    assert curve[-1]["held_out"] < (0.9 if RECORD["options"]["start"] else 0.7) * curve[0]["held_out"]
    assert abs(curve[-1]["held_out"] - RECORD["held_out"]["student_nats_per_token"]) < 0.15
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in RECORD["sha256"].values())
