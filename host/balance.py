"""Rewrites ordinary weights into others that compute the same in floats and lose less in integers.

Two things cost an ordinary model most: weights and activations of a few channels that are much larger than the rest,
and keys. Every key has a large constant part, in the pair of slowest rotation, where queries are large too; it leaves
few of the levels of int8 to what tells keys apart.
"""

import numpy as np

from host.checkpoint import Checkpoint, Shape, Tensor
from sim.reference import Reference

TOKENS = 256                    # random ones, from which the keys are known
USUAL = 0.95                    # of the tokens, whose keys use the range of int8; the others take a further exponent
LEVELS = 121                    # magnitudes of five trit planes
WRITERS = (".o", ".down")       # projections that write the residual stream; all others read it

Weights = dict[str, np.ndarray]


def balance(weights: Weights, shape: Shape) -> Weights:
    """The same model, by the keys of `Checkpoint.tensors`, with the gains of its norms in the columns.

    Weights that already lie on few levels are left as they are: they need few planes, and any change needs more.
    """
    if any(len(np.unique(np.abs(matrix))) <= LEVELS for matrix in weights.values()):
        return weights
    # What overflows is found when it is quantised.
    with np.errstate(all="ignore"):
        balanced = spread_channels(turn_keys(weights, shape), shape)
        return {key: matrix.astype(np.float32) for key, matrix in balanced.items()}


def spread_channels(weights: Weights, shape: Shape) -> Weights:
    """In another orthogonal basis of the residual stream, where every channel holds a part of each former one.

    A norm without gains commutes with it. The basis is a cosine transform after random signs.
    """
    size = shape.hidden
    order, place = np.arange(size)[:, None], np.arange(size) + 0.5
    basis = np.cos(np.pi / size * order * place) * np.where(order, 2.0, 1.0) ** 0.5 / size**0.5
    basis *= np.random.default_rng(0).choice([-1.0, 1.0], size)
    return {key: basis @ matrix if key.endswith(WRITERS) else matrix @ basis.T for key, matrix in weights.items()}


def turn_keys(weights: Weights, shape: Shape) -> Weights:
    """Keys whose peaks are small and fill their int8; queries follow, so that every score stays the same.

    Each rotary pair is turned until its two elements are equally large, which commutes with the rotation by the
    position. Each head is scaled until its usual peak lies just below a power of two, as all heads of a word and all
    values of int8 share that exponent.
    """
    recorder = _Recorder(weights, shape)
    recorder.logits(np.random.default_rng(0).integers(0, shape.vocab, min(TOKENS, shape.context)))
    found = {key: matrix.astype(np.float64) for key, matrix in weights.items()}
    for layer, keys in enumerate(recorder.recorded):
        pairs = keys[..., 0::2] + 1j * keys[..., 1::2]
        turn = np.exp(1j * (np.pi / 4 - np.angle(np.square(pairs).mean(axis=0)) / 2))      # [kv_heads, head_dim / 2]
        turned = pairs * turn
        peaks = np.quantile(np.maximum(np.abs(turned.real), np.abs(turned.imag)).max(axis=2), USUAL, axis=0)
        if not peaks.all():
            continue
        common = 127 / 128 * 2.0 ** np.rint(np.log2(peaks).mean())
        scale = (common / peaks)[:, None]
        found[f"{layer}.k"] = _multiply_pairs(found[f"{layer}.k"], turn * scale)
        found[f"{layer}.q"] = _multiply_pairs(found[f"{layer}.q"], turn / scale)
    return found


def _multiply_pairs(rows: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Rows [heads * head_dim, columns], pairs as complex numbers times factors [kv_heads, head_dim / 2]."""
    pairs = (rows[0::2] + 1j * rows[1::2]).reshape(len(factors), -1, factors.shape[1], rows.shape[1])
    product = (pairs * factors[:, None, :, None]).reshape(-1, rows.shape[1])
    return np.stack([product.real, product.imag], axis=1).reshape(rows.shape)


class _Recorder(Reference):
    """Keeps the keys of every layer.

    Members
    -------
    recorded : per layer [T, kv_heads, head_dim].
    """

    def __init__(self, weights: Weights, shape: Shape) -> None:
        super().__init__(Checkpoint("", shape, {key: Tensor(matrix, 1.0) for key, matrix in weights.items()}))
        self.recorded: list[np.ndarray] = []

    def keys(self, layer: int, a: np.ndarray) -> np.ndarray:
        """As in the reference, recorded."""
        found = super().keys(layer, a)
        self.recorded.append(found)
        return found
