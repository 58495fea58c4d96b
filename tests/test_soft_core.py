"""The baseline on the soft core: equal to the golden model or refused, and its rows in the bench."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from boards import BOARDS
from host.bench import Row, soft_core_rows, workload
from host.checkpoint import synthetic_checkpoint
from host.cli import main
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.session import DEFAULT_MODEL, read_image
from host.soft_core import SoftCoreRun
from rtl.config import TINY
from rtl.cpu import Core
from sim.golden import Golden
from sim.softcore.program import SOURCE, pack_matrix
from sim.softcore.run import simulate
from tests.bench import ROOT
from tests.shapes import SHAPES, synthetic_image

PROMPT, PASSES = (1, 77), 5
RUN = SoftCoreRun(config="resident", model="synthetic", image_id=0, core="VexRiscv_Min", memory_bytes=1 << 20,
                  prompt=(1,), tokens=(5, 6), cycles=(7_000_000, 7_100_000), simulation_hz=4e6,
                  command="scripts/softcore")
MEMORY_BYTES = 1 << 17
BUILD = ROOT / "build" / "tests" / "softcore"


def broken(folder: Path, file: str, right: str, wrong: str) -> Path:
    """The C program with one change."""
    shutil.copytree(SOURCE, folder)
    text = (folder / file).read_text()
    assert text.count(right) == 1
    (folder / file).write_text(text.replace(right, wrong))
    return folder


def rows_of(run: SoftCoreRun) -> dict[str, Row]:
    work = workload(synthetic_image("resident"))
    rows = list(soft_core_rows(replace(run, image_id=work.image.image_id), [work], []))
    return {row.metric: row for row in rows}


@pytest.mark.parametrize("seed", [0, 1])
def test_tokens_equal_the_golden_model(seed: int) -> None:
    """A token or any state that differs; a prompt of which a token is lost; cycles of a pass that did not happen."""
    image = synthetic_image("tiny", seed)
    run = simulate(image, PROMPT, PASSES, memory_bytes=MEMORY_BYTES, folder=BUILD)
    golden = Golden(image)
    expected: list[int] = []
    for position in range(PASSES):
        expected.append(golden.step(PROMPT[position] if position < len(PROMPT) else expected[-1], position))
    assert list(run.tokens) == expected
    assert run.image_id == image.image_id and run.core == Core.verilog.stem
    assert len(run.cycles) == PASSES and all(100_000 < cycles < 2_000_000 for cycles in run.cycles)


def test_groups_and_windows_equal_the_golden_model() -> None:
    """A window that is a position too wide, or places of a feed-forward in groups; the simulator compares all."""
    shape = replace(SHAPES["tiny"], is_parallel=True, layers=3, feed_groups=(0, 3, 2), windows=(2, 3, 0))
    image = compile_checkpoint(synthetic_checkpoint(shape), TINY)
    assert len(simulate(image, PROMPT, PASSES, memory_bytes=MEMORY_BYTES, folder=BUILD).cycles) == PASSES


@pytest.mark.parametrize(("file", "right", "wrong"), [
    ("engine.c", "second = -b", "second = b"),
    ("vector.c", "scaler->half) >> 6", "0) >> 6"),
    ("attention.c", "value > largest", "value < largest"),
    ("arithmetic.c", "offset & 127", "offset & 63")])
def test_broken_program_is_found(tmp_path: Path, file: str, right: str, wrong: str) -> None:
    """A result from a program that computes something else: a sign, a rounding, an order, a bit of an interpolation."""
    source = broken(tmp_path / "source", file, right, wrong)
    with pytest.raises(TritloomError, match=r"^position \d: the soft core('s state| sampled)"):
        simulate(synthetic_image("tiny"), PROMPT, 3, memory_bytes=MEMORY_BYTES, source=source, folder=BUILD)


def test_warning_is_an_error(tmp_path: Path) -> None:
    """C that the firmware's flags would refuse."""
    source = broken(tmp_path / "source", "main.c", "int32_t token = 0;", "int32_t token = 0, unused;")
    with pytest.raises(TritloomError, match="^softcore does not compile: .*unused"):
        simulate(synthetic_image("tiny"), PROMPT, 1, memory_bytes=MEMORY_BYTES, source=source, folder=BUILD)


@pytest.mark.parametrize(("prompt", "passes"), [((), 1), ((1,), 0), ((1,), 65)])
def test_impossible_run_is_refused(prompt: Sequence[int], passes: int) -> None:
    """A context longer than the arrays, or a token from nowhere."""
    with pytest.raises(TritloomError, match="1 to 64 passes"):
        simulate(synthetic_image("tiny"), prompt, passes)


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_matrix_is_packed_without_loss(planes: int) -> None:
    """Planes in another order, columns lost, or more columns than the weights need."""
    limit = 3**planes // 2
    weights = np.random.default_rng(planes).integers(-limit, limit + 1, (6, 160)).astype(np.float64)
    weights[:, 75:] = 0
    codes = pack_matrix(weights, planes)
    assert codes.shape == (6, planes, 20)
    trits = codes[..., None] // 2 // 3 ** np.arange(4) % 3 - 1.0
    power = 3.0 ** np.arange(planes - 1, -1, -1)
    assert (np.einsum("p,rpc->rc", power, trits.reshape(6, planes, -1)) == weights[:, :80]).all()


def test_rows_are_of_the_run() -> None:
    """A rate at the engine's clock, a ratio over other positions, or an estimate sold as simulated."""
    rows, work, clocks = rows_of(RUN), workload(synthetic_image("resident")), BOARDS["ulx3s"].clocks["resident"]
    accelerator = sum(work.cycles[:2]) / 2
    assert rows["cycles per token, position 1"].value == 7_100_000
    assert rows["cycles per token, mean of 2"].value == 7_050_000
    assert rows["tokens per second, mean of 2"].value == clocks.cpu_hz / 7_050_000
    assert rows["tokens per second, mean of 2"].provenance == "estimated"
    assert rows["cycles per token over resident's, mean of 2"].value == 7_050_000 / accelerator
    ratio = rows["time per token over resident's, mean of 2"]
    assert ratio.value == pytest.approx(7_050_000 / clocks.cpu_hz * clocks.sync_hz / accelerator)
    for row in rows.values():
        assert row.source.startswith("scripts/softcore") and row.provenance.startswith(("simulated", "estimated"))


def test_result_of_another_image_is_refused() -> None:
    """The cycles of yesterday's model beside today's."""
    with pytest.raises(TritloomError, match="result is of image 00000000 .* run scripts/softcore again"):
        list(soft_core_rows(RUN, [workload(synthetic_image("resident"))], []))


def test_bench_reads_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that gets lost between the file and the table."""
    path = tmp_path / "result.json"
    replace(RUN, image_id=read_image(DEFAULT_MODEL, "resident").image_id).save(path)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--config", "resident", "--soft-core", str(path)])
    assert not ended.value.code
    assert "| soft core | synthetic | cycles per token, position 1 | 7,100,000 | cycles |" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "message"), [
    ("{", "not a result of scripts/softcore"), ("[]", "not a result"), ('{"cycles": [1]}', "not a result"),
    (None, "cannot be read")])
def test_wrong_result_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    """A traceback instead of the file's name."""
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TritloomError, match=f"{path}: {message}") as caught:
        SoftCoreRun.load(path)
    assert "\n" not in str(caught.value)


def test_result_survives_its_file(tmp_path: Path) -> None:
    """A number that changes on its way."""
    RUN.save(tmp_path / "folder" / "result.json")
    assert SoftCoreRun.load(tmp_path / "folder" / "result.json") == RUN
