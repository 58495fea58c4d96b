"""The predicted gains of improvements: only what is named changes, and the baseline is the compiler's prediction."""


import pytest

from host.predict import operation_cycles
from rtl.isa import Opcode
from studies import gains
from studies.gains import CHANGES, mean_cycles
from tests.shapes import synthetic_image

IMAGE = synthetic_image("resident")


def test_baseline_is_the_prediction() -> None:
    """Gains measured from cycles that no token takes."""
    assert mean_cycles(IMAGE) == sum(IMAGE.predicted_cycles(position) for position in range(256)) / 256


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_every_change_saves_cycles(change: gains.Change) -> None:
    """A change that matches no operation of the program, so that its gain is zero by mistake."""
    assert mean_cycles(IMAGE, (change,)) < mean_cycles(IMAGE)


@pytest.mark.parametrize("position", [0, 1, 2, 255])
def test_two_positions_take_half_of_the_passes(position: int) -> None:
    """The pipeline of attention halved with its passes, or an odd position lost."""
    op = next(op for op in IMAGE.program if op.opcode == Opcode.ATTEND)
    now, then = (function(IMAGE.config, op, position) for function in (operation_cycles, gains.two_positions))
    seen = 1 + min(position, op.reach)
    assert now - then == 2 * (seen - -(-seen // 2))


def test_gains_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of next steps that starts with the least."""
    monkeypatch.setattr(gains, "mean_cycles", lambda image, changes=(): 100 - sum(map(CHANGES.index, changes)))
    saved = [saved for _, _, saved in gains.gains(IMAGE)]
    assert saved == [*reversed(range(len(CHANGES))), sum(range(len(CHANGES)))]
