"""Settling: at the end of a run integers are decided for good, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.training.quantisers import quantised_weights

MEMORY_STEPS = 100
MOST_DOUBT = 0.5           # of an average that lies in the middle between two integers


class Settling:
    """Keeps an average of each weight's integers over the last steps, and fixes those of which it leaves little doubt.

    A few weights in a hundred flip between two integers for as long as a run lasts. Decided all at once at its end,
    they are decided without regard to each other. Here the doubtful ones come last, while what is still free makes up
    for each decision (Nagel et al. 2022, "Overcoming oscillations in quantization-aware training").

    Parameters
    ----------
    model : in training; its steps become constants.
    average : a copy of it that has averages as its parameters, and settles with it.
    """

    def __init__(self, model: nn.Module, average: nn.Module) -> None:
        self._weights = quantised_weights(model)
        for weight, copy in zip(self._weights, quantised_weights(average), strict=True):
            weight.constant_step.copy_(weight.step())
            copy.constant_step, copy.settled, copy.is_settled = weight.constant_step, weight.settled, weight.is_settled
        self._averages = [weight.integers() for weight in self._weights]

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Take in the integers after a step, and settle up to this share of doubt: 0 none, 1 all."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            average.lerp_(weight.integers(), 1 / MEMORY_STEPS)
            if share > 0:
                likely = average.round()
                settles = ((average - likely).abs() <= share * MOST_DOUBT) & ~weight.is_settled
                weight.settled.copy_(torch.where(settles, likely, weight.settled))
                weight.is_settled |= settles

    def state(self) -> list[Tensor]:
        """What a resumed run needs besides the model."""
        return self._averages

    def load_state(self, state: list[Tensor]) -> None:
        """Go on from a state."""
        self._averages = state
