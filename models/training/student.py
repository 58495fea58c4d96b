"""The ternary student: a small llama-like model with every quantiser of the machine in the loop.

Shapes use B sequences, T positions, N = B * T, d = hidden size, V = vocabulary, H query heads,
G key-value heads and D = head size. Each quantiser has a straight-through gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from rtl.config import SPARSE_GROUP

LOG2_E = math.log2(math.e)
ACTIVATION_MAX = 127
EMBED_LIMIT, HEAD_LIMIT, TERNARY_LIMIT = 13, 4, 1
# Step of a tensor by largest integer and sparsity, in mean magnitudes of its weights. One trit: BitNet's absmean. More
# levels: they cover about three standard deviations of normal weights. Sparse: the least squares of normal weights.
STEP_PER_MEAN = {(TERNARY_LIMIT, False): 1.0, (TERNARY_LIMIT, True): 1.22, (HEAD_LIMIT, False): 0.65,
                 (HEAD_LIMIT, True): 0.48, (EMBED_LIMIT, False): 0.28}

# How often weights that were drawn are brought to their magnitude, and how far they stay from their interval's ends.
ROUNDS, EDGE = 20, 0.01


@dataclass(frozen=True)
class StudentConfig:
    """Shape of a model; `SHAPES` has those of the published ones.

    ``attention_only_layers`` : so many first layers have no feed-forward: side by side with attention it would see the
    embedding of one token only, and could add nothing that the embedding cannot hold.
    ``feed_groups`` : parts of the feed-forward's hidden vector that are quantised each with a scale of its own.
    ``attention_windows`` : per layer, how many positions attention sees, the present one among them; empty: all.

    Raises
    ------
    ValueError: a number of windows that is not that of the layers, or what only a parallel model may say.
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
    attention_only_layers: int = 0
    feed_groups: int = 1
    attention_windows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.attention_windows and len(self.attention_windows) != self.num_layers:
            raise ValueError(f"attention_windows must be one per layer, got {self.attention_windows}")
        if not self.parallel_residual and (self.attention_only_layers or self.feed_groups > 1):
            raise ValueError("attention_only_layers and feed_groups need parallel_residual")

    def has_feed_forward(self, layer: int) -> bool:
        """Whether a layer has one beside attention."""
        return layer >= self.attention_only_layers

    def attention_window(self, layer: int) -> int:
        """Positions that attention of a layer sees."""
        return self.attention_windows[layer] if self.attention_windows else self.context


STORIES = StudentConfig(parallel_residual=True, attention_only_layers=1, feed_groups=4,
                        attention_windows=(32, 64, 256, 64))
POCKET = StudentConfig(hidden_size=40, intermediate_size=200, head_dim=8, context=128)
SHAPES = {"stories1m": STORIES, "stories150k": POCKET}


