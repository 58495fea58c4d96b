"""The fp32 teacher in the llama2.c layout: logits, soft targets for a stream, and sampled stories."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from host.tokenizer import BOS
from models.training.student import rotate

WINDOWS_AT_ONCE = 32
STREAMS_AT_ONCE = 1024
Progress = Callable[[int], None]


class Teacher:
    """Llama with SwiGLU, RMSNorm with gain and tied embedding, weights read from ``path``."""

    def __init__(self, path: Path, device: torch.device) -> None:
        raw = path.read_bytes()
        d, ff, layers, self.heads, self.groups, self.vocab, self.context = struct.unpack_from("<7i", raw)
        self.layers, self.size, self.device = layers, d // self.heads, device
        values = torch.from_numpy(np.frombuffer(raw, dtype="<f4", offset=28).copy()).to(device)
        kv = self.groups * self.size
        shapes = {
            "embed": (self.vocab, d), "attention_gain": (layers, d),
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
        self.cos, self.sin = angle.cos().to(device), angle.sin().to(device)

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
                past = cache[i, :, :, :, : start + time]
                q = q.view(batch, self.groups, -1, self.size)           # the heads of a group, which share keys
                scores = (q @ past[0].transpose(-1, -2)) * self.size ** -0.5
                out = (scores.softmax(-1) @ past[1]).view(batch, self.heads, 1, self.size)
            else:
                out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + out.transpose(1, 2).reshape(batch, time, -1) @ w["o"][i].t()
            a = _norm(x, w["ffn_gain"][i])
            x = x + (nn.functional.silu(a @ w["gate"][i].t()) * (a @ w["up"][i].t())) @ w["down"][i].t()
        return _norm(x, w["final_gain"]) @ w["embed"].t()


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * gain


def soft_targets(teacher: Teacher, tokens: Tensor, progress: Progress) -> Tensor:
    """What the teacher expects after each position of a stream: tokens [n] -> probabilities [n, V], float16.

    Windows of the teacher's context overlap by half; each position takes its values from the
    window that shows it the longer past.
    """
    context, half, count = teacher.context, teacher.context // 2, len(tokens)
    padded = nn.functional.pad(tokens.long(), (0, 2 * context))
    probabilities = torch.zeros(len(padded), teacher.vocab, dtype=torch.float16, device=teacher.device)
    probabilities[:half] = teacher(padded[None, :half])[0].softmax(-1)
    windows = padded.unfold(0, context, half)
    for first in range(0, (count - 1) // half, WINDOWS_AT_ONCE):
        chunk = windows[first : first + WINDOWS_AT_ONCE]
        begin = (first + 1) * half
        read = teacher(chunk)[:, half:].softmax(-1).flatten(0, 1)
        probabilities[begin : begin + len(read)] = read
        progress(len(chunk))
    return probabilities[:count]


@torch.no_grad()
def sampled_stories(teacher: Teacher, streams: int, length: int, seed: int, progress: Progress
                    ) -> tuple[Tensor, Tensor]:
    """Stories sampled at temperature 1 with their targets: tokens [n] and probabilities [n, V], float16.

    ``streams`` streams of ``length`` tokens each, from BOS on, laid one after another.
    """
    generator = torch.Generator(teacher.device).manual_seed(seed)
    tokens = torch.full((streams, length), BOS, dtype=torch.int16, device=teacher.device)
    probabilities = torch.zeros(streams, length, teacher.vocab, dtype=torch.float16, device=teacher.device)
    for first in range(0, streams, STREAMS_AT_ONCE):
        some = slice(first, min(first + STREAMS_AT_ONCE, streams))
        count = some.stop - some.start
        cache = torch.zeros(teacher.layers, 2, count, teacher.groups, length, teacher.size, device=teacher.device)
        for position in range(length):
            expected = teacher(tokens[some, position : position + 1].long(), cache, position)[:, 0].softmax(-1)
            probabilities[some, position] = expected.half()
            if position + 1 < length:
                drawn = torch.rand(count, 1, device=teacher.device, generator=generator)
                below = torch.searchsorted(expected.cumsum(-1), drawn, right=True).clamp(max=teacher.vocab - 1)
                tokens[some, position + 1] = below[:, 0].short()
            progress(count)
    return tokens.flatten(), probabilities.flatten(0, 1)
