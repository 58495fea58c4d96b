"""Headers of published checkpoints: their tensors and shapes, without a weight."""

import json
import struct
from pathlib import Path

from tests.containers import GGUF_TYPES, gguf_string, gguf_value, write_sparse

# microsoft/bitnet-b1.58-2B-4T
BITNET_2B4T = {
    "architectures": ["BitNetForCausalLM"], "hidden_act": "relu2", "hidden_size": 2560, "intermediate_size": 6912,
    "max_position_embeddings": 4096, "model_type": "bitnet", "num_attention_heads": 20, "num_hidden_layers": 30,
    "num_key_value_heads": 5, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": True,
    "vocab_size": 128256,
    "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
}
# ridger/MMfreeLM-370M
MMFREE_370M = {
    "architectures": ["HGRNBitForCausalLM"], "attn_mode": "fused_recurrent", "conv_size": 4, "expand_ratio": 1,
    "fuse_cross_entropy": True, "hidden_act": "swish", "hidden_ratio": 4, "hidden_size": 1024,
    "initializer_range": 0.02, "intermediate_size": None, "max_position_embeddings": 2048, "model_type": "hgrn_bit",
    "num_heads": 1, "num_hidden_layers": 24, "rms_norm_eps": 1e-06, "share_conv_kernel": True,
    "tie_word_embeddings": False, "use_cache": True, "use_lower_bound": True, "use_short_conv": False,
    "vocab_size": 32000,
}
ITEM_BYTES = {"U8": 1, "BF16": 2, "F32": 4}


def bitnet_tensors(config: dict[str, object]) -> dict[str, tuple[str, list[int]]]:
    """Name, dtype and stored shape of every tensor of a packed BitNet checkpoint of these dimensions."""
    hidden, feed, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    keys = hidden // heads * config["num_key_value_heads"]
    projections = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (feed, hidden), "mlp.up_proj": (feed, hidden),
        "mlp.down_proj": (hidden, feed)}
    gains = {"input_layernorm": hidden, "post_attention_layernorm": hidden, "self_attn.attn_sub_norm": hidden,
             "mlp.ffn_sub_norm": feed}
    tensors = {"model.embed_tokens.weight": ("BF16", [config["vocab_size"], hidden]),
               "model.norm.weight": ("BF16", [hidden])}
    for layer in range(config["num_hidden_layers"]):
        for name, (rows, columns) in projections.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = "U8", [rows // 4, columns]
            tensors[f"model.layers.{layer}.{name}.weight_scale"] = "BF16", [1]
        for name, size in gains.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = "BF16", [size]
    return tensors


def mmfree_tensors(hidden: int, feed: int, layers: int, vocab: int) -> dict[str, tuple[str, list[int]]]:
    """Name, dtype and shape of every tensor of a MatMul-free language model of these dimensions."""
    projections = {f"attn.{part}_proj": (hidden, hidden) for part in "ifgo"}
    projections |= {"mlp.gate_proj": (2 * feed, hidden), "mlp.down_proj": (hidden, feed)}
    tensors = {"model.embeddings.weight": ("F32", [vocab, hidden]), "model.lower_bounds": ("F32", [layers, hidden]),
               "model.norm.weight": ("F32", [hidden]), "lm_head.weight": ("F32", [vocab, hidden]),
               "lm_head.norm.weight": ("F32", [hidden])}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name, (rows, columns) in projections.items():
            tensors[f"{at}.{name}.weight"] = "F32", [rows, columns]
            tensors[f"{at}.{name}.norm.weight"] = "F32", [columns]
        for name in ("attn_norm", "attn.g_norm", "mlp_norm"):
            tensors[f"{at}.{name}.weight"] = "F32", [hidden]
    return tensors


def write_mmfree_370m(folder: Path) -> Path:
    """The checkpoint: its header and 1.5 GB of hole."""
    return _write_header(folder, MMFREE_370M, mmfree_tensors(1024, 2816, 24, 32000))


def write_bitnet_2b4t(folder: Path) -> Path:
    """The packed checkpoint: its header and 1.2 GB of hole."""
    return _write_header(folder, BITNET_2B4T, bitnet_tensors(BITNET_2B4T))


def _write_header(folder: Path, config: dict[str, object], tensors: dict[str, tuple[str, list[int]]]) -> Path:
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = ITEM_BYTES[dtype]
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    write_sparse(folder / "model.safetensors", struct.pack("<Q", len(text)) + text, 8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_bitnet_2b4t_gguf(path: Path) -> Path:
    """The GGUF file: I2_S projections, fp16 embedding, a vocabulary of the real length."""
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm",
             "model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    arch = "bitnet-b1.58"
    metadata = {"general.architecture": arch, f"{arch}.embedding_length": ("u32", 2560),
                f"{arch}.feed_forward_length": ("u32", 6912), f"{arch}.block_count": ("u32", 30),
                f"{arch}.attention.head_count": ("u32", 20), f"{arch}.attention.head_count_kv": ("u32", 5),
                f"{arch}.context_length": ("u32", 4096), f"{arch}.rope.freq_base": ("f32", 500000.0),
                "tokenizer.ggml.tokens": ["token"] * 128256, "tokenizer.ggml.merges": ["to ken"] * 280147}
    infos, count, end = b"", 0, 0
    for name, (dtype, shape) in bitnet_tensors(BITNET_2B4T).items():
        base = name.removesuffix(".weight")
        if base == name:
            continue
        layer = base.removeprefix("model.layers.").partition(".")
        part = f"blk.{layer[0]}.{parts[layer[2]]}" if base.startswith("model.layers.") else parts[base]
        rows = 4 * shape[0] if dtype == "U8" else shape[0]
        elements = rows * (shape[1] if len(shape) > 1 else 1)
        kind = "I2_S" if dtype == "U8" else "F16" if len(shape) > 1 else "F32"
        infos += gguf_string(f"{part}.weight") + struct.pack("<I", len(shape))
        infos += b"".join(struct.pack("<Q", size) for size in reversed([rows, *shape[1:]]))
        infos += struct.pack("<IQ", GGUF_TYPES[kind], end)
        end += {"I2_S": elements // 4 + 32, "F16": 2 * elements, "F32": 4 * elements}[kind]
        end += -end % 32
        count += 1
    header = b"GGUF" + struct.pack("<IQQ", 3, count, len(metadata))
    header += b"".join(gguf_string(key) + gguf_value(value) for key, value in metadata.items()) + infos
    return write_sparse(path, header, len(header) + -len(header) % 32 + end)
