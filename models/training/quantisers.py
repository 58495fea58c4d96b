"""The quantisers of the machine, each with a straight-through gradient: of weights, activations, keys and values."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from rtl.config import SPARSE_GROUP

ACTIVATION_MAX = 127
EMBED_LIMIT, HEAD_LIMIT, TERNARY_LIMIT = 13, 4, 1
# Step of a tensor by largest integer and sparsity, in mean magnitudes of its weights. One trit: BitNet's absmean. More
# levels: they cover about three standard deviations of normal weights. Sparse: the least squares of normal weights.
STEP_PER_MEAN = {(TERNARY_LIMIT, False): 1.0, (TERNARY_LIMIT, True): 1.22, (HEAD_LIMIT, False): 0.65,
                 (HEAD_LIMIT, True): 0.48, (EMBED_LIMIT, False): 0.28}

# How often weights that were drawn are brought to their magnitude, and how far they stay from their interval's ends.
ROUNDS, EDGE = 20, 0.01
STEP_TOLERANCE = 0.01


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes unchanged."""
    return x + (x.round() - x).detach()


def one_zero_in_four(scaled: Tensor, limit: int) -> Tensor:
    """Nearest integers whose trit planes each have exactly one zero in four neighbours of a row.

    scaled [rows, columns], columns a multiple of four; `TERNARY_LIMIT` for one plane, `HEAD_LIMIT` for two
    (``3 * high + low``).
    """
    groups = scaled.unflatten(-1, (-1, SPARSE_GROUP))
    sign, size = torch.where(groups < 0, -1.0, 1.0), groups.abs()
    place = torch.arange(SPARSE_GROUP, device=scaled.device)
    if limit == TERNARY_LIMIT:
        return (sign * (size.argmin(-1, keepdim=True) != place)).flatten(-2)
    both = torch.where(size < 3, 2.0, 4.0)                                      # neither plane is zero
    errors = [(size - level).square() for level in (both, 3.0, 1.0, 0.0)]      # then low, high, both
    low, high, zero = (error - errors[0] for error in errors[1:])
    same = torch.diag_embed(zero - low - high)
    pairs = low.unsqueeze(-1) + high.unsqueeze(-2) + same                      # by place of low's and of high's zero
    best = pairs.flatten(-2).argmin(-1, keepdim=True)
    low_zero, high_zero = best // SPARSE_GROUP == place, best % SPARSE_GROUP == place
    magnitude = torch.where(low_zero, torch.where(high_zero, 0.0, 3.0), torch.where(high_zero, 1.0, both))
    return (sign * magnitude).flatten(-2)


