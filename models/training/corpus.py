"""Training windows with what the teacher expects after each of their positions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from host.tokenizer import BOS
from models.training.data import Vocabulary

LEAST_KEPT = 0.5           # of the teacher's distribution; with less on the student's pieces there is little to learn


class Corpus:
    """A token stream with the distribution that the teacher expects after each position.

    Parameters
    ----------
    tokens : int16 [n], of the teacher's vocabulary.
    probabilities : float16 [n, pieces of the teacher], on the same device.
    label_share : weight of the true next token against the teacher's distribution in the training target.
    vocabulary : that of the student, V of the teacher's pieces. What the teacher expects of others is shared out among
        these; where that is most, the position counts less.

    Raises
    ------
    ValueError: tokens are labels, and one is none of the student's pieces.
    """

    def __init__(self, tokens: Tensor, probabilities: Tensor, label_share: float, vocabulary: Vocabulary) -> None:
        own = vocabulary.own(tokens.cpu().numpy(), whole=label_share > 0)
        self._tokens, self._probabilities = torch.from_numpy(own.astype(np.int16)).to(tokens.device), probabilities
        self._kept = torch.from_numpy(vocabulary.kept).to(tokens.device)
        self._share = label_share
        self._openings = np.flatnonzero(own == BOS)

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
        targets = self._probabilities[index][..., self._kept].float()
        targets *= (1 - self._share) / targets.sum(-1, keepdim=True).clamp(min=LEAST_KEPT)
        labels = self._tokens[index + 1].long().unsqueeze(-1)
        targets.scatter_add_(-1, labels, torch.full_like(labels, self._share, dtype=torch.float32))
        return self._tokens[index].long(), targets
