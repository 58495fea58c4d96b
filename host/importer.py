"""Reads checkpoints: a directory with model.safetensors, config.json and tokenizer.bin."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from host.checkpoint import Checkpoint, Shape, Tensor, layer_shapes
from host.errors import TritloomError

ARCHITECTURE = "TritloomForCausalLM"
PROJECTIONS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}
DIMENSIONS = {
    "hidden": "hidden_size", "feed_forward": "intermediate_size", "layers": "num_hidden_layers",
    "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "head_dim": "head_dim",
    "vocab": "vocab_size", "context": "max_position_embeddings", "embed_planes": "embed_planes",
    "head_planes": "head_planes",
}
REQUIRED_VALUES = {
    "hidden_act": "relu2", "norm_gain": False, "rope_interleaved": True, "tie_word_embeddings": False,
}
MAX_DIMENSION = 1 << 20
MAX_FRACTION = 14
MAX_CONFIG_BYTES = 1 << 20
MAX_TOKENIZER_BYTES = 1 << 24


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint directory.

    Raises
    ------
    TritloomError: something is missing, contradicts config.json, or is not supported; the message names it.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise TritloomError(f"{folder}: no such model directory; give one that holds model.safetensors and config.json")
    shape = _read_shape(folder / "config.json")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise TritloomError(f"{weights}: missing; the checkpoint needs its weights in this file")
    try:
        with safe_open(weights, framework="numpy") as file:
            tensors = _read_tensors(file, shape)
    except (SafetensorError, OSError) as error:
        raise TritloomError(f"{weights}: not a readable safetensors file ({error}); fetch it again") from error
    return Checkpoint(folder.resolve().name, shape, tensors, _read_tokenizer(folder / "tokenizer.bin"))


def _read_shape(path: Path) -> Shape:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise TritloomError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is not a model configuration")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TritloomError(f"{path}: cannot be read ({error.strerror}); the checkpoint needs it") from error
    except (ValueError, RecursionError) as error:
        raise TritloomError(f"{path}: not valid JSON ({error}); fetch it again") from error
    if not isinstance(config, dict) or config.get("architectures") != [ARCHITECTURE]:
        found = config.get("architectures") if isinstance(config, dict) else type(config).__name__
        raise TritloomError(f"{path}: architectures is {found}; supported: [{ARCHITECTURE!r}]")
    for key, wanted in REQUIRED_VALUES.items():
        if config.get(key) != wanted:
            raise TritloomError(f"{path}: {key} is {config.get(key)!r}; supported: {wanted!r}")
    values: dict[str, int] = {}
    for field, key in DIMENSIONS.items():
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_DIMENSION:
            raise TritloomError(f"{path}: {key} must be an integer from 1 to {MAX_DIMENSION}, got {value!r}")
        values[field] = value
    values["residual_fraction"] = config.get("residual_fraction", Shape.residual_fraction)
    if values["residual_fraction"] not in range(MAX_FRACTION + 1):
        raise TritloomError(f"{path}: residual_fraction must be an integer from 0 to {MAX_FRACTION}, "
                            f"got {values['residual_fraction']!r}")
    reals: dict[str, float] = {}
    for field, key in (("rope_theta", "rope_theta"), ("norm_epsilon", "rms_norm_eps")):
        value = config.get(key)
        if not isinstance(value, int | float) or not 0 < value < 1e12:
            raise TritloomError(f"{path}: {key} must be a positive number, got {value!r}")
        reals[field] = float(value)
    return Shape(**values, **reals)


def _read_tensors(file: safe_open, shape: Shape) -> dict[str, Tensor]:
    names = set(file.keys())

    def read(name: str, dtype: type, dimensions: tuple[int, ...]) -> np.ndarray:
        if name not in names:
            raise TritloomError(f"tensor {name} is missing from model.safetensors; the checkpoint is incomplete")
        found = tuple(file.get_slice(name).get_shape())
        if found != dimensions:
            raise TritloomError(f"tensor {name} has shape {list(found)}, config.json asks for {list(dimensions)}")
        tensor = file.get_tensor(name)
        if tensor.dtype != dtype:
            raise TritloomError(f"tensor {name} holds {tensor.dtype}, expected {np.dtype(dtype)}")
        return tensor

    def scale(name: str) -> float:
        value = float(read(f"{name}_scale", np.float32, (1,))[0])
        if not (np.isfinite(value) and value > 0):
            raise TritloomError(f"tensor {name}_scale is {value}; a scale must be positive and finite")
        return value

    def planes(name: str, count: int) -> Tensor:
        integers = read(name, np.int8, (shape.vocab, shape.hidden))
        limit = 3**count // 2
        if np.abs(integers.astype(int)).max() > limit:
            raise TritloomError(f"tensor {name} holds values beyond {limit}, the limit of {count} trit planes")
        return Tensor(integers, scale(name))

    tensors = {
        "embed": planes("model.embed_tokens.weight", shape.embed_planes),
        "head": planes("lm_head.weight", shape.head_planes),
    }
    for layer in range(shape.layers):
        for key, (rows, columns) in layer_shapes(shape).items():
            if rows % 4:
                raise TritloomError(f"layer {layer} {key}: {rows} rows do not pack into four row planes")
            name = f"model.layers.{layer}.{PROJECTIONS[key]}.weight"
            tensors[f"{layer}.{key}"] = Tensor(_unpack(read(name, np.uint8, (rows // 4, columns)), name), scale(name))
    return tensors


def _unpack(packed: np.ndarray, name: str) -> np.ndarray:
    """Trits int8 [rows, columns] of Hugging Face's four row planes (two bits each, first plane lowest)."""
    codes = np.concatenate([packed >> shift & 3 for shift in (0, 2, 4, 6)])
    if codes.max() > 2:
        raise TritloomError(f"tensor {name} holds a two-bit code 3, which is no trit; the file is damaged")
    trits = codes.astype(np.int8) - 1
    if not trits.any():
        raise TritloomError(f"tensor {name} is all zero; the checkpoint is damaged")
    return trits


def _read_tokenizer(path: Path) -> bytes:
    if not path.is_file():
        return b""
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise TritloomError(f"{path}: larger than {MAX_TOKENIZER_BYTES} bytes; this is not a tokenizer")
    return path.read_bytes()