def product_type(device: torch.device) -> torch.dtype:
    """Type of matrix products while training: bfloat16 where the device multiplies it, else float32.

    Without such instructions bfloat16 is emulated, more than a hundred times slower.
    """
    if device.type == "cuda":
        return torch.bfloat16
    can = torch.cpu.get_capabilities()
    return torch.bfloat16 if can.get("avx512_bf16") or can.get("amx_bf16") else torch.float32


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes unchanged."""
    return x + (x.round() - x).detach()


def one_zero_in_four(scaled: Tensor, limit: int) -> Tensor:
    """Nearest integers whose trit planes each have exactly one zero in four neighbours of a row.

    scaled [rows, columns], columns a multiple of four; `TERNARY_LIMIT` for one plane, `HEAD_LIMIT` for two
    (``3 * high + low``).
    """
    groups = scaled.unflatten(-1, (-1, SPARSE_GROUP))
    sign, size = torch.where(groups < 0, -1.0, 1.0), groups.abs()
    place = torch.arange(SPARSE_GROUP, device=scaled.device)
    if limit == TERNARY_LIMIT:
        return (sign * (size.argmin(-1, keepdim=True) != place)).flatten(-2)
    both = torch.where(size < 3, 2.0, 4.0)                                      # neither plane is zero
    errors = [(size - level).square() for level in (both, 3.0, 1.0, 0.0)]      # then low, high, both
    low, high, zero = (error - errors[0] for error in errors[1:])
    same = torch.diag_embed(zero - low - high)
    pairs = low.unsqueeze(-1) + high.unsqueeze(-2) + same                      # by place of low's and of high's zero
    best = pairs.flatten(-2).argmin(-1, keepdim=True)
    low_zero, high_zero = best // SPARSE_GROUP == place, best % SPARSE_GROUP == place
    magnitude = torch.where(low_zero, torch.where(high_zero, 0.0, 3.0), torch.where(high_zero, 1.0, both))
    return (sign * magnitude).flatten(-2)


class QuantisedWeight(nn.Module):
    """Integers in -limit..limit times one step per tensor, or with ``sparse`` those of `one_zero_in_four`.

    While training, the step is `STEP_PER_MEAN` times the mean magnitude of the float weight
    and the integers pass their gradient straight through. After
    ``freeze`` the weight holds the integers of an exported tensor and the step is its scale.
    """

    frozen_step: Tensor | None

    def __init__(self, rows: int, columns: int, limit: int, spread: float, *, sparse: bool = False) -> None:
        super().__init__()
        self.limit, self.sparse = limit, sparse
        self.weight = nn.Parameter(torch.randn(rows, columns) * spread)
        self.register_buffer("frozen_step", None, persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        """(integers [rows, columns] as float, step as a 0-d tensor)."""
        if self.frozen_step is not None:
            return self.weight, self.frozen_step
        step = self.weight.detach().abs().mean().clamp(min=1e-8) * STEP_PER_MEAN[self.limit, self.sparse]
        scaled = self.weight / step
        with torch.no_grad():
            nearest = (one_zero_in_four(scaled, self.limit) if self.sparse
                       else scaled.clamp(-self.limit, self.limit).round())
        return scaled + (nearest - scaled).detach(), step

    def freeze(self, integers: Tensor, step: Tensor) -> None:
        """Replace the float weight by exported integers and their scale."""
        self.weight = nn.Parameter(integers.float(), requires_grad=False)
        self.frozen_step = step

    @torch.no_grad()
    def start_from(self, integers: Tensor, step: Tensor, *, sparse: bool) -> None:
        """Take float weights that quantise to these integers, to train on from them.

        Magnitudes are spread inside each integer's interval as a normal distribution has them, so that training
        can move as many weights across a threshold as it could in the run that made the integers. Then they are
        brought to the magnitude whose step is that of the integers, each within its interval. ``sparse`` says what that
        run made. Where it made no sparse weights and these are to be, integers change at once: a fifth of the trits.

        Fewer rows or columns become the first ones of the tensor. Further rows stay as random as they are, and further
        columns become zeros, so that they add nothing until they have learned something; sparse ones cannot all be.

        Raises
        ------
        ValueError: they are sparse, and these are not to be; or they are more.
        """
        if sparse and not self.sparse:
            raise ValueError("a model that is not sparse cannot start from a sparse one")
        if any(given > own for given, own in zip(integers.shape, self.weight.shape, strict=True)):
            raise ValueError(f"a model with {list(self.weight.shape)} weights cannot start from {list(integers.shape)}")
        grown = self()[0].round()
        grown[:, integers.shape[1] :] = 0
        grown[: integers.shape[0], : integers.shape[1]] = integers
        integers, step_per_mean = grown, STEP_PER_MEAN[self.limit, sparse]
        spread = 1 / (step_per_mean * math.sqrt(2 / math.pi))   # of the float weight, in steps
        low, high = integers - 0.5, integers + 0.5
        low = torch.where(integers == -self.limit, -math.inf, low)
        high = torch.where(integers == self.limit, math.inf, high)
        below, above = (torch.special.ndtr(edge / spread) for edge in (low, high))
        drawn = spread * torch.special.ndtri(below + (above - below) * torch.rand(integers.shape).clamp(0.01, 0.99))
        for _ in range(ROUNDS):
            drawn /= drawn.abs().mean() * step_per_mean
            drawn.clamp_(low + EDGE, high - EDGE)
        self.weight.copy_(drawn * step)


def ternary(rows: int, columns: int, gain: float = 1.0, *, sparse: bool = False) -> QuantisedWeight:
    """One trit plane: BitNet b1.58, or 3:4-sparse."""
    return QuantisedWeight(rows, columns, TERNARY_LIMIT, gain / math.sqrt(columns), sparse=sparse)


def quantise_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Absmax int8 per row: x [N, K] -> integers [N, K] as float, step [N, 1] with x ~ integers * step."""
    step = x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-5) / ACTIVATION_MAX
    return round_ste(x / step), step


