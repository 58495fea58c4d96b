"""Optimisers of a student: Muon for matrices (momentum, then an approximate orthogonalisation of each update) or Adam,
Adam for embedding and head, one schedule of their learning rates, and the average of the weights on the way.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from models.training.student import Student, product_type

Model = TypeVar("Model", bound=nn.Module)
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ADAM_BETAS = (0.9, 0.98)
ADAM_MATRIX_BETAS = (0.95, 0.99)


def orthogonalise(update: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix towards one: update [n, rows, columns], rows <= columns."""
    a, b, c = NEWTON_SCHULZ
    x = update.to(product_type(update.device))
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(-2, -1)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.float()


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalised updates; matrices of one shape are processed together.

    The update of a matrix is scaled by sqrt(max(1, rows / columns)), so ``lr`` is the change of
    an output per unit of input whatever the shape. ``decay`` shrinks the weights by ``lr * decay`` per
    step and so bounds their singular values by ``1 / decay``: without it the scales of the trits grow as
    long as training lasts, and with them, to the third power in the feed-forward, the residual stream.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, decay: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Apply one update from the gradients."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[torch.nn.Parameter, Tensor]]] = {}
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"])
                wide = update if update.shape[0] <= update.shape[1] else update.t()
                by_shape.setdefault((wide.shape[0], wide.shape[1]), []).append((parameter, wide))
            for members in by_shape.values():
                directions = orthogonalise(torch.stack([wide for _, wide in members]))
                for (parameter, _), direction in zip(members, directions, strict=True):
                    rows, columns = parameter.shape
                    oriented = direction if rows <= columns else direction.t()
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(oriented * (group["lr"] * max(1.0, rows / columns) ** 0.5))


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Peak learning rates, decay of the matrices, whether Adam moves them, and the course of the rates over the run.

    ``warmup`` : share of the run in which they rise.
    ``descent`` : power of the way down; 1: a straight line, 2: half of the run is spent below a quarter of the peak.
    """

    matrix_lr: float = 0.015
    matrix_decay: float = 0.1
    adam: bool = False
    embed_lr: float = 0.02
    head_lr: float = 0.004
    warmup: float = 0.02
    descent: float = 1.0

    def rate(self, progress: float) -> float:
        """Learning rate relative to its peak: up in the warm-up, then down to zero.

        At a high rate trits flip back and forth and hold the loss, so most of the gain comes on the way down.
        """
        down = max(0.0, 1.0 - progress) / (1.0 - self.warmup)
        return min(progress / self.warmup, down**self.descent)


class Average(Generic[Model]):
    """Weights averaged over the run: the newest ``span`` of all steps so far count most.

    A trit flips back and forth while its float weight stands near a threshold, and the model with it; the average
    stands on the side where the weight is most of the time. Step t counts as a power of t (Karras et al. 2024, "EDM2",
    section 3.1), so that the length of the run need not be known.

    Parameters
    ----------
    model : whose parameters are averaged.
    span : 0 for none, the latest weights.

    Members
    -------
    model : a copy that has the average as its parameters.
    """

    def __init__(self, model: Model, span: float) -> None:
        self.model = deepcopy(model)
        self._weights, self._averages = list(model.parameters()), list(self.model.parameters())
        self._span = span

    @torch.no_grad()
    def step(self, steps: int) -> None:
        """Take in the weights after this many steps."""
        share = min(1.0, 1.0 / (self._span * steps)) if self._span else 1.0
        torch._foreach_lerp_(self._averages, self._weights, share)


class StudentOptimisers:
    """The optimisers of a student, stepped together."""

    def __init__(self, model: Student, rates: Rates) -> None:
        embed, head = model.embed.weight, model.head.weight
        matrices = [p for p in model.parameters() if p is not embed and p is not head]
        groups: list[dict[str, Any]] = [
            {"params": [embed], "lr": rates.embed_lr}, {"params": [head], "lr": rates.head_lr}]
        self._rates = rates
        self._optimisers: list[torch.optim.Optimizer] = []
        if rates.adam:
            groups.append({"params": matrices, "lr": rates.matrix_lr, "weight_decay": rates.matrix_decay,
                           "betas": ADAM_MATRIX_BETAS})
        else:
            self._optimisers.append(Muon(matrices, lr=rates.matrix_lr, decay=rates.matrix_decay))
        self._optimisers.append(torch.optim.AdamW(groups, betas=ADAM_BETAS, weight_decay=0.0, fused=True,
                                                  capturable=embed.is_cuda))
        self._peaks = [[group["lr"] for group in optimiser.param_groups] for optimiser in self._optimisers]
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = torch.tensor(0.0, device=embed.device)

    def set_rates(self, progress: float) -> None:
        """Set the learning rates of this share of the run."""
        rate = self._rates.rate(progress)
        for optimiser, peaks in zip(self._optimisers, self._peaks, strict=True):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"].fill_(peak * rate)

    def step(self) -> None:
        """Apply the gradients and clear them."""
        for optimiser in self._optimisers:
            optimiser.step()
            optimiser.zero_grad()

    def state(self) -> list[dict[str, Any]]:
        """What `load_state` takes."""
        return [optimiser.state_dict() for optimiser in self._optimisers]

    def load_state(self, states: list[dict[str, Any]]) -> None:
        """Go on where another run stopped."""
        for optimiser, state in zip(self._optimisers, states, strict=True):
            optimiser.load_state_dict(state)
