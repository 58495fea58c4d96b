"""Small valid models in every container and format, and ways to damage them that depend on a seed alone."""

import json
import struct
from functools import cache
from random import Random

import numpy as np

from tests.containers import Stored, gguf_bytes, safetensors_bytes

Files = dict[str, bytes]
HIDDEN, NARROW = 256, 4       # columns that suit blocks of 256, and a width that keeps the files small
EDGES = (0, 1, 2, 7, 8, 9, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1,
         2**63, 2**64 - 1)
STRANGE: tuple[object, ...] = (
    None, True, False, -1, 0, 1, 3, 2**31, 2**63, 2**64, 10**30, 1e308, -0.5, "", "F32", "U8", "silu", "relu2", "\n",
    "\x00", "../x.safetensors", "a.safetensors", [], {}, [[]], [0], [1, 2], {"a": 1})
CONFIG = {
    "architectures": ["BitNetForCausalLM"], "hidden_act": "relu2", "hidden_size": HIDDEN, "intermediate_size": NARROW,
    "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": NARROW, "vocab_size": 4,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"},
}
SHAPES = {"q": (NARROW, HIDDEN), "k": (NARROW, HIDDEN), "v": (NARROW, HIDDEN), "o": (HIDDEN, NARROW),
          "gate": (NARROW, HIDDEN), "up": (NARROW, HIDDEN), "down": (HIDDEN, NARROW)}
HUGGING_FACE = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
                "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
GGUF = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up",
        "down": "ffn_down"}


