"""Small random models of Hugging Face transformers, drawn by seed and saved by it, and what it computes of them."""

import os
from dataclasses import dataclass, replace
from math import ceil, lcm
from pathlib import Path

import numpy as np

# Before torch is imported, whose compiler takes longer than models that run in milliseconds.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch
from transformers import AutoModelForCausalLM, BitNetConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel
from transformers.integrations.bitnet import WeightQuant, pack_weights
from transformers.utils import logging

from host.checkpoint import Checkpoint
from rtl.config import LLAMA, Config
from tests.test_importer import PARTS

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)

LENGTH = 256
SPREAD = 2.5            # of logits, in nats: a model that has learned something; those of a fresh one are all alike
HEAD_DIMS = (4, 6, 8, 10, 12, 14, 18, 20)
WIDE_HEAD_DIMS = (16, 32, 64)
WIDE = 256              # elements of a block of TQ1_0 and TQ2_0
PACKED_ROWS = 4         # of a byte


@dataclass(frozen=True)
class Kind:
    """A class of models and how transformers stores its projections.

    Parameters
    ----------
    config : class of its configuration.
    linear_class : of quantised layers, which multiply with a scale (``autobitlinear``) or divide by it (``bitlinear``);
        None: projections are ordinary floats.
    mode : ``online`` stores master weights, ``offline`` trits and a scale.
    packed : whether trits are stored four in a byte, else as floats.
    """

    config: type[PreTrainedConfig]
    linear_class: str | None = None
    mode: str = "offline"
    packed: bool = False

    @property
    def is_bitnet(self) -> bool:
        return self.config is BitNetConfig


KINDS = {
    "bitnet_master": Kind(BitNetConfig, "autobitlinear", "online"),
    "bitnet_trits": Kind(BitNetConfig, "autobitlinear"),
    "bitnet_packed": Kind(BitNetConfig, "autobitlinear", packed=True),
    "bitnet_dividing": Kind(BitNetConfig, "bitlinear", packed=True),
    "llama_dividing": Kind(LlamaConfig, "bitlinear", packed=True),
    "llama": Kind(LlamaConfig),
}
ORDER = (*KINDS, "llama")   # by seed


