"""Published kinds of models, from their files to the tokens of the simulated SoC."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from host.checkpoint import Shape, synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.importer import load_checkpoint
from host.predict import Supply
from rtl.config import LLAMA, TINY
from rtl.isa import Opcode, VectorFn
from sim.golden import Golden
from sim.reference import Reference
from tests.containers import Stored, gguf_bytes, write
from tests.small_models import FEED, HEAD_DIM, HEADS, HIDDEN, KINDS, LAYERS, SMALL, SmallModel, small_model_image
from tests.test_golden import golden_logits
from tests.test_importer import assert_equal
from tests.test_planes import divergence
from tests.test_soc import run

TOKENS = np.random.default_rng(7).integers(0, 512, 40)
# Nats. Ternary models differ by the fixed-point arithmetic, others by four trit planes instead of bf16 as well.
DIVERGENCE = {"bitnet": 0.01, "bitnet_2b4t": 0.01, "llama": 0.02}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("kind", KINDS)
def test_golden_model_computes_what_was_published(folder: Path, kind: str) -> None:
    """Any convention misread: pairs, gains, sub-norms, activation, ties, the scale of trits."""
    model = SmallModel(kind)
    golden = golden_logits(Golden(small_model_image(kind, folder)), TOKENS.tolist())
    assert divergence(model.logits(TOKENS), golden) < DIVERGENCE[kind]
    assert divergence(model.logits(TOKENS), np.roll(golden, 1, axis=0)) > 20 * DIVERGENCE[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_reference_agrees_with_the_golden_model(folder: Path, kind: str) -> None:
    """The reference, which judges quality, or the golden model wrong in the same layer."""
    golden = golden_logits(Golden(small_model_image(kind, folder)), TOKENS.tolist())
    checkpoint = load_checkpoint(SmallModel(kind).write(folder / kind), SMALL)
    assert divergence(Reference(checkpoint).logits(TOKENS), golden) < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_soc_equals_golden(folder: Path, tmp_path: Path, kind: str) -> None:
    """Any value or cycle of products, gains, SiLU or planes that gateware and golden model disagree on."""
    image = small_model_image(kind, folder)
    fns = {op.fn for op in image.program if op.opcode == Opcode.VECTOR}
    assert VectorFn.PRODUCT in fns and (VectorFn.SILU in fns) == (KINDS[kind].config["hidden_act"] == "silu")
    run(image, tmp_path, f"soc_{kind}", prompt=[1, 300], count=8)


def test_words_of_several_beats_and_planes_from_sdram() -> None:
    """Heads of a word that is not full, or planes of a stream, taken in another order than they are packed."""
    shape = Shape(hidden=40, feed_forward=88, layers=2, heads=6, kv_heads=3, head_dim=8, vocab=128, context=512,
                  embed_planes=5, head_planes=5, activation="silu")
    checkpoint = synthetic_checkpoint(shape, planes=4)
    image = compile_checkpoint(checkpoint, LLAMA)
    golden = golden_logits(Golden(image), (TOKENS % 128).tolist())
    assert divergence(Reference(checkpoint).logits(TOKENS % 128), golden) < 0.005
    # A queue that empties a little with each token does not make the bus faster.
    assert image.predicted_cycles(2) >= image.stream_words / Supply.RATE


def test_gguf_and_safetensors_of_one_model_are_the_same(folder: Path, tmp_path: Path) -> None:
    """Queries permuted once more after the converter of a llama has, or gains that GGUF spells otherwise missed."""
    model = SmallModel("llama")
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm"}
    tensors: dict[str, Stored] = {}
    for name, weights in model.weights.items():
        layer, part = name.removeprefix("model.layers.").partition(".")[::2] if "layers" in name else ("", name)
        if part.endswith(("q_proj", "k_proj")):
            # What convert_hf_to_gguf does to a llama.
            weights = weights.reshape(HEADS, 2, HEAD_DIM // 2, -1).swapaxes(1, 2).reshape(weights.shape)
        gguf_name = f"blk.{layer}.{names[part]}.weight" if layer else f"{names[part]}.weight"
        tensors[gguf_name] = "F32", weights.shape, weights.astype("<f4").tobytes()
    sizes = {"embedding_length": HIDDEN, "feed_forward_length": FEED, "block_count": LAYERS, "context_length": 64,
             "attention.head_count": HEADS, "attention.key_length": HEAD_DIM}
    metadata = {"general.architecture": "llama"} | {f"llama.{key}": ("u32", size) for key, size in sizes.items()}
    path = write(tmp_path / "m.gguf", gguf_bytes(metadata, tensors))
    assert_equal(load_checkpoint(path, SMALL), load_checkpoint(model.write(folder / "llama"), SMALL))


def test_silu_needs_its_gateware(folder: Path) -> None:
    """A model of SiLU run with the square of ReLU."""
    path = SmallModel("llama").write(folder / "llama")
    with pytest.raises(TritloomError, match="the model gates by silu, tiny by relu2 only; use"):
        load_checkpoint(path, TINY)
    assert load_checkpoint(path, replace(TINY, has_silu=True)).shape.activation == "silu"