def _weights(kind: str, shape: tuple[int, int]) -> Stored:
    """Valid bytes of a projection; blocks of 256 only where its rows suit them."""
    rows, columns = shape
    if kind == "U8":
        return kind, (rows // 4, columns), bytes([0x86]) * (rows * columns // 4)
    if kind == "I2_S":
        return kind, shape, bytes([0x86]) * (rows * columns // 4) + struct.pack("<f", 0.5) + bytes(28)
    if kind in ("TQ1_0", "TQ2_0") and columns == HIDDEN:
        digits = bytes([0x80]) * 48 + bytes([0x7F]) * 4 if kind == "TQ1_0" else bytes([0x86]) * 64
        return kind, shape, (digits + np.float16(0.5).tobytes()) * rows
    values = np.resize(np.array([-0.5, 0, 0.5], np.float32), shape)
    if kind == "BF16":
        return kind, shape, (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return "F32", shape, values.tobytes()


def _safetensors(kind: str) -> dict[str, Stored]:
    tensors: dict[str, Stored] = {name: ("BF16", (4, HIDDEN), bytes(8 * HIDDEN))
                                  for name in ("model.embed_tokens.weight", "lm_head.weight")}
    tensors["model.norm.weight"] = "F32", (HIDDEN,), struct.pack("<f", 1) * HIDDEN
    for part, shape in SHAPES.items():
        name = f"model.layers.0.{HUGGING_FACE[part]}.weight"
        tensors[name] = _weights(kind, shape)
        if kind == "U8":
            tensors[f"{name}_scale"] = "F32", (1,), struct.pack("<f", 0.5)
    return tensors


def _single(kind: str, **config: object) -> Files:
    return {"config.json": json.dumps(CONFIG | config).encode(),
            "model.safetensors": safetensors_bytes(_safetensors(kind))}


def _own() -> Files:
    """A model of this project's own kind, which can be imported."""
    config = CONFIG | {"architectures": ["TritloomForCausalLM"], "norm_gain": False, "rope_interleaved": True,
                       "embed_planes": 3, "head_planes": 2, "residual_fraction": 12}
    tensors = _safetensors("U8") | {"model.norm.weight": ("F32", (HIDDEN,), struct.pack("<f", 1) * HIDDEN)}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = "I8", (4, HIDDEN), b"\x01\xff\x00\x02" * HIDDEN
        tensors[f"{name}_scale"] = "F32", (1,), struct.pack("<f", 0.5)
    return {"config.json": json.dumps(config).encode(), "model.safetensors": safetensors_bytes(tensors),
            "tokenizer.bin": b"words"}


def _ordinary() -> Files:
    """A Llama of weights that are not ternary, with gains, sub-norms and a tied head."""
    tensors = _safetensors("F32")
    del tensors["lm_head.weight"]
    numbers = np.random.default_rng(0)
    for name, (_, shape, _) in tensors.items():
        tensors[name] = "F32", shape, numbers.normal(1, 0.5, shape).astype("<f4").tobytes()
    for name, size in (("self_attn.attn_sub_norm", NARROW), ("mlp.ffn_sub_norm", NARROW)):
        tensors[f"model.layers.0.{name}.weight"] = "F32", (size,), numbers.normal(1, 0.5, size).astype("<f4").tobytes()
    config = {key: value for key, value in CONFIG.items() if key != "quantization_config"}
    config |= {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True, "hidden_act": "silu"}
    return {"config.json": json.dumps(config).encode(), "model.safetensors": safetensors_bytes(tensors)}


def _hgrn() -> Files:
    """A MatMul-free language model."""
    numbers = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"model.embeddings": (4, 8), "lm_head": (4, 8), "model.norm": (8,)}
    for name, rows, columns in (("attn.i_proj", 8, 8), ("attn.f_proj", 8, 8), ("attn.g_proj", 8, 8),
                                ("attn.o_proj", 8, 8), ("mlp.gate_proj", 8, 8), ("mlp.down_proj", 8, 4)):
        shapes |= {f"model.layers.0.{name}": (rows, columns), f"model.layers.0.{name}.norm": (columns,)}
    shapes |= {f"model.layers.0.{name}": (8,) for name in ("attn_norm", "attn.g_norm", "mlp_norm")}
    tensors: dict[str, Stored] = {}
    for name, shape in (shapes | {"lm_head.norm": (8,)}).items():
        tensors[f"{name}.weight"] = "F32", shape, numbers.normal(1, 0.5, shape).astype("<f4").tobytes()
    tensors["model.lower_bounds"] = "F32", (1, 8), numbers.normal(0, 1, (1, 8)).astype("<f4").tobytes()
    config = {"architectures": ["HGRNBitForCausalLM"], "hidden_act": "swish", "hidden_size": 8, "hidden_ratio": 4,
              "intermediate_size": 4, "num_hidden_layers": 1, "num_heads": 1, "vocab_size": 4, "rms_norm_eps": 1e-6,
              "max_position_embeddings": 64, "attn_mode": "fused_recurrent", "use_lower_bound": True,
              "use_short_conv": False, "expand_ratio": 1}
    return {"config.json": json.dumps(config).encode(), "model.safetensors": safetensors_bytes(tensors)}


def _llama2c() -> Files:
    hidden, feed, vocab, context = 8, 12, 4, 16
    floats = vocab * hidden + 3 * hidden + 4 * hidden**2 + 3 * hidden * feed + context * hidden
    numbers = np.random.default_rng(0).normal(1, 0.5, floats).astype("<f4")
    return {"model.bin": struct.pack("<7i", hidden, feed, 1, 1, 1, vocab, context) + numbers.tobytes()}


def _sharded() -> Files:
    tensors = list(_safetensors("U8").items())
    shards = {"a.safetensors": dict(tensors[:5]), "b.safetensors": dict(tensors[5:])}
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    return {"config.json": json.dumps(CONFIG).encode(),
            "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": weight_map}).encode(),
            **{shard: safetensors_bytes(part) for shard, part in shards.items()}}