def block_float(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Int8 with one power-of-two exponent shared over ``dims``; returns the represented values."""
    largest = x.detach().abs().amax(dims, keepdim=True).clamp(min=1e-20)
    step = torch.exp2(torch.ceil(torch.log2(largest / ACTIVATION_MAX)))
    return round_ste(x / step).clamp(-ACTIVATION_MAX, ACTIVATION_MAX) * step


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """RMS normalisation without gain over the last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def integer_linear(integers: Tensor, step: Tensor, weights: list[QuantisedWeight], dtype: torch.dtype) -> Tensor:
    """Ternary projections sharing one quantised input.

    integers [N, K], step [N, 1], weights each [M_i, K] -> [N, sum M_i]. Trits and 8-bit integers
    are exact in bfloat16, so ``dtype`` only sets the rounding of the result and of the gradients.
    """
    pairs = [weight() for weight in weights]
    trits = torch.cat([trit for trit, _ in pairs]).to(dtype)
    betas = torch.cat([beta.expand(trit.shape[0]) for trit, beta in pairs])
    return (integers.to(dtype) @ trits.t()).float() * betas * step


def grouped_linear(integers: Tensor, step: Tensor, weight: QuantisedWeight, dtype: torch.dtype) -> Tensor:
    """A ternary projection whose input is quantised in groups.

    integers [g, N, K / g], step [g, N, 1], weight [M, K] -> [N, M].
    """
    trits, beta = weight()
    columns = trits.to(dtype).t().unflatten(0, (len(integers), -1))     # [g, K / g, M]
    return ((integers.to(dtype) @ columns).float() * step).sum(0) * beta


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
    """Attention and feed-forward, each with a residual connection: one after the other, or both from one norm of x."""

    def __init__(self, config: StudentConfig, layer: int) -> None:
        super().__init__()
        self.config, self.has_feed_forward = config, config.has_feed_forward(layer)
        d, ff = config.hidden_size, config.intermediate_size
        q_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = ternary(q_rows, d, sparse=config.sparse)
        self.k_proj = ternary(kv_rows, d, sparse=config.sparse)
        self.v_proj = ternary(kv_rows, d, sparse=config.sparse)
        self.o_proj = ternary(d, q_rows, 0.5, sparse=config.sparse)
        if self.has_feed_forward:
            self.gate_proj = ternary(ff, d, sparse=config.sparse)
            self.up_proj = ternary(ff, d, sparse=config.sparse)
            self.down_proj = ternary(d, ff, 0.5, sparse=config.sparse)
        self.window = config.attention_window(layer)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
        """x [N, d] residual, cos and sin [T, D/2] -> [N, d]."""
        normed = quantise_activations(rms_norm(x, self.config.norm_eps))
        qkv = integer_linear(*normed, [self.q_proj, self.k_proj, self.v_proj], dtype)
        mixed = quantise_activations(self.attend(qkv, cos, sin, batch, dtype))
        x = x + integer_linear(*mixed, [self.o_proj], dtype)
        if not self.has_feed_forward:
            return x
        if not self.config.parallel_residual:
            normed = quantise_activations(rms_norm(x, self.config.norm_eps))
        gate, up = integer_linear(*normed, [self.gate_proj, self.up_proj], dtype).chunk(2, -1)
        hidden = (torch.relu(gate).square() * up).unflatten(-1, (self.config.feed_groups, -1)).transpose(0, 1)
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
        # One exponent per beat: beat g holds the query heads {g, H/G + g}, one of each group. Machines whose words hold
        # one head have an exponent for each, which is finer.
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
