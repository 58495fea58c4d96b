"""The predicted timeline of a token: it is the prediction, it explains every cycle, and its picture is written."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from host.cli import main
from host.errors import TritloomError
from host.image import Image
from host.predict import Supply, operation_cycles
from host.predict import timeline as predict_timeline
from host.session import DEFAULT_MODEL, read_image
from host.timeline import ISSUE, draw, gaps, kind, layer_window, token_timeline
from rtl.isa import UNIT_OF, Opcode, Unit
from rtl.timing import ISSUE_CYCLES, tile_words, token_cycles
from tests.shapes import synthetic_image

NAMES = ("resident", "stream", "tiny")


def positions(image: Image) -> tuple[int, ...]:
    return 0, 1, image.context // 2, image.context - 1


@pytest.mark.parametrize("name", NAMES)
def test_ends_with_the_predicted_cycles(name: str) -> None:
    """A second opinion about the cycles of a token: the timeline and the prediction must be one."""
    image = synthetic_image(name)
    for position in positions(image):
        for greedy in (True, False):
            spans = predict_timeline(image.config, image.program, position, greedy=greedy)
            assert spans[-1].end == image.predicted_cycles(position, greedy=greedy), f"position {position}"
            assert [span.op for span in spans] == image.program


@pytest.mark.parametrize("name", NAMES)
def test_follows_the_rules_of_issue(name: str) -> None:
    """An operation that starts while a unit it waits for is busy, before its turn, or long after it could."""
    image = synthetic_image(name)
    for position in positions(image):
        spans = token_timeline(image, position).spans
        for index, span in enumerate(spans):
            earlier = spans[:index]
            units = span.op.wait | UNIT_OF[span.op.opcode]
            turn = earlier[-1].start + ISSUE_CYCLES if earlier else 0
            free = max((other.end for other in earlier if other.unit & units), default=0)
            assert span.start >= max(turn, free), f"position {position}, operation {index}"
            waited = turn if span.after is None else spans[span.after].end
            assert span.start - waited < ISSUE_CYCLES
            assert span.after is None or waited == free
            if span.op.opcode == Opcode.END:
                assert span.end == span.start + token_cycles(image.config)
            elif span.op.opcode == Opcode.MATVEC and image.stream_words:
                # The engine may wait for the SDRAM, but no longer than all its words take to come.
                words = span.op.groups * span.op.planes * span.op.blocks * tile_words(image.config)
                least = operation_cycles(image.config, span.op, position)
                assert least <= len(span.busy) <= least + words / Supply.RATE
            else:
                # Two units that deliver a scalar at the same time do so one after the other.
                late = len(span.busy) - operation_cycles(image.config, span.op, position)
                assert late == 0 or (late == 1 and any(other.end == span.end - 1 for other in spans if other.unit))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unit", list(Unit))
def test_every_idle_cycle_has_one_reason(name: str, unit: Unit) -> None:
    """Cycles explained twice or not at all: shares that do not add up to the token."""
    image = synthetic_image(name)
    for position in positions(image):
        shown = token_timeline(image, position)
        idle = list(shown.idle(unit))
        busy = {cycle for span in shown.spans if span.unit == unit for cycle in span.busy}
        explained = [cycle for cycles, _ in idle for cycle in cycles]
        assert sorted(busy | set(explained)) == list(range(shown.cycles))
        assert len(busy) + len(explained) == shown.cycles
        assert len(busy) == shown.busy()[unit]
        assert shown.idle_cycles(unit).total() == len(explained)


def test_reasons_are_those_of_the_program() -> None:
    """Idle time booked on the wrong unit: only attention takes longer at later positions."""
    image = synthetic_image("resident")
    first, last = (token_timeline(image, position) for position in (0, image.context - 1))
    grown = last.idle_cycles(Unit.ENGINE) - first.idle_cycles(Unit.ENGINE)
    assert set(grown) == {"attend"}
    assert grown["attend"] == last.cycles - first.cycles
    assert ISSUE in first.idle_cycles(Unit.ENGINE)
    assert "matvec" not in first.idle_cycles(Unit.ENGINE)


def test_gaps() -> None:
    """A gap lost at the start or end of a range, or one between ranges that touch."""
    assert gaps(range(10), []) == [range(10)]
    assert gaps(range(10), [range(3), range(3, 5), range(8, 12)]) == [range(5, 8)]
    assert gaps(range(4, 10), [range(2), range(5, 6), range(20, 30)]) == [range(4, 5), range(6, 10)]
    assert gaps(range(4, 10), [range(2, 12)]) == []


def test_table_fill_is_the_difference_that_the_fill_bit_makes() -> None:
    """Cycles of the tables counted for an operation that does not fill them, or for none."""
    image = synthetic_image("resident")
    shown = token_timeline(image, 0)
    for span in shown.spans:
        expected = 0
        if span.op.opcode == Opcode.MATVEC and span.op.fill:
            expected = 1 + span.op.blocks * (image.config.block_beats + 13)
        assert shown.table_fill(span) == expected


def test_window_is_one_layer() -> None:
    """The lower panel showing half a layer or two."""
    image = synthetic_image("resident")
    shown = token_timeline(image, 5)
    window = layer_window(shown)
    inside = [kind(span.op) for span in shown.spans if span.start in window]
    assert inside.count("attend") == inside.count("vector gate") == 1
    assert inside.count("vector square") == 2


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_picture_is_the_same_every_time(tmp_path: Path, suffix: str) -> None:
    """A picture in the documentation that changes with the date or a random name."""
    shown = token_timeline(synthetic_image("tiny"), 3)
    files = [tmp_path / f"{index}{suffix}" for index in range(2)]
    for file in files:
        draw(shown, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    if suffix == ".svg":
        assert ElementTree.parse(files[0]).getroot().tag.endswith("svg")


def test_command_prints_the_shares_and_writes_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that shows another position, or forgets the picture."""
    picture = tmp_path / "timeline.svg"
    with pytest.raises(SystemExit) as ended:
        main(["timeline", str(DEFAULT_MODEL), "-o", str(picture), "--position", "64"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"position 64: {read_image(DEFAULT_MODEL, None).predicted_cycles(64):,} cycles (predicted)" in out
    assert "engine idle" in out
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(("arguments", "message"), [
    (("--position", "256"), "position 256 is outside the context; choose 0 to 255"),
    (("-o", "picture.bmp"), "unknown kind of picture; end the name in .svg, .png, .pdf"),
    (("-o", "/none/picture.svg"), "/none/picture.svg: cannot be written (No such file or directory)"),
])
def test_wrong_use_is_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    """A traceback instead of what to do."""
    with pytest.raises(SystemExit) as ended:
        main(["timeline", str(DEFAULT_MODEL), *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 1
    assert error.startswith("tritloom: ") and error.count("\n") == 1
    assert message in error


def test_position_outside_the_context() -> None:
    """A timeline of a token that no device can compute."""
    with pytest.raises(TritloomError, match="position -1 is outside the context"):
        token_timeline(synthetic_image("tiny"), -1)
