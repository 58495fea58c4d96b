"""A small random MatMul-free language model, in the files it would come in, and its published equations in floats.

The equations are those of arXiv 2406.02528 with the conventions of the published checkpoints, and come from nothing
that the importer, the compiler or the reference contains.
"""

from pathlib import Path

import numpy as np

from tests.containers import Stored, write_model

HIDDEN, FEED, LAYERS, VOCAB = 48, 72, 3, 512
CONFIG = {
    "architectures": ["HGRNBitForCausalLM"], "attn_mode": "fused_recurrent", "expand_ratio": 1, "hidden_act": "swish",
    "hidden_ratio": 4, "hidden_size": HIDDEN, "intermediate_size": FEED, "max_position_embeddings": 64,
    "model_type": "hgrn_bit", "num_heads": 1, "num_hidden_layers": LAYERS, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "use_cache": True, "use_lower_bound": True, "use_short_conv": False,
    "vocab_size": VOCAB}
PROJECTIONS = {"attn.i_proj": (HIDDEN, HIDDEN), "attn.f_proj": (HIDDEN, HIDDEN), "attn.g_proj": (HIDDEN, HIDDEN),
               "attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (2 * FEED, HIDDEN), "mlp.down_proj": (HIDDEN, FEED)}


class SmallHgrn:
    """A random model.

    Parameters
    ----------
    gained : whether norms have gains other than 1.

    Members
    -------
    stored : its tensors as its file has them, float32.
    weights : their values in float64.
    """

    def __init__(self, *, seed: int = 0, gained: bool = True) -> None:
        self.config = dict(CONFIG)
        self.stored: dict[str, Stored] = {}
        self.weights: dict[str, np.ndarray] = {}
        self._rng, self._gained = np.random.default_rng(seed), gained
        self._store("model.embeddings.weight", self._rng.normal(0, 0.3, (VOCAB, HIDDEN)))
        self._store("model.lower_bounds", self._rng.normal(0, 1, (LAYERS, HIDDEN)))
        for layer in range(LAYERS):
            at = f"model.layers.{layer}"
            for name in ("attn_norm", "mlp_norm", "attn.g_norm"):
                self._norm_of(f"{at}.{name}", HIDDEN)
            for name, size in PROJECTIONS.items():
                self._projection(f"{at}.{name}", size)
        self._norm_of("model.norm", HIDDEN)
        self._projection("lm_head", (VOCAB, HIDDEN))

    def _store(self, name: str, values: np.ndarray) -> None:
        values = values.astype("<f4")
        self.stored[name] = "F32", values.shape, values.tobytes()
        self.weights[name] = values.astype(np.float64)

    def _norm_of(self, name: str, size: int) -> None:
        self._store(f"{name}.weight", self._rng.uniform(0.3, 2, size) if self._gained else np.ones(size))

    def _projection(self, name: str, size: tuple[int, int]) -> None:
        self._store(f"{name}.weight", self._rng.normal(0, 1.5 * size[1] ** -0.5, size))
        self._norm_of(f"{name}.norm", size[1])

    def write(self, folder: Path) -> Path:
        """Its config.json and weights."""
        return write_model(folder, self.config, self.stored)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """float64 [T, vocab] of int [T]."""
        bounds = np.exp(self.weights["model.lower_bounds"])
        bounds = bounds / bounds.sum(0)
        bounds = bounds.cumsum(0) - bounds[0]
        states = np.zeros((LAYERS, HIDDEN))
        return np.stack([self._token(token, states, bounds) for token in tokens])

    def _token(self, token: int, states: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Logits after one token; changes the states [layers, hidden]."""
        x = self.weights["model.embeddings.weight"][token]
        for layer in range(LAYERS):
            at = f"model.layers.{layer}"
            a = self._norm(x, f"{at}.attn_norm")
            i, f, g = (self._bitlinear(a, f"{at}.attn.{name}_proj") for name in "ifg")
            f = sigmoid(f)
            if layer:
                f = bounds[layer] + (1 - bounds[layer]) * f
            states[layer] = f * states[layer] + i * sigmoid(i) * (1 - f)
            out = self._norm(g, f"{at}.attn.g_norm") * states[layer] * sigmoid(states[layer])
            x = x + self._bitlinear(out, f"{at}.attn.o_proj")
            gate, y = np.split(self._bitlinear(self._norm(x, f"{at}.mlp_norm"), f"{at}.mlp.gate_proj"), 2)
            x = x + self._bitlinear(gate * sigmoid(gate) * y, f"{at}.mlp.down_proj")
        return self._bitlinear(self._norm(x, "model.norm"), "lm_head")

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean() + 1e-6) * self.weights[f"{name}.weight"]

    def _bitlinear(self, x: np.ndarray, name: str) -> np.ndarray:
        """A norm of its own, eight bits for activations, the nearest of -1, 0, 1 times the mean for weights."""
        x, weights = self._norm(x, f"{name}.norm"), self.weights[f"{name}.weight"]
        mean, peak = np.abs(weights).mean(), np.abs(x).max()
        return np.clip(np.rint(weights / mean), -1, 1) * mean @ (np.rint(x * 127 / peak) * peak / 127)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
