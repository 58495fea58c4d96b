"""Float reference: the checkpoint's mathematics in float64, with only the quantisers that define the model.

It judges the quality of the integer golden model and is never compared exactly.
Source: BitNet b1.58 (absmax int8 activations, ternary weights), RMSNorm, interleaved rotary embedding; for the
recurrence, the MatMul-free language model (arXiv 2406.02528).
"""

from collections.abc import Container

import numpy as np

from host.checkpoint import Checkpoint


class Reference:
    """Float64 evaluation of a checkpoint over whole token sequences.

    Parameters
    ----------
    checkpoint : the model.
    float_inputs : matrices that read activations as they are, not rounded to int8.
    """

    def __init__(self, checkpoint: Checkpoint, float_inputs: Container[str] = ()) -> None:
        self._float_inputs = float_inputs
        self._shape = checkpoint.shape
        self._tensors = checkpoint.tensors
        self._gains = checkpoint.gains

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """float64 [T, vocab] of int [T]."""
        s, weights = self._shape, self._tensors
        x = weights["embed"].integers[tokens] * weights["embed"].scale
        for layer in range(s.layers):
            if s.mixer == "hgrn":
                x = x + self._recurrence(layer, self._norm(x, f"{layer}.mixer"))
                a = self._norm(self._norm(x, f"{layer}.feed"), f"{layer}.gate")
            else:
                a = self._norm(x, f"{layer}.qkv")
                if s.window(layer):
                    x = x + self._attention(layer, a)
                if not s.is_parallel:
                    a = self._norm(x, f"{layer}.gate")
            if not s.groups(layer):
                continue
            h = self._activation(self._linear(f"{layer}.gate", a)) * self._linear(f"{layer}.up", a)
            x = x + self._linear(f"{layer}.down", self._sub_norm(h, f"{layer}.down"))
        return self._linear("head", self._norm(self._norm(x, "final") if s.mixer == "hgrn" else x, "head"))

    def loss(self, tokens: np.ndarray) -> float:
        """Mean negative log-likelihood in nats of tokens[1:] given their past."""
        logits = self.logits(tokens[:-1])
        return float(np.mean(negative_log_likelihood(logits, tokens[1:])))

    def keys(self, layer: int, a: np.ndarray) -> np.ndarray:
        """Rotated keys [T, kv_heads, head_dim] of a layer whose normed input is [T, hidden]."""
        s = self._shape
        return self._rotate(self._linear(f"{layer}.k", a).reshape(len(a), s.kv_heads, s.head_dim))

    def _activation(self, g: np.ndarray) -> np.ndarray:
        return _silu(g) if self._shape.activation == "silu" else np.maximum(g, 0) ** 2

    def _norm(self, x: np.ndarray, reader: str) -> np.ndarray:
        normed = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self._shape.norm_epsilon)
        return normed * self._gains.get(reader, 1.0)

    def _sub_norm(self, x: np.ndarray, reader: str) -> np.ndarray:
        return self._norm(x, reader) if reader.rpartition(".")[2] in self._shape.sub_norms else x

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        """BitLinear: absmax int8 activations [T, columns] times integer weights [rows, columns].

        The hidden vector of the feed-forward is quantised in groups.
        """
        tensor = self._tensors[name]
        weights = tensor.integers.T.astype(np.float64)
        if name in self._float_inputs:
            return x @ weights * tensor.scale
        layer, _, part = name.rpartition(".")
        groups = self._shape.groups(int(layer)) if part == "down" else 1
        grouped = x.reshape(len(x), groups, -1)
        peak = np.maximum(np.abs(grouped).max(axis=-1, keepdims=True), 1e-5)
        quantised = np.clip(np.rint(grouped * (127 / peak)), -127, 127)
        sums = np.einsum("tgc,gcr->gtr", quantised, weights.reshape(groups, -1, weights.shape[1]), optimize=True)
        return (sums * (peak / 127 * tensor.scale).transpose(1, 0, 2)).sum(axis=0)

    def _attention(self, layer: int, a: np.ndarray) -> np.ndarray:
        s = self._shape
        length, group = len(a), s.heads // s.kv_heads
        q = self._rotate(self._linear(f"{layer}.q", a).reshape(length, s.heads, s.head_dim))
        k = self.keys(layer, a).repeat(group, axis=1)
        v = self._linear(f"{layer}.v", a).reshape(length, s.kv_heads, s.head_dim).repeat(group, axis=1)
        scores = np.einsum("thd,uhd->htu", q, k) / np.sqrt(s.head_dim)
        seen = np.tri(length, dtype=bool) & ~np.tri(length, k=-s.window(layer), dtype=bool)
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out = np.einsum("htu,uhd->thd", weights, v).reshape(length, -1)
        return self._linear(f"{layer}.o", self._sub_norm(out, f"{layer}.o"))

    def _recurrence(self, layer: int, a: np.ndarray) -> np.ndarray:
        """HGRN of normed [T, hidden]: h = f * h + (1 - f) * silu(i), gated by a normed g; a norm per projection."""
        i, f, g = (self._linear(f"{layer}.{part}", self._norm(a, f"{layer}.{part}")) for part in "ifg")
        # A lower bound leaves the forget gate less of its range: 1 - f is that much smaller.
        taken = self._gains.get(f"{layer}.forget", 1.0) / (1 + np.exp(f))
        inputs, h = taken * _silu(i), np.zeros(a.shape[1])
        states = np.empty_like(inputs)
        for step, (keep, new) in enumerate(zip(1 - taken, inputs, strict=True)):
            h = keep * h + new
            states[step] = h
        out = self._norm(g, f"{layer}.gated") * _silu(states)
        return self._linear(f"{layer}.o", self._sub_norm(out, f"{layer}.o"))

    def _rotate(self, x: np.ndarray) -> np.ndarray:
        """Rotate pairs (2i, 2i+1) of [T, heads, head_dim] by position * theta**(-2i/head_dim)."""
        dim = x.shape[-1]
        angle = np.arange(len(x))[:, None] * self._shape.rope_theta ** (-np.arange(0, dim, 2) / dim)
        cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cosine - x[..., 1::2] * sine
        out[..., 1::2] = x[..., 1::2] * cosine + x[..., 0::2] * sine
        return out


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """nats [T] of int targets [T] under logits [T, vocab]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=-1)) - shifted[np.arange(len(targets)), targets]
