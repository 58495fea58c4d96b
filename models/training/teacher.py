"""The fp32 teacher in the llama2.c layout: logits, soft targets for a stream, and sampled stories."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.training.data import BOS
from models.training.student import rotate

TOP_K = 24
Progress = Callable[[int], None]


class Teacher:
    """Llama with SwiGLU, RMSNorm with gain and tied embedding, weights read from ``path``."""

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        d, ff, layers, self.heads, self.groups, vocab, self.context = struct.unpack_from("<7i", raw)
        self.layers, self.size = layers, d // self.heads
        values = torch.from_numpy(np.frombuffer(raw, dtype="<f4", offset=28).copy())
        kv = self.groups * self.size
        shapes = {
            "embed": (vocab, d), "attention_gain": (layers, d),
            "q": (layers, d, d), "k": (layers, kv, d), "v": (layers, kv, d), "o": (layers, d, d),
            "ffn_gain": (layers, d), "gate": (layers, ff, d), "down": (layers, d, ff), "up": (layers, ff, d),
            "final_gain": (d,),
        }  # fmt: skip
        self.weights: dict[str, Tensor] = {}
        offset = 0
        for name, shape in shapes.items():
            count = math.prod(shape)
            self.weights[name] = values[offset : offset + count].view(shape)
            offset += count
        frequency = 10000.0 ** (-torch.arange(0, self.size, 2).float() / self.size)
        angle = torch.outer(torch.arange(self.context).float(), frequency)
        self.cos, self.sin = angle.cos(), angle.sin()

    @torch.no_grad()
    def __call__(self, tokens: Tensor, cache: Tensor | None = None, start: int = 0) -> Tensor:
        """tokens [B, T] at positions start.. -> logits [B, T, V].

        ``cache`` [layers, 2, B, G, context, D] holds keys and values of a generation, one
        position per call; without it the T positions attend causally among themselves.
        """
        w, (batch, time) = self.weights, tokens.shape
        x = w["embed"][tokens]
        cos, sin = self.cos[start : start + time], self.sin[start : start + time]
        for i in range(self.layers):
            a = _norm(x, w["attention_gain"][i])
            q = rotate((a @ w["q"][i].t()).view(batch, time, self.heads, -1), cos, sin).transpose(1, 2)
            k = rotate((a @ w["k"][i].t()).view(batch, time, self.groups, -1), cos, sin).transpose(1, 2)
            v = (a @ w["v"][i].t()).view(batch, time, self.groups, -1).transpose(1, 2)
            if cache is not None:
                cache[i, 0, :, :, start : start + time] = k
                cache[i, 1, :, :, start : start + time] = v
                k, v = cache[i, 0, :, :, : start + time], cache[i, 1, :, :, : start + time]
            out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=cache is None, enable_gqa=True)
            x = x + out.transpose(1, 2).reshape(batch, time, -1) @ w["o"][i].t()
            a = _norm(x, w["ffn_gain"][i])
            x = x + (nn.functional.silu(a @ w["gate"][i].t()) * (a @ w["up"][i].t())) @ w["down"][i].t()
        return _norm(x, w["final_gain"]) @ w["embed"].t()


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * gain


def _top(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    values, ids = logits.topk(TOP_K, -1)
    return ids.numpy().astype(np.uint16), values.softmax(-1).numpy().astype(np.float16)


def soft_targets(teacher: Teacher, tokens: np.ndarray, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Most likely continuations of every position of a stream: ids [n, k], probabilities [n, k].

    Windows of the teacher's context overlap by half; each position takes its values from the
    window that shows it the longer past.
    """
    context, half, count = teacher.context, teacher.context // 2, len(tokens)
    ids = np.zeros((count, TOP_K), dtype=np.uint16)
    probabilities = np.zeros((count, TOP_K), dtype=np.float16)
    padded = torch.from_numpy(np.pad(tokens, (0, 2 * context)).astype(np.int64))
    ids[:half], probabilities[:half] = _top(teacher(padded[None, :half])[0])
    starts = list(range(0, count - half, half))
    for begin in range(0, len(starts), 32):
        chunk = starts[begin : begin + 32]
        top_ids, top_probabilities = _top(teacher(torch.stack([padded[s : s + context] for s in chunk]))[:, half:])
        for row, start in enumerate(chunk):
            stop = min(start + context, count)
            ids[start + half : stop] = top_ids[row, : stop - start - half]
            probabilities[start + half : stop] = top_probabilities[row, : stop - start - half]
        progress(len(chunk))
    return ids, probabilities


@torch.no_grad()
def sampled_stories(
    teacher: Teacher, batch: int, length: int, seed: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stories sampled at temperature 1 with their targets: tokens [n], ids [n, k], probabilities [n, k].

    ``batch`` streams of ``length`` tokens each, from BOS on, laid one after another.
    """
    generator = torch.Generator().manual_seed(seed)
    cache = torch.zeros(teacher.layers, 2, batch, teacher.groups, length, teacher.size)
    tokens = np.full((batch, length), BOS, dtype=np.uint16)
    ids = np.zeros((batch, length, TOP_K), dtype=np.uint16)
    probabilities = np.zeros((batch, length, TOP_K), dtype=np.float16)
    current = torch.full((batch, 1), BOS)
    for position in range(length):
        logits = teacher(current, cache, position)[:, 0]
        ids[:, position], probabilities[:, position] = _top(logits)
        current = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        if position + 1 < length:
            tokens[:, position + 1] = current[:, 0].numpy()
        progress(1)
    return tokens.reshape(-1), ids.reshape(-1, TOP_K), probabilities.reshape(-1, TOP_K)