class Drawn:
    """A model drawn by seed.

    Its weights are bf16 numbers, as published ones are: a bf16 run need not round them.

    Parameters
    ----------
    seed : of everything random.
    wide : hidden size and feed-forward fill blocks of 256, as TQ1_0 and TQ2_0 need.

    Members
    -------
    name, kind : what it is.
    sizes : arguments of its configuration.
    dtype : of floats where it is published.
    tokens : int64 [LENGTH].
    stored : tensors as its file has them.
    weights : the same with projections as they are multiplied with, trits times their scale.
    """

    def __init__(self, seed: int, *, wide: bool = False) -> None:
        self.name = ORDER[seed % len(ORDER)]
        self.kind, self._wide = KINDS[self.name], wide
        self.dtype = (torch.float32, torch.bfloat16)[seed // len(ORDER) % 2]
        self._rng = np.random.default_rng(seed)
        self.sizes = self._sizes()
        self.tokens = self._rng.integers(0, self.sizes["vocab_size"], LENGTH)
        self.stored: dict[str, torch.Tensor] = {}
        self.weights: dict[str, torch.Tensor] = {}
        for name, like in self._model(self.sizes).state_dict().items():
            if not (self.sizes["tie_word_embeddings"] and name.startswith("lm_head")):
                self._draw(name, tuple(like.shape))

    def write(self, folder: Path) -> Path:
        """The model as it would be published."""
        stored = {name: tensor.to(self.dtype) if tensor.is_floating_point() else tensor
                  for name, tensor in self.stored.items()}
        return self._save(folder, stored, self.sizes, is_quantised=self.kind.linear_class is not None)

    def write_floats(self, folder: Path) -> Path:
        """The same weights in layers that do not round activations to int8."""
        return self._save(folder, self.weights, self.sizes, is_quantised=False)

    def write_imported(self, folder: Path, checkpoint: Checkpoint) -> Path:
        """The model with what its import made of floats: embedding, head and, if they were floats, projections."""
        real = {name: torch.from_numpy(tensor.integers * np.float32(tensor.scale))
                for name, tensor in checkpoint.tensors.items()}
        tensors = self.stored | {"model.embed_tokens.weight": real["embed"], "lm_head.weight": real["head"]}
        # Gains that became part of a matrix.
        absorbed = ["model.norm"] if "head" not in checkpoint.gains else []
        for layer in range(self.sizes["num_hidden_layers"] if self.name == "llama" else 0):
            at = f"model.layers.{layer}"
            for part, name in PARTS.items():
                rows = real[f"{layer}.{part}"]
                if part in "qk":
                    rows = rows.unflatten(0, (-1, self.sizes["head_dim"] // 2, 2)).transpose(1, 2).flatten(0, 2)
                tensors[f"{at}.{name}.weight"] = rows
            absorbed += [f"{at}.input_layernorm", f"{at}.post_attention_layernorm"]
        tensors |= {f"{name}.weight": torch.ones(self.sizes["hidden_size"]) for name in absorbed}
        sizes = self.sizes | {"tie_word_embeddings": False}
        return self._save(folder, tensors, sizes, is_quantised=self.kind.linear_class is not None)

    def accelerator(self) -> Config:
        """One with room for the model."""
        s, head_dim = self.sizes, self.sizes["head_dim"]
        lanes = max(1, 16 // head_dim) * head_dim
        return replace(LLAMA, name=self.name, lanes=lanes, head_dim=head_dim, word_beats=1, table_blocks=32,
                       query_groups=s["num_attention_heads"] // s["num_key_value_heads"], context=LENGTH, kv_slots=16,
                       vocab=s["vocab_size"], embed_beats=ceil(s["hidden_size"] / lanes), vector_depth=248,
                       activation_depth=128, sampler_lanes=2, gain_rows=64, program_depth=2048)

    def _model(self, sizes: dict[str, object]) -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(self.kind.config(**sizes))

    def _sizes(self) -> dict[str, object]:
        """BitNet has a norm that fits all heads together and the residual stream: these are of one width."""
        rng, unit = self._rng, PACKED_ROWS if self.kind.packed else 1
        while True:
            head_dim = int(rng.choice(WIDE_HEAD_DIMS if self._wide else HEAD_DIMS))
            kv_heads, groups = (int(n) for n in rng.integers(1, 9 if self._wide else 4, 2))
            heads = kv_heads * groups
            step = lcm(heads, unit)
            together = heads * head_dim
            is_free = not (self.kind.is_bitnet or self._wide)
            hidden = int(rng.integers(48, 128)) // step * step if is_free else together
            is_whole = not any(n % unit for n in (hidden, together, kv_heads * head_dim))
            if is_whole and (hidden == WIDE if self._wide else 40 < hidden < 140):
                break
        feed = 2 * WIDE if self._wide else int(rng.integers(80, 220)) // unit * unit
        base = float(np.rint(10 ** rng.uniform(3.5, 6)))
        return {"vocab_size": int(rng.integers(150, 450)), "hidden_size": hidden, "intermediate_size": feed,
                "num_hidden_layers": int(rng.integers(1, 4)), "num_attention_heads": heads,
                "num_key_value_heads": kv_heads, "head_dim": head_dim, "max_position_embeddings": LENGTH,
                "tie_word_embeddings": bool(rng.integers(2)), "rms_norm_eps": float(rng.choice([1e-5, 1e-6])),
                "rope_parameters": {"rope_type": "default", "rope_theta": base},
                "bos_token_id": None, "eos_token_id": None}

    def _draw(self, name: str, shape: tuple[int, ...]) -> None:
        if "norm" in name:
            weights = self._rng.uniform(0.5, 1.5, shape)
        else:
            is_projection = "_proj" in name
            weights = self._rng.normal(0, (1.5 if is_projection else SPREAD) / shape[1] ** 0.5, shape)
            if is_projection and self.kind.linear_class:
                self._draw_ternary(name, bf16(torch.from_numpy(weights)))
                return
        self.stored[name] = self.weights[name] = bf16(torch.from_numpy(weights))

    def _draw_ternary(self, name: str, master: torch.Tensor) -> None:
        real = WeightQuant.apply(master)
        if self.kind.mode == "online":
            self.stored[name], self.weights[name] = master, real
            return
        trits, scale = real.sign(), bf16(real.max().reshape(1))
        if self.kind.linear_class == "bitlinear":
            scale = bf16(1 / scale)
        self.weights[name] = trits / scale if self.kind.linear_class == "bitlinear" else trits * scale
        self.stored[name] = pack_weights(trits) if self.kind.packed else trits
        self.stored[f"{name}_scale"] = scale

    def _save(self, folder: Path, tensors: dict[str, torch.Tensor], sizes: dict[str, object], *,
              is_quantised: bool) -> Path:
        model = self._model(sizes)
        if is_quantised:
            model.config.quantization_config = {"quant_method": "bitnet", "linear_class": self.kind.linear_class,
                                                "quantization_mode": self.kind.mode}
        model.save_pretrained(folder, state_dict={name: tensor.contiguous() for name, tensor in tensors.items()})
        return folder


def bf16(values: torch.Tensor) -> torch.Tensor:
    """The nearest bf16 numbers, as float32."""
    return values.bfloat16().float()


def run(folder: Path, tokens: np.ndarray, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """float64 logits [..., T, vocab] of int64 [..., T] by transformers, which reads the folder without a complaint."""
    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(found.values()), found
    with torch.no_grad():
        # Scales are buffers, which loading leaves as they are stored.
        logits = model.to(dtype)(torch.from_numpy(np.atleast_2d(tokens))).logits
    return logits.double().numpy().reshape(*tokens.shape, -1)
