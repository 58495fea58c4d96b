"""Export of a student to the published layout: safetensors with packed trits, and its configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from host.architecture import SPARSITY
from models.training.data import Tokenizer, Vocabulary
from models.training.quantisers import QuantisedWeight
from models.training.student import Student, StudentConfig

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
RESIDUAL_FRACTION = 9      # decay keeps the stream within tens; 18 bits hold +-256 with nine fraction bits


def pack_trits(trits: np.ndarray) -> np.ndarray:
    """Four rows per byte: trits [out, in] in -1..1 -> uint8 [out/4, in], P[r] = sum u[i*out/4 + r] << 2i."""
    quarter = trits.shape[0] // 4
    codes = (trits + 1).astype(np.uint8).reshape(4, quarter, trits.shape[1])
    return codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6


def unpack_trits(packed: np.ndarray) -> np.ndarray:
    """Inverse of ``pack_trits``: uint8 [out/4, in] -> int8 [out, in]."""
    return np.concatenate([(packed >> shift & 3).astype(np.int8) - 1 for shift in (0, 2, 4, 6)])


def weights_by_name(model: Student) -> dict[str, QuantisedWeight]:
    """The quantised weights of a student by published tensor name."""
    named = {"model.embed_tokens.weight": model.embed, "lm_head.weight": model.head}
    for index, block in enumerate(model.blocks):
        for group, projections, has in (("self_attn", ATTENTION, block.window), ("mlp", FEED_FORWARD, block.groups)):
            for projection in projections if has else ():
                named[f"model.layers.{index}.{group}.{projection}.weight"] = getattr(block, projection)
    return named


@torch.no_grad()
def tensors(model: Student) -> dict[str, np.ndarray]:
    """All published tensors: int8 planes, packed trits and float32 scales."""
    out: dict[str, np.ndarray] = {}
    for name, weight in weights_by_name(model).items():
        integers, step = weight()
        values = integers.round().to(torch.int8).cpu().numpy()
        out[name] = pack_trits(values) if weight.limit == 1 else values
        out[f"{name}_scale"] = np.array([step.item()], dtype=np.float32)
    return out


def published_config(directory: Path) -> StudentConfig:
    """The shape of an exported student."""
    published = json.loads((directory / "config.json").read_text())
    return StudentConfig(
        vocab_size=published["vocab_size"],
        hidden_size=published["hidden_size"],
        intermediate_size=published["intermediate_size"],
        num_layers=published["num_hidden_layers"],
        num_heads=published["num_attention_heads"],
        num_kv_heads=published["num_key_value_heads"],
        head_dim=published["head_dim"],
        context=published["max_position_embeddings"],
        rope_theta=published["rope_theta"],
        norm_eps=published["rms_norm_eps"],
        parallel_residual=published.get("use_parallel_residual", False),
        sparse=published.get("weight_sparsity") == SPARSITY,
        feed_groups=tuple(published.get("feed_forward_groups", ())),
        attention_windows=tuple(published.get("attention_windows", ())),
    )


def load(directory: Path) -> Student:
    """The exported student, frozen: it computes with the published integers and scales."""
    model = Student(published_config(directory))
    for weight, integers, step in _published(model, directory):
        weight.freeze(integers, step)
    return model


def start_from(model: Student, directory: Path) -> None:
    """Give a model float weights that quantise to the published ones, of which it may have more.

    Attention or a feed-forward that a layer has not is left out, and so are pieces that its vocabulary has not.
    Windows, groups and the width of the feed-forward may differ.

    Raises
    ------
    ValueError: those are sparse, and the model is not, they are of another shape, or a layer of them lacks something.
    TritloomError: its tokenizer is damaged.
    OSError: there is no published model.
    """
    config, rows = published_config(directory), None
    for name in ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim"):
        if getattr(config, name) != getattr(model.config, name):
            raise ValueError(f"{directory} has {name} {getattr(config, name)}, not {getattr(model.config, name)}")
    if config.vocab_size != model.config.vocab_size:
        tokenizer = Tokenizer(directory / "tokenizer.bin")
        if len(tokenizer.pieces) != config.vocab_size:
            raise ValueError(f"{directory} has a tokenizer of {len(tokenizer.pieces)} pieces and a model of "
                             f"{config.vocab_size}")
        rows = Vocabulary(tokenizer, model.config.vocab_size).kept
    for weight, integers, step in _published(model, directory):
        is_sparse = config.sparse and weight is not model.embed
        if rows is not None and weight in (model.embed, model.head):
            weight.start_from_rows(rows, integers, step, sparse=is_sparse)
        else:
            weight.start_from(integers, step, sparse=is_sparse)


def _published(model: Student, directory: Path) -> Iterator[tuple[QuantisedWeight, Tensor, Tensor]]:
    """Every quantised weight of a model, with the integers and the step that a folder holds for it."""
    stored, wanted = load_file(directory / "model.safetensors"), weights_by_name(model)
    if missing := wanted.keys() - stored.keys():
        raise ValueError(f"{directory} has no tensor {min(missing)}")
    for name, weight in wanted.items():
        values = unpack_trits(stored[name]) if weight.limit == 1 else stored[name]
        yield weight, torch.from_numpy(values).float(), torch.from_numpy(stored[f"{name}_scale"])[0]


def config_json(config: StudentConfig, bos: int, eos: int) -> dict[str, Any]:
    """The configuration that the importer reads."""
    options: dict[str, Any] = {"weight_sparsity": SPARSITY} if config.sparse else {}
    if config.feed_groups:
        options["feed_forward_groups"] = list(config.feed_groups)
    if config.attention_windows:
        options["attention_windows"] = list(config.attention_windows)
    return {
        "architectures": ["TritloomForCausalLM"],
        "model_type": "tritloom",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_interleaved": True,
        "hidden_act": "relu2",
        "use_parallel_residual": config.parallel_residual,
        "embed_planes": 3,
        "head_planes": 2,
        **options,
        "norm_gain": False,
        "residual_fraction": RESIDUAL_FRACTION,
        "tie_word_embeddings": False,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
        },
    }


def export(model: Student, directory: Path, tokenizer: bytes, *, bos: int = 1, eos: int = 2) -> None:
    """Write model.safetensors, config.json and tokenizer.bin, each replaced atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / "model.safetensors.part"
    save_file({name: np.ascontiguousarray(value) for name, value in tensors(model).items()}, partial)
    partial.chmod(0o644)
    partial.replace(directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config_json(model.config, bos, eos), indent=2) + "\n")
    (directory / "tokenizer.bin").write_bytes(tokenizer)
