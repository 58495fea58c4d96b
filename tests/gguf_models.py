"""Writes drawn models as GGUF files with the gguf package, as the converters of llama.cpp and bitnet.cpp would."""

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from tests.transformers_models import Drawn

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
         "self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm",
         "model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm"}


def write_gguf(path: Path, drawn: Drawn, projections: Type, others: Type) -> Path:
    """A GGUF file with the drawn weights.

    Parameters
    ----------
    projections : their type: trits, or floats that hold trits times their scale.
    others : type of embedding and head.
    """
    sizes = drawn.sizes
    writer = gguf.GGUFWriter(path, "bitnet-b1.58" if drawn.kind.is_bitnet else "llama")
    writer.add_vocab_size(sizes["vocab_size"])
    writer.add_context_length(sizes["max_position_embeddings"])
    writer.add_embedding_length(sizes["hidden_size"])
    writer.add_block_count(sizes["num_hidden_layers"])
    writer.add_feed_forward_length(sizes["intermediate_size"])
    writer.add_head_count(sizes["num_attention_heads"])
    writer.add_head_count_kv(sizes["num_key_value_heads"])
    writer.add_key_length(sizes["head_dim"])
    writer.add_value_length(sizes["head_dim"])
    writer.add_rope_dimension_count(sizes["head_dim"])
    writer.add_layer_norm_rms_eps(sizes["rms_norm_eps"])
    writer.add_rope_freq_base(sizes["rope_parameters"]["rope_theta"])
    for name, weights in drawn.weights.items():
        base = name.removesuffix(".weight")
        layer, _, part = base.removeprefix("model.layers.").partition(".")
        is_layer = base.startswith("model.layers.")
        if not drawn.kind.is_bitnet and base.endswith(("q_proj", "k_proj")):
            weights = _neighbours(weights, sizes["head_dim"])
        kind = projections if base.endswith("_proj") else Type.F32 if "norm" in base else others
        writer.add_tensor(f"blk.{layer}.{NAMES[part]}.weight" if is_layer else f"{NAMES[base]}.weight",
                          gguf.quants.quantize(np.ascontiguousarray(weights.numpy()), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _neighbours(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of queries or keys as the converter of a Llama leaves them: both rows of a rotary pair side by side."""
    return rows.unflatten(0, (-1, 2, head_dim // 2)).swapaxes(1, 2).flatten(0, 2)
