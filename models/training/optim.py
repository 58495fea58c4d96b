"""Muon for matrices: momentum, then an approximate orthogonalisation of each update."""

from __future__ import annotations

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(update: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of each matrix towards one: update [n, rows, columns], rows <= columns."""
    a, b, c = NEWTON_SCHULZ
    x = update.bfloat16()
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
                    parameter.add_(oriented, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
