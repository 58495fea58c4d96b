"""Small random models of published kinds, in the files they would come in, and their mathematics in floats.

The mathematics is written from the publications and from nothing that the importer or the compiler contains.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from host.compiler import compile_checkpoint
from host.image import Image
from host.importer import load_checkpoint
from rtl.config import TINY
from tests.containers import Stored, write_model

# What all of them need: wide planes for floats, rows for gains, and SiLU.
SMALL = replace(TINY, name="small", weight_planes=5, weight_depth=1024, embed_planes=5, gain_rows=32, has_silu=True)
HIDDEN, FEED, LAYERS, HEADS, HEAD_DIM, VOCAB = 24, 48, 2, 2, 4, 512
WIDTHS = {"self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN), "self_attn.k_proj": (HEADS * HEAD_DIM, HIDDEN),
          "self_attn.v_proj": (HEADS * HEAD_DIM, HIDDEN), "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
          "mlp.gate_proj": (FEED, HIDDEN), "mlp.up_proj": (FEED, HIDDEN), "mlp.down_proj": (HIDDEN, FEED)}
COMMON = {"hidden_size": HIDDEN, "intermediate_size": FEED, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
          "num_key_value_heads": HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB, "max_position_embeddings": 64,
          "rms_norm_eps": 1e-5, "rope_theta": 10000.0}


@dataclass(frozen=True)
class Kind:
    """What sets a kind of model apart.

    Parameters
    ----------
    config : of config.json, besides dimensions.
    form : of projections: ``packed`` trits, ``master`` weights, or ``floats``.
    sub_norms : names of the norms before output and down projection, or none.
    """

    config: dict[str, object]
    form: str
    sub_norms: tuple[str, ...] = ()


KINDS = {
    "bitnet": Kind(
        {"architectures": ["BitnetForCausalLM"], "hidden_act": "silu", "tie_word_embeddings": True}, "master",
        ("self_attn.inner_attn_ln", "mlp.ffn_layernorm")),
    "bitnet_2b4t": Kind(
        {"architectures": ["BitNetForCausalLM"], "hidden_act": "relu2", "tie_word_embeddings": True,
         "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"}}, "packed",
        ("self_attn.attn_sub_norm", "mlp.ffn_sub_norm")),
    "llama": Kind(
        {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "tie_word_embeddings": False}, "floats"),
}


class SmallModel:
    """A random model of a kind.

    Members
    -------
    stored : its tensors as its file has them.
    weights : their values in float64, trits with their scale.
    """

    def __init__(self, kind: str, *, seed: int = 0) -> None:
        self.kind = KINDS[kind]
        self.config = COMMON | self.kind.config
        self.stored: dict[str, Stored] = {}
        self.weights: dict[str, np.ndarray] = {}
        self._rng = np.random.default_rng(seed)
        self._floats("model.embed_tokens", (VOCAB, HIDDEN), 0.3)
        if not self.config["tie_word_embeddings"]:
            self._floats("lm_head", (VOCAB, HIDDEN), 0.3)
        for layer in range(LAYERS):
            for name, size in WIDTHS.items():
                add = self._packed if self.kind.form == "packed" else self._floats
                add(f"model.layers.{layer}.{name}", size, size[1] ** -0.5)
            for name, size in zip(("input_layernorm", "post_attention_layernorm", *self.kind.sub_norms),
                                  (HIDDEN, HIDDEN, HEADS * HEAD_DIM, FEED), strict=False):
                self._gains(f"model.layers.{layer}.{name}", size)
        self._gains("model.norm", HIDDEN)

    def _store(self, name: str, values: np.ndarray) -> None:
        """As bf16, which rounds them."""
        bits = values.astype(np.float32).view(np.uint32) >> 16
        self.stored[f"{name}.weight"] = "BF16", values.shape, bits.astype("<u2").tobytes()
        self.weights[name] = (bits << 16).view(np.float32).astype(np.float64)

    def _floats(self, name: str, size: tuple[int, int], spread: float) -> None:
        self._store(name, self._rng.normal(0, spread, size))

    def _gains(self, name: str, size: int) -> None:
        self._store(name, self._rng.uniform(0.3, 2, size))

    def _packed(self, name: str, size: tuple[int, int], spread: float) -> None:
        trits = self._rng.integers(-1, 2, size)
        codes = (trits + 1).astype(np.uint8).reshape(4, -1, size[1])
        packed = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
        scale = np.float32(spread)
        self.stored[f"{name}.weight"] = "U8", packed.shape, packed.tobytes()
        self.stored[f"{name}.weight_scale"] = "F32", (1,), scale.tobytes()
        self.weights[name] = trits * float(scale)

    def write(self, folder: Path) -> Path:
        """Its config.json and weights."""
        return write_model(folder, self.config, self.stored)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """float64 [T, vocab] of int [T]: a Hugging Face Llama with the kind's layers."""
        x = self.weights["model.embed_tokens"][tokens]
        for layer in range(LAYERS):
            at = f"model.layers.{layer}"
            x = x + self._attention(at, self._norm(x, f"{at}.input_layernorm"))
            a = self._norm(x, f"{at}.post_attention_layernorm")
            gate, up = (self._linear(f"{at}.mlp.{name}_proj", a) for name in ("gate", "up"))
            gate = np.maximum(gate, 0) ** 2 if self.config["hidden_act"] == "relu2" else gate / (1 + np.exp(-gate))
            x = x + self._linear(f"{at}.mlp.down_proj", self._sub_norm(at, 1, gate * up))
        head = "model.embed_tokens" if self.config["tie_word_embeddings"] else "lm_head"
        return self._norm(x, "model.norm") @ self.weights[head].T

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * self.weights[name]

    def _sub_norm(self, at: str, index: int, x: np.ndarray) -> np.ndarray:
        return self._norm(x, f"{at}.{self.kind.sub_norms[index]}") if self.kind.sub_norms else x

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        weights = self.weights[name]
        if self.kind.form == "floats":
            return x @ weights.T
        if self.kind.form == "master":
            mean = np.abs(weights).mean()
            weights = np.clip(np.rint(weights / mean), -1, 1) * mean
        peak = np.abs(x).max(-1, keepdims=True)
        return np.rint(x * 127 / peak) * peak / 127 @ weights.T

    def _attention(self, at: str, a: np.ndarray) -> np.ndarray:
        q, k, v = (self._linear(f"{at}.self_attn.{name}_proj", a).reshape(-1, HEADS, HEAD_DIM) for name in "qkv")
        angle = np.arange(len(a))[:, None, None] * 10000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        cosine, sine = np.tile(np.cos(angle), 2), np.tile(np.sin(angle), 2)
        q, k = (x * cosine + np.concatenate([-x[..., HEAD_DIM // 2 :], x[..., : HEAD_DIM // 2]], -1) * sine
                for x in (q, k))
        scores = np.einsum("thd,uhd->htu", q, k) / HEAD_DIM**0.5
        scores = np.exp(np.where(np.tri(len(a), dtype=bool), scores, -np.inf))
        out = np.einsum("htu,uhd->thd", scores / scores.sum(-1, keepdims=True), v).reshape(len(a), -1)
        return self._linear(f"{at}.self_attn.o_proj", self._sub_norm(at, 0, out))


@cache
def small_model_image(kind: str, folder: Path) -> Image:
    """The image of a random model of a kind for `SMALL`, by way of its files."""
    return compile_checkpoint(load_checkpoint(SmallModel(kind).write(folder / kind), SMALL), SMALL)
