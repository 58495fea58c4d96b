"""Training windows with what the teacher expects after each of their positions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.training.data import BOS


class Corpus:
    """A token stream with the distribution that the teacher expects after each position.

    Parameters
    ----------
    tokens : int16 [n].
    probabilities : float16 [n, V], on the same device.
    label_share : weight of the true next token against the teacher's distribution in the training target.
    """

    def __init__(self, tokens: Tensor, probabilities: Tensor, label_share: float) -> None:
        self._tokens, self._probabilities, self._share = tokens, probabilities, label_share
        self._openings = np.flatnonzero(tokens.cpu().numpy() == BOS)

    def sample(self, rng: np.random.Generator, windows: int, context: int, opening_share: float
               ) -> tuple[Tensor, Tensor]:
        """Random windows: inputs int64 [w, T] and targets float32 [w, T, V].

        A share of the windows begins at the start of a story, as generation does.
        """
        last = len(self._tokens) - context - 1
        starts = rng.integers(0, last, windows)
        at_opening = rng.random(windows) < opening_share
        starts = np.where(at_opening, np.minimum(rng.choice(self._openings, windows), last - 1), starts)
        index = torch.from_numpy(starts[:, None] + np.arange(context)).to(self._tokens.device)
        targets = self._probabilities[index].float() * (1 - self._share)
        labels = self._tokens[index + 1].long().unsqueeze(-1)
        targets.scatter_add_(-1, labels, torch.full_like(labels, self._share, dtype=torch.float32))
        return self._tokens[index].long(), targets
