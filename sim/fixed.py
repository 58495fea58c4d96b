"""Integer arithmetic of the machine: the definition of every rounding, table and scale.

A *scalar* is ``mantissa * 2**exponent`` with a 16-bit normalised mantissa. All functions are exact integer
functions; arrays are numpy int64. The gateware builds its tables from the ones here.
"""

from dataclasses import dataclass

import numpy as np

from rtl.isa import (
    MANTISSA_BITS,
    SCALAR_EXPONENT_BITS,
    SCALE_MANTISSA_BITS,
    SCALE_SHIFT_MAX,
    SCALE_SHIFT_STEP,
)

HALF = 1 << MANTISSA_BITS - 1
TABLE_ENTRIES = 256
TABLE_FRACTION_BITS = 7    # mantissa bits below the table index
EXP_ENTRIES = 32
EXP_FRACTION_BITS = 5      # score fraction bits below the table index
EXP_ONE = 65520            # 2**0 before the shift to 12 bits: the largest value that rounds to 4095
ROTARY_FRACTION = 14
SILU_ENTRIES = 256
SILU_FRACTION = 11         # fraction bits of SiLU's operand and result
SILU_STEP_BITS = 7         # operand bits below the table index
SIGMOID_ONE = 65535        # what 1 is in results of SIGMOID, 16 bits: a product with them loses no bit of its factor
GUMBEL_ENTRIES = 1024
GUMBEL_FRACTION = 8        # fraction bits of Gumbel noise and of scaled logits


def shift_round(value, bits):
    """``value / 2**bits`` rounded half up; ``bits >= 0``."""
    if isinstance(bits, int):
        return value + (1 << bits >> 1) >> bits
    return value + (1 << np.asarray(bits, np.int64) >> 1) >> bits


def saturate(value, bits: int):
    """Clamp to the signed range of ``bits`` bits."""
    return np.minimum(np.maximum(value, -(1 << bits - 1)), (1 << bits - 1) - 1)


def clamp_int8(value):
    """Clamp to -127..127: the symmetric int8 of activations, queries, keys and values."""
    return np.minimum(np.maximum(value, -127), 127)


@dataclass(frozen=True)
class Scalar:
    """``mantissa * 2**exponent``; mantissa in [2**15, 2**16).

    Raises
    ------
    OverflowError: the exponent leaves its nine bits.
    """

    mantissa: int
    exponent: int

    def __post_init__(self) -> None:
        if not HALF <= self.mantissa < 2 * HALF:
            raise OverflowError(f"scalar mantissa {self.mantissa} is not normalised")
        if not -(1 << SCALAR_EXPONENT_BITS - 1) <= self.exponent < 1 << SCALAR_EXPONENT_BITS - 1:
            raise OverflowError(f"scalar exponent {self.exponent} does not fit {SCALAR_EXPONENT_BITS} bits")

    def __float__(self) -> float:
        return self.mantissa * 2.0**self.exponent

    @staticmethod
    def from_float(value: float) -> "Scalar":
        """Nearest scalar of a positive float.

        Raises
        ------
        ValueError: the value is not positive and finite.
        """
        if not (value > 0 and np.isfinite(value)):
            raise ValueError(f"a scale must be positive and finite, got {value}")
        fraction, exponent = np.frexp(value)
        mantissa = int(np.rint(fraction * 2 * HALF))
        if mantissa == 2 * HALF:
            return Scalar(HALF, int(exponent) + 1 - MANTISSA_BITS)
        return Scalar(mantissa, int(exponent) - MANTISSA_BITS)


ONE = Scalar(HALF, 1 - MANTISSA_BITS)
NOTHING = Scalar(HALF, -128)    # lanes multiply by zero


def normalise(value: int) -> Scalar:
    """Scalar of a non-negative integer, truncated; zero counts as one."""
    value = max(int(value), 1)
    exponent = value.bit_length() - MANTISSA_BITS
    return Scalar(value >> exponent if exponent >= 0 else value << -exponent, exponent)


def multiply(a: Scalar, b: Scalar) -> Scalar:
    """Truncated product."""
    product = a.mantissa * b.mantissa
    top = product >> 2 * MANTISSA_BITS - 1
    return Scalar(product >> MANTISSA_BITS - 1 + top, a.exponent + b.exponent + MANTISSA_BITS - 1 + top)


