"""Integer arithmetic: close to the real function, exact at its corners."""

import numpy as np
import pytest

from sim import fixed
from sim.fixed import Scalar


@pytest.mark.parametrize("seed", range(20))
def test_scalar_functions_are_accurate(seed: int) -> None:
    """A table or exponent that is off: errors far above one part in 2**13."""
    rng = np.random.default_rng(seed)
    for value in 2.0 ** rng.uniform(-40, 40, 200):
        a, b = Scalar.from_float(value), Scalar.from_float(2.0 ** rng.uniform(-20, 20))
        assert abs(float(fixed.reciprocal(a)) * float(a) - 1) < 1.0e-4
        assert abs(float(fixed.rsqrt(a)) ** 2 * float(a) - 1) < 2.0e-4
        assert abs(float(fixed.multiply(a, b)) / (float(a) * float(b)) - 1) < 1.0e-4


def test_block_brings_every_peak_to_int8() -> None:
    """An exponent one too small lets a peak of a power of two overflow, one too large wastes a bit."""
    for peak in range(1, 1 << 17, 97):
        scaled = int(fixed.lane_scale(np.int64(peak), fixed.block(fixed.normalise(peak))))
        assert scaled <= 128
        assert scaled >= min(peak, 64)


def test_quantising_maps_the_peak_to_127() -> None:
    """absmax quantisation that clips or wastes the top level."""
    for peak in (1, 2, 3, 1000, 131071):
        scale = fixed.multiply(fixed.reciprocal(fixed.normalise(peak)), Scalar.from_float(127.0))
        assert int(fixed.lane_scale(np.int64(peak), scale)) == 127


def test_lane_factor_fits_the_multiplier() -> None:
    """A multiplier of more than 17 bits, or a shift that is not one of eight."""
    for exponent in range(-80, 4):
        for mantissa in (1 << 15, (1 << 16) - 1):
            multiplier, shift = fixed.lane_factor(Scalar(mantissa, exponent))
            assert 0 <= multiplier < 1 << 17
            assert shift in range(0, 29, 4)


def test_gate_never_overflows() -> None:
    """Shifts that let relu(g)**2 * u leave 18 bits at the largest inputs."""
    for bits_g in range(1, 19):
        for bits_u in range(1, 19):
            g, u = (1 << bits_g) - 1, (1 << bits_u) - 1
            first, second = fixed.gate_shifts(fixed.normalise(g), fixed.normalise(u))
            assert first <= 28 and second <= 28
            assert g * g >> first < 1 << 17
            assert int(fixed.shift_round((g * g >> first) * u, second)) <= 1 << 17


def test_exponential_is_monotonic_and_within_two_units() -> None:
    """A slope or index error makes the table jump."""
    distance = np.arange(0, 20 << 10)
    p = fixed.exp2_negative(distance)
    assert p[0] == 4095
    assert (np.diff(p) <= 0).all()
    assert np.abs(p - 4095 * 2.0 ** (-distance / 1024)).max() < 2


def test_rotary_factors_match_sine_and_cosine() -> None:
    """Coarse and fine angles combined wrongly."""
    table = fixed.rotary_table(8, 20, 10000.0)
    frequency = 10000.0 ** (-np.arange(0, 20, 2) / 20)
    for position in range(256):
        cosine, sine = fixed.rotary_factors(table, position)
        assert np.abs(cosine - np.cos(position * frequency) * 16384).max() < 2.5
        assert np.abs(sine - np.sin(position * frequency) * 16384).max() < 2.5


def test_scalars_refuse_what_they_cannot_hold() -> None:
    """A zero, negative or infinite scale compiled into an image."""
    for value in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="positive and finite"):
            Scalar.from_float(value)
    with pytest.raises(OverflowError):
        Scalar(1 << 15, 256)


def test_silu_is_within_two_units() -> None:
    """A slope of the wrong sign, or negative operands looked up as positive ones."""
    z = np.arange(-(1 << 17), 1 << 17)
    real = z / (1 << fixed.SILU_FRACTION)
    with np.errstate(over="ignore"):
        expected = real / (1 + np.exp(-real)) * (1 << fixed.SILU_FRACTION)
    assert np.abs(fixed.silu(z) - expected).max() < 2
    assert fixed.SILU_BASE[-1] == fixed.SILU_DROP[-1] == 0      # what lies beyond the table is ReLU


def test_sigmoid_is_within_its_table_s_error() -> None:
    """A slope of the wrong sign, or negative operands looked up as positive ones."""
    z = np.arange(-(1 << 17), 1 << 17)
    real = z / (1 << fixed.SILU_FRACTION)
    with np.errstate(over="ignore"):
        expected = (1 / (1 + np.exp(-real)) - 1) * fixed.SIGMOID_ONE
    found = fixed.sigmoid_less_one(z)
    assert np.abs(found - expected).max() < 11
    assert found.min() == -fixed.SIGMOID_ONE and found.max() == 0
    positive = real >= 0
    assert np.abs(found - expected)[positive].max() < 4


def test_nothing_leaves_nothing() -> None:
    """A lane factor of a scalar far below all others that is not zero."""
    assert fixed.lane_scale(np.array([-(1 << 17), (1 << 17) - 1]), fixed.NOTHING).tolist() == [0, 0]