def _gguf(kind: str, version: int) -> Files:
    arch = "bitnet-b1.58"
    sizes = {"embedding_length": HIDDEN, "feed_forward_length": NARROW, "block_count": 1, "attention.head_count": 1,
             "attention.key_length": NARROW, "context_length": 64}
    metadata: dict[str, object] = {"general.architecture": arch, "general.alignment": ("u32", 32)}
    metadata |= {f"{arch}.{key}": ("u32", value) for key, value in sizes.items()}
    metadata |= {"tokenizer.ggml.tokens": ["a", "b", "c", "d"], "list": [("f32", 0.5)] * 3, "nested": [["x"], ["y"]]}
    tensors: dict[str, Stored] = {name: ("F32", (4, HIDDEN), bytes(16 * HIDDEN))
                                  for name in ("token_embd.weight", "output.weight")}
    tensors["output_norm.weight"] = "F32", (HIDDEN,), struct.pack("<f", 1) * HIDDEN
    for part, shape in SHAPES.items():
        tensors[f"blk.0.{GGUF[part]}.weight"] = _weights(kind, shape)
    return {"model.gguf": gguf_bytes(metadata, tensors, version=version)}


@cache
def originals() -> tuple[Files, ...]:
    """Valid models; each is read without a complaint."""
    return (_single("U8"), _single("BF16"), _single("F32", architectures=["LlamaForCausalLM"]), _sharded(), _own(),
            _gguf("TQ1_0", 3), _gguf("TQ2_0", 2), _gguf("I2_S", 3), _gguf("F32", 3), _ordinary(), _llama2c(),
            _hgrn())


def mutated(seed: int) -> Files:
    """A model of which one file was damaged in one to four ways."""
    random = Random(seed)
    files = dict(originals()[seed % len(originals())])
    name = random.choice(sorted(files))
    data = files[name]
    for _ in range(random.randint(1, 4)):
        data = _mutate_json_file(random, name, data) if random.random() < 0.5 else _mutate_bytes(random, data)
    return files | {name: data}


def _mutate_json_file(random: Random, name: str, data: bytes) -> bytes:
    """Change the JSON in a file, keeping the rest consistent; GGUF, and what is no JSON any more, changes in bytes."""
    start, end = 0, len(data)
    if name.endswith(".safetensors"):
        start, end = 8, 8 + int.from_bytes(data[:8], "little")
    try:
        value = json.loads(data[start:end])
    except (ValueError, RecursionError):
        return _mutate_bytes(random, data)
    text = json.dumps(_mutate_json(random, value)).encode()
    if not start:
        return text
    return struct.pack("<Q", len(text)) + text + data[end:]


def _mutate_json(random: Random, value: object) -> object:
    """Replace, drop or copy one node of the tree, leaf or not."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(sorted(value))
        choice = random.random()
        if choice < 0.1:
            return {other: node for other, node in value.items() if other != key}
        if choice < 0.2:
            return value | {random.choice(["", "a\nb", key + "x", "model.layers.7.mlp.up_proj.weight"]): value[key]}
        return value | {key: _mutate_json(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.8:
        index = random.randrange(len(value))
        return [*value[:index], _mutate_json(random, value[index]), *value[index + 1 :]]
    if isinstance(value, int) and random.random() < 0.5:
        return random.choice([value + 1, value - 1, -value, value * 2, random.choice(EDGES)])
    return random.choice(STRANGE)


def _mutate_bytes(random: Random, data: bytes) -> bytes:
    """Change bytes, more often near the front, where the header is."""
    size = len(data)
    at = random.randrange(min(size, 1200) if random.random() < 0.8 else size) if size else 0
    end = min(size, at + random.choice([1, 4, 8, 64, 1024]))
    match random.randrange(8):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :] if size else data
        case 1:
            width = random.choice([1, 2, 4, 8])
            edge = random.choice((*EDGES, size)) & (1 << 8 * width) - 1
            return data[:at] + edge.to_bytes(width, "little") + data[at + width :]
        case 2:
            return data[:at]
        case 3:
            return data + random.randbytes(random.choice([1, 32, 4096]))
        case 4:
            return data[:at] + data[end:]
        case 5:
            return data[:end] + data[at:end] + data[end:]
        case 6:
            return data[:at] + random.randbytes(end - at) + data[end:]
        case _:
            return data[:at] + random.choice([b"[", b"{", b"9" * 5000, b"\xff", b"[" * 5000]) + data[at:]