class QuantisedWeight(nn.Module):
    """Integers in -limit..limit times one step per tensor, or with ``sparse`` those of `one_zero_in_four`.

    While training, the step is `STEP_PER_MEAN` times the mean magnitude of the float weight, unless it is constant,
    and the integers pass their gradient straight through. After
    ``freeze`` the weight holds the integers of an exported tensor and the step is its scale.

    Members
    -------
    share : 0-d tensor, how much of the way from the float weight to the integer is gone: 1, or less while a run begins.
    constant_step : 0-d tensor, the step if that no longer follows the weights, else 0.
    is_settled, settled : [rows, columns], where the integer no longer follows the weight, and what it is there.
    """

    frozen_step: Tensor | None
    share: Tensor
    constant_step: Tensor
    is_settled: Tensor
    settled: Tensor

    def __init__(self, rows: int, columns: int, limit: int, spread: float, *, sparse: bool = False) -> None:
        super().__init__()
        self.limit, self.sparse = limit, sparse
        self.weight = nn.Parameter(torch.randn(rows, columns) * spread)
        self.register_buffer("frozen_step", None, persistent=False)
        self.register_buffer("share", torch.tensor(1.0), persistent=False)
        self.register_buffer("constant_step", torch.tensor(0.0))
        self.register_buffer("is_settled", torch.zeros(rows, columns, dtype=torch.bool))
        self.register_buffer("settled", torch.zeros(rows, columns))

    def forward(self) -> tuple[Tensor, Tensor]:
        """(integers [rows, columns] as float, step as a 0-d tensor)."""
        if self.frozen_step is not None:
            return self.weight, self.frozen_step
        step = self.step()
        scaled = self.weight / step
        return scaled + self.share * (self._nearest(scaled) - scaled).detach(), step

    @torch.no_grad()
    def step(self) -> Tensor:
        """What an integer stands for while training: 0-d."""
        follows = self.weight.abs().mean().clamp(min=1e-8) * STEP_PER_MEAN[self.limit, self.sparse]
        return torch.where(self.constant_step > 0, self.constant_step, follows)

    @torch.no_grad()
    def integers(self) -> Tensor:
        """[rows, columns] as float: those that have settled, and for the others the nearest to the weight."""
        return self._nearest(self.weight / self.step())

    @torch.no_grad()
    def _nearest(self, scaled: Tensor) -> Tensor:
        nearest = (one_zero_in_four(scaled, self.limit) if self.sparse
                   else scaled.clamp(-self.limit, self.limit).round())
        return torch.where(self.is_settled, self.settled, nearest)

    def freeze(self, integers: Tensor, step: Tensor) -> None:
        """Replace the float weight by exported integers and their scale."""
        self.weight = nn.Parameter(integers.float(), requires_grad=False)
        self.frozen_step = step

    @torch.no_grad()
    def start_from(self, integers: Tensor, step: Tensor, *, sparse: bool) -> None:
        """Take float weights that quantise to these integers, to train on from them.

        Magnitudes are spread inside each integer's interval as a normal distribution has them, so that training
        can move as many weights across a threshold as it could in the run that made the integers. Then they are
        brought to the magnitude whose step is that of the integers, each within its interval; where intervals do not
        allow that, the step becomes constant. ``sparse`` says what that run made. Where it made no sparse weights and
        these are to be, integers change at once: a fifth of the trits.

        Fewer rows or columns become the first ones of the tensor. Further rows stay as random as they are, and further
        columns become zeros, so that they add nothing until they have learned something; sparse ones cannot all be.

        Raises
        ------
        ValueError: they are sparse, and these are not to be; or they are more.
        """
        if sparse and not self.sparse:
            raise ValueError("a model that is not sparse cannot start from a sparse one")
        if any(given > own for given, own in zip(integers.shape, self.weight.shape, strict=True)):
            raise ValueError(f"a model with {list(self.weight.shape)} weights cannot start from {list(integers.shape)}")
        grown = self()[0].round()
        grown[:, integers.shape[1] :] = 0
        grown[: integers.shape[0], : integers.shape[1]] = integers
        integers, step_per_mean = grown, STEP_PER_MEAN[self.limit, sparse]
        spread = 1 / (step_per_mean * math.sqrt(2 / math.pi))   # of the float weight, in steps
        low, high = integers - 0.5, integers + 0.5
        low = torch.where(integers == -self.limit, -math.inf, low)
        high = torch.where(integers == self.limit, math.inf, high)
        below, above = (torch.special.ndtr(edge / spread) for edge in (low, high))
        drawn = spread * torch.special.ndtri(below + (above - below) * torch.rand(integers.shape).clamp(0.01, 0.99))
        for _ in range(ROUNDS):
            drawn /= drawn.abs().mean() * step_per_mean
            drawn.clamp_(low + EDGE, high - EDGE)
        self.weight.copy_(drawn * step)
        if (self.step() / step - 1).abs() > STEP_TOLERANCE:
            self.constant_step.copy_(step)

    @torch.no_grad()
    def start_from_rows(self, rows: np.ndarray, integers: Tensor, step: Tensor, *, sparse: bool) -> None:
        """The same with some of the rows only; the step stays what follows from all of them."""
        whole = QuantisedWeight(*integers.shape, self.limit, 1.0, sparse=self.sparse)
        whole.start_from(integers, step, sparse=sparse)
        self.weight.copy_(whole.weight[torch.from_numpy(rows)])
        self.constant_step.copy_(whole.step())


def quantised_weights(model: nn.Module) -> list[QuantisedWeight]:
    """All of a model, in its order."""
    return [module for module in model.modules() if isinstance(module, QuantisedWeight)]


def ternary(rows: int, columns: int, gain: float = 1.0, *, sparse: bool = False) -> QuantisedWeight:
    """One trit plane: BitNet b1.58, or 3:4-sparse."""
    return QuantisedWeight(rows, columns, TERNARY_LIMIT, gain / math.sqrt(columns), sparse=sparse)


def quantise_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Absmax int8 per row: x [N, K] -> integers [N, K] as float, step [N, 1] with x ~ integers * step."""
    step = x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-5) / ACTIVATION_MAX
    return round_ste(x / step), step


def block_float(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Int8 with one power-of-two exponent shared over ``dims``; returns the represented values."""
    largest = x.detach().abs().amax(dims, keepdim=True).clamp(min=1e-20)
    step = torch.exp2(torch.ceil(torch.log2(largest / ACTIVATION_MAX)))
    return round_ste(x / step).clamp(-ACTIVATION_MAX, ACTIVATION_MAX) * step


def integer_linear(integers: Tensor, step: Tensor, weights: list[QuantisedWeight], dtype: torch.dtype) -> Tensor:
    """Ternary projections sharing one quantised input.

    integers [N, K], step [N, 1], weights each [M_i, K] -> [N, sum M_i]. Trits and 8-bit integers
    are exact in bfloat16, so ``dtype`` only sets the rounding of the result and of the gradients; and of weights while
    they are not quantised all the way.
    """
    pairs = [weight() for weight in weights]
    trits = torch.cat([trit for trit, _ in pairs]).to(dtype)
    betas = torch.cat([beta.expand(trit.shape[0]) for trit, beta in pairs])
    return (integers.to(dtype) @ trits.t()).float() * betas * step


def grouped_linear(integers: Tensor, step: Tensor, weight: QuantisedWeight, dtype: torch.dtype) -> Tensor:
    """A ternary projection whose input is quantised in groups.

    integers [g, N, K / g], step [g, N, 1], weight [M, K] -> [N, M].
    """
    trits, beta = weight()
    columns = trits.to(dtype).t().unflatten(0, (len(integers), -1))     # [g, K / g, M]
    return ((integers.to(dtype) @ columns).float() * step).sum(0) * beta
