"""Post-training quantisation of ordinary weights to trit planes: integers ``sum(plane * 3**k)`` with one scale."""

from dataclasses import dataclass

import numpy as np

from host.checkpoint import Tensor
from host.errors import TritloomError

MOST_PLANES = 5                 # five planes are a base-3 byte, 243 levels
DEFAULT_ERROR = 0.02            # of a tensor, relative to its root mean square: five planes of normal weights
SMALLEST = 1e-30                # of the largest weight of a tensor that is not all zero
SAMPLE = 1 << 16                # weights among which the scale is searched
SCALE_STEPS = 64                # tried between nothing and the scale that clips no weight
REFINEMENTS = 4                 # least-squares steps from the best of them


@dataclass(frozen=True)
class PlaneBudget:
    """How many planes a tensor gets.

    Parameters
    ----------
    planes : for every tensor the same number; None takes the least whose error is within the budget.
    error : root mean square of what quantisation changes, relative to that of the weights; None takes
        `DEFAULT_ERROR`, or all planes there are where these do not suffice.
    """

    planes: int | None = None
    error: float | None = None

    def quantise(self, name: str, weights: np.ndarray, limit: int) -> Tensor:
        """A tensor of at most ``limit`` planes.

        Raises
        ------
        TritloomError: a weight is not finite, or the limit leaves an error beyond an explicit budget.
        """
        require_sound(name, weights)
        if self.planes is not None:
            if self.planes > limit:
                raise TritloomError(f"tensor {name} would take {self.planes} trit planes, the configuration holds "
                                    f"{limit}; choose fewer planes or another configuration")
            return to_trit_planes(weights, self.planes)
        error = DEFAULT_ERROR if self.error is None else self.error
        for planes in range(1, limit + 1):
            found = to_trit_planes(weights, planes)
            if found.error <= error:
                return found
        if self.error is not None:
            raise TritloomError(f"tensor {name} has an error of {found.error:.3f} in the {limit} trit planes that the "
                                f"configuration holds; allow more than {error}, or choose another configuration")
        return found


def require_sound(name: str, weights: np.ndarray) -> None:
    """Check that a tensor can be quantised.

    Raises
    ------
    TritloomError: a weight is not finite, or all are next to nothing.
    """
    largest = float(np.abs(weights).max(initial=0))
    if not np.isfinite(largest) or 0 < largest < SMALLEST:
        raise TritloomError(f"tensor {name} has a largest weight of {largest:g}, as a damaged file would; fetch the "
                            "checkpoint again")


def to_trit_planes(weights: np.ndarray, planes: int) -> Tensor:
    """The tensor of so many planes that is nearest to float weights [rows, columns], by least squares."""
    limit = 3**planes // 2
    flat = weights.astype(np.float64).ravel()
    sample = flat[:: -(-flat.size // SAMPLE)]
    sample = sample if sample.any() else flat
    peak = float(np.abs(sample).max(initial=0))
    if peak == 0:
        return Tensor(np.zeros(weights.shape, np.int8), 1.0, planes)
    scales = peak / limit * np.arange(1, SCALE_STEPS + 1) / SCALE_STEPS
    scale = min(scales, key=lambda scale: _squared_error(sample, scale, limit))
    for _ in range(REFINEMENTS):
        integers = _integers(sample, scale, limit)
        squares = float(integers @ integers)
        scale = float(sample @ integers) / squares if squares else scale
    # What the machine multiplies with is a float32 of the file's precision at most.
    scale = float(np.float32(scale))
    integers = _integers(flat, scale, limit)
    error = (_squared_error(flat, scale, limit) / float(flat @ flat)) ** 0.5
    return Tensor(integers.astype(np.int8).reshape(weights.shape), scale, planes, error)


def _integers(weights: np.ndarray, scale: float, limit: int) -> np.ndarray:
    return np.clip(np.rint(weights / scale), -limit, limit)


def _squared_error(weights: np.ndarray, scale: float, limit: int) -> float:
    return float(np.square(weights - _integers(weights, scale, limit) * scale).sum())
