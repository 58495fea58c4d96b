"""The ternary student: a small llama-like model with every quantiser of the machine in the loop.

Shapes use B sequences, T positions, N = B * T, d = hidden size, V = vocabulary, H query heads,
G key-value heads and D = head size. The quantisers are those of `models.training.quantisers`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from models.training.quantisers import (
    EMBED_LIMIT,
    HEAD_LIMIT,
    QuantisedWeight,
    block_float,
    grouped_linear,
    integer_linear,
    quantise_activations,
    quantised_weights,
    ternary,
)

LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class StudentConfig:
    """Shape of a model; `SHAPES` has those of the published ones.

    ``intermediate_size`` : width of the feed-forward, of the layers with most groups.
    ``feed_groups`` : per layer, parts of the feed-forward's hidden vector, equal in all layers, that are quantised each
    with a scale of its own; 0 for a layer of attention only; empty: one in each. Side by side with attention, the
    feed-forward of the first layer would see the embedding of one token only, and could add nothing that the embedding
    cannot hold.
    ``attention_windows`` : per layer, how many positions attention sees, the present one among them; 0 for a layer of
    feed-forward only; empty: all.

    Raises
    ------
    ValueError: a number of windows or of groups that is not that of the layers, a layer of nothing, groups of different
        sizes, or what only a parallel model may say.
    """

    vocab_size: int = 512
    hidden_size: int = 160
    intermediate_size: int = 640
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 20
    context: int = 256
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    parallel_residual: bool = False
    sparse: bool = False        # one zero in each four weights of a row of a plane, but for the embedding
    feed_groups: tuple[int, ...] = ()
    attention_windows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, per_layer in (("attention_windows", self.attention_windows), ("feed_groups", self.feed_groups)):
            if per_layer and (len(per_layer) != self.num_layers or min(per_layer) < 0 or not any(per_layer)):
                raise ValueError(f"{name} must be one per layer, not negative and not all 0, got {per_layer}")
        if not self.parallel_residual and (self.feed_groups or 0 in self.attention_windows):
            raise ValueError("feed_groups and layers without attention need parallel_residual")
        if any(not self.window(layer) and not self.groups(layer) for layer in range(self.num_layers)):
            raise ValueError("a layer needs attention or a feed-forward")
        if self.intermediate_size % max(self.feed_groups, default=1):
            raise ValueError(f"{self.intermediate_size} is no multiple of the most feed_groups {self.feed_groups}")

    def groups(self, layer: int) -> int:
        """Groups of the feed-forward of a layer; 0 if it has none."""
        return self.feed_groups[layer] if self.feed_groups else 1

    def feed_size(self, layer: int) -> int:
        """Width of the feed-forward of a layer."""
        return self.intermediate_size * self.groups(layer) // max(self.feed_groups, default=1)

    def window(self, layer: int) -> int:
        """Positions that attention of a layer sees; 0 if it has none."""
        return self.attention_windows[layer] if self.attention_windows else self.context


STORIES = StudentConfig(vocab_size=256, parallel_residual=True, feed_groups=(0, 4, 4, 4),
                        attention_windows=(32, 128, 256, 128))
POCKET = StudentConfig(vocab_size=256, hidden_size=40, intermediate_size=240, head_dim=8, context=128)
SHAPES = {"stories1m": STORIES, "stories150k": POCKET}


def product_type(device: torch.device) -> torch.dtype:
    """Type of matrix products while training: bfloat16 where the device multiplies it, else float32.

    Without such instructions bfloat16 is emulated, more than a hundred times slower.
    """
    if device.type == "cuda":
        return torch.bfloat16
    can = torch.cpu.get_capabilities()
    return torch.bfloat16 if can.get("avx512_bf16") or can.get("amx_bf16") else torch.float32


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """RMS normalisation without gain over the last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attention to so many last positions, softmax to base two: q, k, v [B, H, T, D] -> [B, H, T, D].

    The query carries log2(e), so exp2(s) = exp(s * ln 2). Queries go in chunks of the window's length, each of which
    meets the keys of its own chunk and of the one before: 2 * window scores per query instead of T.
    """
    attend, time = partial(nn.functional.scaled_dot_product_attention, scale=math.log(2)), q.shape[2]
    if time <= window:
        return attend(q, k, v, is_causal=True)
    batch, chunks = len(q), -(-time // window)
    q, k, v = (nn.functional.pad(x, (0, 0, 0, chunks * window - time)) for x in (q, k, v))
    k, v = (nn.functional.pad(x, (0, 0, window, 0)).unfold(2, 2 * window, window).transpose(-1, -2) for x in (k, v))
    query, key = torch.arange(window, device=q.device)[:, None], torch.arange(2 * window, device=q.device)
    seen = ((query < key) & (key <= query + window)).repeat(chunks, 1, 1)
    seen[0] &= key >= window                                    # before the first chunk there is nothing
    out = attend(*(x.transpose(1, 2).flatten(0, 1) for x in (q.unflatten(2, (chunks, window)), k, v)),
                 seen.repeat(batch, 1, 1).unsqueeze(1))
    return out.unflatten(0, (batch, chunks)).transpose(1, 2).flatten(2, 3)[:, :, :time]


class Block(nn.Module):
    """Attention and feed-forward, each with a residual connection: one after the other, or both from one norm of x; or
    one of them only.
    """

    def __init__(self, config: StudentConfig, layer: int) -> None:
        super().__init__()
        self.config, self.window, self.groups = config, config.window(layer), config.groups(layer)
        d, feed = config.hidden_size, config.feed_size(layer)
        q_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        if self.window:
            self.q_proj = ternary(q_rows, d, sparse=config.sparse)
            self.k_proj = ternary(kv_rows, d, sparse=config.sparse)
            self.v_proj = ternary(kv_rows, d, sparse=config.sparse)
            self.o_proj = ternary(d, q_rows, 0.5, sparse=config.sparse)
        if self.groups:
            self.gate_proj = ternary(feed, d, sparse=config.sparse)
            self.up_proj = ternary(feed, d, sparse=config.sparse)
            self.down_proj = ternary(d, feed, 0.5, sparse=config.sparse)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
        """x [N, d] residual, cos and sin [T, D/2] -> [N, d]."""
        normed = quantise_activations(rms_norm(x, self.config.norm_eps))
        if self.window:
            qkv = integer_linear(*normed, [self.q_proj, self.k_proj, self.v_proj], dtype)
            mixed = quantise_activations(self.attend(qkv, cos, sin, batch, dtype))
            x = x + integer_linear(*mixed, [self.o_proj], dtype)
        if not self.groups:
            return x
        if not self.config.parallel_residual:
            normed = quantise_activations(rms_norm(x, self.config.norm_eps))
        gate, up = integer_linear(*normed, [self.gate_proj, self.up_proj], dtype).chunk(2, -1)
        hidden = (torch.relu(gate).square() * up).unflatten(-1, (self.groups, -1)).transpose(0, 1)
        return x + grouped_linear(*quantise_activations(hidden), self.down_proj, dtype)

    def attend(self, qkv: Tensor, cos: Tensor, sin: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
        """Causal attention on block-floating queries, keys and values: qkv [N, (H+2G)D] -> [N, H*D].

        Those are exact in bfloat16, so ``dtype`` only sets the rounding of what is made of them.
        """
        c = self.config
        heads, groups, size = c.num_heads, c.num_kv_heads, c.head_dim
        time = qkv.shape[0] // batch
        q, k, v = qkv.view(batch, time, heads + 2 * groups, size).split([heads, groups, groups], 2)
        q = rotate(q, cos, sin) * (LOG2_E / math.sqrt(size))
        # One exponent per beat: beat g holds the query heads {g, H/G + g}, one of each group. Keys share one, and so do
        # values. Machines whose words of the cache hold one head have an exponent for each head, which is finer.
        q = block_float(q.reshape(batch, time, groups, heads // groups, size), (2, 4))
        k = block_float(rotate(k, cos, sin), (2, 3))
        v = block_float(v, (2, 3))
        q = q.view(batch, time, heads, size).transpose(1, 2)  # [B, H, T, D]
        k = k.repeat_interleave(heads // groups, 2).transpose(1, 2)
        v = v.repeat_interleave(heads // groups, 2).transpose(1, 2)
        # The processor's attention is faster in float32, an accelerator's in bfloat16.
        of = dtype if qkv.is_cuda else torch.float32
        out = window_attention(q.to(of), k.to(of), v.to(of), self.window)
        return out.float().transpose(1, 2).reshape(batch * time, heads * size)


class Student(nn.Module):
    """Ternary language model; ``forward`` gives next-token logits."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        vocab, d = config.vocab_size, config.hidden_size
        self.embed = QuantisedWeight(vocab, d, EMBED_LIMIT, 1.0)
        self.head = QuantisedWeight(vocab, d, HEAD_LIMIT, 0.25 / math.sqrt(d), sparse=config.sparse)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        frequency = config.rope_theta ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)
        angle = torch.outer(torch.arange(config.context).float(), frequency)  # [context, D/2]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def quantise(self, share: float) -> None:
        """Set how far float weights go towards the integers that they are published as: 0 not at all, 1 all the way."""
        for weight in quantised_weights(self):
            weight.share.fill_(share)

    def forward(self, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """tokens [B, T] -> logits [B*T, V]."""
        batch, time = tokens.shape
        integers, step = self.embed()
        x = nn.functional.embedding(tokens.reshape(-1), integers * step)
        cos, sin = self.cos[:time], self.sin[:time]
        for block in self.blocks:
            x = block(x, cos, sin, batch, dtype)
        inputs, row_step = quantise_activations(rms_norm(x, self.config.norm_eps))
        integers, step = self.head()
        return (inputs.to(dtype) @ integers.to(dtype).t()).float() * step * row_step


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding on interleaved pairs (2i, 2i+1): x [B, T, heads, D], cos and sin [T, D/2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    c, s = cos[:, None, :], sin[:, None, :]
    return torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2)