def _linear_table(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Base values and drops to the next point of a function."""
    rounded = np.rint(points).astype(np.int64)
    return rounded[:-1], rounded[:-1] - rounded[1:]


_MANTISSAS = HALF + np.arange(TABLE_ENTRIES + 1) * (HALF // TABLE_ENTRIES)
# 2**31 / m for m in [2**15, 2**16); 17 bits and slope 8 bits
RECIPROCAL_BASE, RECIPROCAL_DROP = _linear_table(2.0**31 / _MANTISSAS)
# 2**23 / sqrt(x) for x in [2**15, 2**16), then 2**24 / sqrt(x) for x in [2**16, 2**17), 128 entries each
_HALVES = HALF + np.arange(TABLE_ENTRIES // 2 + 1) * (HALF // (TABLE_ENTRIES // 2))
_EVEN = _linear_table(2.0**23 / np.sqrt(_HALVES))
_ODD = _linear_table(2.0**24 / np.sqrt(2.0 * _HALVES))
RSQRT_BASE, RSQRT_DROP = (np.concatenate(pair) for pair in zip(_EVEN, _ODD, strict=True))
EXP_BASE, EXP_DROP = _linear_table(EXP_ONE * 2.0 ** (-np.arange(EXP_ENTRIES + 1) / EXP_ENTRIES))


# relu(z) - silu(z) = |z| / (1 + exp(|z|)), the same for both signs, for |z| up to 16; base 10 bits, drop 7 bits signed
_MAGNITUDES = np.arange(SILU_ENTRIES + 1) / (1 << SILU_FRACTION - SILU_STEP_BITS)
SILU_BASE, SILU_DROP = _linear_table(_MAGNITUDES / (1 + np.exp(_MAGNITUDES)) * (1 << SILU_FRACTION))
# sigmoid(-|z|); base 16 bits, drop 11 bits
SIGMOID_BASE, SIGMOID_DROP = _linear_table(SIGMOID_ONE / (1 + np.exp(_MAGNITUDES)))


def _interpolate(base: int, drop: int, fraction: int, fraction_bits: int) -> int:
    return min(int(base) - (int(drop) * fraction >> fraction_bits), 2 * HALF - 1)


def reciprocal(a: Scalar) -> Scalar:
    """``1 / a`` from 256 entries with linear interpolation."""
    offset = a.mantissa - HALF
    index, fraction = offset >> TABLE_FRACTION_BITS, offset & (1 << TABLE_FRACTION_BITS) - 1
    mantissa = _interpolate(RECIPROCAL_BASE[index], RECIPROCAL_DROP[index], fraction, TABLE_FRACTION_BITS)
    return Scalar(mantissa, -a.exponent - (2 * MANTISSA_BITS - 1))


def rsqrt(a: Scalar) -> Scalar:
    """``1 / sqrt(a)`` from 2 x 128 entries (even and odd exponents) with linear interpolation."""
    odd = a.exponent & 1
    offset = a.mantissa - HALF
    bits = TABLE_FRACTION_BITS + 1
    index, fraction = offset >> bits, offset & (1 << bits) - 1
    index += odd * TABLE_ENTRIES // 2
    mantissa = _interpolate(RSQRT_BASE[index], RSQRT_DROP[index], fraction, bits)
    return Scalar(mantissa, -((a.exponent - odd) >> 1) - 23 - odd)


def block(a: Scalar) -> Scalar:
    """``2**-k`` with ``k = max(0, bits(a) - 7)``: brings a peak of ``bits`` bits to int8."""
    return Scalar(HALF, 1 - MANTISSA_BITS - max(0, a.exponent + MANTISSA_BITS - 7))


def block_exponent(a: Scalar) -> int:
    """The ``k`` of a scalar made by `block`."""
    return 1 - MANTISSA_BITS - a.exponent


def lane_factor(scale: Scalar) -> tuple[int, int]:
    """Multiplier (17 bits) and right shift (a multiple of four, at most 28) that apply a scalar in a lane."""
    mantissa = scale.mantissa >> MANTISSA_BITS - SCALE_MANTISSA_BITS
    shift = -(scale.exponent + MANTISSA_BITS - SCALE_MANTISSA_BITS)
    if shift > SCALE_SHIFT_MAX:
        return mantissa >> min(shift - SCALE_SHIFT_MAX, 15), SCALE_SHIFT_MAX
    shift = max(shift, 1 - SCALE_SHIFT_STEP)
    coarse = -(-shift // SCALE_SHIFT_STEP) * SCALE_SHIFT_STEP
    return mantissa << coarse - shift, coarse


def lane_scale(a, scale: Scalar):
    """``a * scale`` as the lanes compute it, before saturation."""
    multiplier, shift = lane_factor(scale)
    return shift_round(a * multiplier, shift)


def gate_shifts(gate_peak: Scalar, up_peak: Scalar) -> tuple[int, int]:
    """Right shifts, multiples of four, that keep relu(g)**2 and its product with u inside 18 bits."""
    gate_bits, up_bits = gate_peak.exponent + MANTISSA_BITS, up_peak.exponent + MANTISSA_BITS
    first = -(-max(0, 2 * gate_bits - 17) // SCALE_SHIFT_STEP) * SCALE_SHIFT_STEP
    return first, -(-up_bits // SCALE_SHIFT_STEP) * SCALE_SHIFT_STEP


def silu(z):
    """``z * sigmoid(z)`` of elements with ``SILU_FRACTION`` fraction bits: ReLU less what 256 entries interpolate.

    Negative operands look up their one's complement, which is one less than their magnitude.
    """
    z = np.asarray(z, np.int64)
    index, fraction = _curve_point(z)
    return np.maximum(z, 0) - SILU_BASE[index] + shift_round(SILU_DROP[index] * fraction, SILU_STEP_BITS)


def sigmoid_less_one(z):
    """``(sigmoid(z) - 1) * SIGMOID_ONE`` of elements with ``SILU_FRACTION`` fraction bits, interpolated as `silu`."""
    z = np.asarray(z, np.int64)
    index, fraction = _curve_point(z)
    base, drop = SIGMOID_BASE[index], SIGMOID_DROP[index]
    rest = np.where(z < 0, base - SIGMOID_ONE, -base)
    return rest + shift_round(np.where(z < 0, -drop, drop) * fraction, SILU_STEP_BITS)


def _curve_point(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Table index of an operand's magnitude, and its bits below the index."""
    magnitude = np.where(z < 0, ~z, z)
    return np.minimum(magnitude >> SILU_STEP_BITS, SILU_ENTRIES - 1), magnitude & (1 << SILU_STEP_BITS) - 1


def exp2_negative(distance):
    """``round(4095 * 2**-distance)`` for distances in scores (10 fraction bits), as 12 bits unsigned."""
    distance = np.asarray(distance, np.int64)
    whole, fraction = distance >> 10, distance & 1023
    index, rest = fraction >> EXP_FRACTION_BITS, fraction & (1 << EXP_FRACTION_BITS) - 1
    value = EXP_BASE[index] - (EXP_DROP[index] * rest >> EXP_FRACTION_BITS)
    return shift_round(value, np.minimum(whole, 16) + 4)


def rotary_table(context_log2: int, head_dim: int, base: float) -> np.ndarray:
    """int16 [2, 2**ceil(context_log2/2), head_dim/2, 2]: cosine and sine of coarse (0) and fine (1) positions."""
    fine_bits = (context_log2 + 1) // 2
    steps = np.arange(1 << fine_bits)
    frequency = base ** (-np.arange(0, head_dim, 2) / head_dim)
    angle = np.stack([(steps << fine_bits)[:, None] * frequency, steps[:, None] * frequency])
    return np.rint(np.stack([np.cos(angle), np.sin(angle)], -1) * (1 << ROTARY_FRACTION)).astype(np.int16)


def rotary_factors(table: np.ndarray, position: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine [head_dim/2] of a position: the product of its coarse and fine rotations."""
    fine_bits = table.shape[1].bit_length() - 1
    coarse = table[0, position >> fine_bits].astype(np.int64)
    fine = table[1, position & (1 << fine_bits) - 1].astype(np.int64)
    cosine = coarse[:, 0] * fine[:, 0] - coarse[:, 1] * fine[:, 1]
    sine = coarse[:, 1] * fine[:, 0] + coarse[:, 0] * fine[:, 1]
    return shift_round(cosine, ROTARY_FRACTION), shift_round(sine, ROTARY_FRACTION)


_QUANTILES = (np.arange(GUMBEL_ENTRIES) + 0.5) / GUMBEL_ENTRIES
GUMBEL = np.rint(-np.log(-np.log(_QUANTILES)) * (1 << GUMBEL_FRACTION)).astype(np.int64)  # 12 bits signed


def xorshift32(state: int) -> int:
    """Next state of Marsaglia's xorshift32 (13, 17, 5)."""
    state ^= state << 13 & 0xFFFFFFFF
    state ^= state >> 17
    return state ^ state << 5 & 0xFFFFFFFF


def noise_seed(seed: int, lane: int) -> int:
    """Initial generator state of a sampler lane."""
    return (seed ^ 0x9E3779B9 * (lane + 1)) & 0xFFFFFFFF or 1
