"""The predicted gains of improvements: only what is named changes, and the baseline is the compiler's prediction."""

from collections import Counter
from dataclasses import replace

import pytest

from host.predict import operation_cycles
from host.timeline import kind
from rtl.isa import Opcode, Unit
from studies import gains
from studies.gains import CHANGES, mean_cycles
from tests.shapes import synthetic_image

IMAGE = synthetic_image("resident")
LAYERS = 4


def test_baseline_is_the_prediction() -> None:
    """Gains measured from cycles that no token takes."""
    assert mean_cycles(IMAGE) == sum(IMAGE.predicted_cycles(position) for position in range(256)) / 256


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_every_change_saves_cycles(change: gains.Change) -> None:
    """A change that matches no operation of the program, so that its gain is zero by mistake."""
    assert mean_cycles(IMAGE, (change,)) < mean_cycles(IMAGE)


def test_adds_of_further_parts_only() -> None:
    """A matrix that starts before its activations are written."""
    before, after = IMAGE.program, gains.adds_beside_the_matrix(IMAGE.program)
    changed = [index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert len(changed) == 2 * LAYERS
    for index in changed:
        assert kind(before[index - 1]) == "vector add"
        assert after[index] == replace(before[index], wait=Unit(0))


def test_one_scale_less_per_rotation_of_scaled_beats() -> None:
    """Scales dropped that no rotation follows, or the wait of a dropped one lost."""
    before, after = Counter(map(kind, IMAGE.program)), Counter(map(kind, gains.rotation_with_scale(IMAGE.program)))
    assert before - after == Counter({"vector scale": 2 * LAYERS})
    rotations = [op for op in gains.rotation_with_scale(IMAGE.program) if kind(op) == "vector rotate"]
    assert sum(bool(op.wait & Unit.ENGINE) for op in rotations) == LAYERS


@pytest.mark.parametrize("position", [0, 1, 2, 255])
def test_two_positions_take_half_of_the_passes(position: int) -> None:
    """The pipeline of attention halved with its passes, or an odd position lost."""
    op = next(op for op in IMAGE.program if op.opcode == Opcode.ATTEND)
    now, then = (function(IMAGE.config, op, position) for function in (operation_cycles, gains.two_positions))
    assert now - then == 2 * (position + 1 - -(-(position + 1) // 2))


def test_gains_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of next steps that starts with the least."""
    monkeypatch.setattr(gains, "mean_cycles", lambda image, changes=(): 100 - sum(map(CHANGES.index, changes)))
    saved = [saved for _, _, saved in gains.gains(IMAGE)]
    assert saved == [4, 3, 2, 1, 0, 10]
