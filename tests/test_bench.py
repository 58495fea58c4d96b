"""The rows of the bench: values, limits and provenances that belong together, and wrong reports refused."""

import json
from pathlib import Path

import pytest

from boards import BOARDS
from host import bench
from host.bench import Row, Workload, clock_of, image_rows, markdown, number, peer_rows, read_report, workload
from host.cli import main
from host.errors import TritloomError
from host.peers import PEERS
from host.session import DEFAULT_MODEL, read_image
from rtl.config import RESIDENT, STREAM
from rtl.timing import SDRAM_CLOCKS
from tests.shapes import SHAPES, synthetic_image

REPORT = {"config": "resident", "lut4_per_mac": 11.9,
          "clocks": {"sync": {"required_mhz": 50.0, "achieved_mhz": 55.5},
                     "cpu": {"required_mhz": 40.0, "achieved_mhz": 40.0}}}


@pytest.fixture(autouse=True)
def no_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement of one token is enough here."""
    monkeypatch.setattr(bench, "GOLDEN_TOKENS", 1)


@pytest.fixture(scope="module")
def resident() -> Workload:
    return workload(synthetic_image("resident"))


@pytest.fixture(scope="module")
def stream() -> Workload:
    return workload(synthetic_image("stream"))


def write_report(folder: Path, **changes: object) -> Path:
    path = folder / "report.json"
    path.write_text(json.dumps(REPORT | changes))
    return path


def row_of(rows: list[Row], metric: str) -> Row:
    (row,) = (row for row in rows if row.metric == metric)
    return row


def test_limit_of_block_ram_is_the_engine(resident: Workload) -> None:
    """Padding counted as work, or a plane of the head forgotten, would flatter the share of the peak."""
    shape = SHAPES["resident"]
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = shape.hidden * (2 * queries + 2 * keys + 3 * shape.feed_forward)
    assert resident.trits == shape.layers * layer + shape.head_planes * shape.vocab * shape.hidden
    assert resident.cycles_limit == -(-resident.trits // RESIDENT.macs)
    assert resident.weight_bytes == 0


def test_limit_of_the_stream_is_the_sdram(stream: Workload) -> None:
    """A limit of the engine where bytes are what is short: five trits come in a byte, two bytes in an SDRAM clock."""
    assert stream.weight_bytes >= stream.trits / 5
    assert stream.cycles_limit == stream.weight_bytes / 2 / SDRAM_CLOCKS > stream.trits / STREAM.macs


@pytest.mark.parametrize("name", ["resident", "stream"])
def test_no_value_beats_its_limit(name: str) -> None:
    """A limit computed from other parameters than the value."""
    work = workload(synthetic_image(name))
    rows = list(image_rows(work, []))
    for row in rows:
        if row.limit is not None:
            better = row.value >= row.limit if row.unit == "cycles" else row.value <= row.limit
            assert better, row
    assert work.cycles == tuple(work.image.predicted_cycles(position) for position in range(256))
    mean = row_of(rows, "cycles per token, mean of 256").value
    assert mean == sum(work.cycles) / 256
    for position in (0, 64, 255):
        assert row_of(rows, f"cycles per token, position {position}").value == work.cycles[position]
    hz = BOARDS["ulx3s"].clocks[name].sync_hz
    assert row_of(rows, "tokens per second, mean of 256").value == hz / mean


def test_provenance_is_not_better_than_what_is_known(resident: Workload, stream: Workload) -> None:
    """An estimate sold as routed, or a prediction without refresh as equal to simulation."""
    rows = list(image_rows(resident, []))
    assert row_of(rows, "cycles per token, position 0").provenance == bench.EXACT
    assert row_of(rows, "tokens per second, position 0").provenance == "estimated"
    rows = list(image_rows(stream, []))
    assert row_of(rows, "cycles per token, position 0").provenance == bench.UP_TO_REFRESH
    share = row_of(rows, "weights, share of the SDRAM's peak")
    assert share.value == pytest.approx(100 * stream.cycles_limit / stream.mean)
    assert all(row.provenance and row.source for row in rows)


def test_routed_clock_replaces_the_target(resident: Workload, tmp_path: Path) -> None:
    """The board's target clock where a route says otherwise, or the report of another configuration."""
    report = read_report(write_report(tmp_path))
    rows = list(image_rows(resident, [report]))
    rate = row_of(rows, "tokens per second, position 0")
    assert rate.value == 50e6 / resident.cycles[0]
    assert rate.limit == 50e6 / resident.cycles_limit
    assert rate.provenance == "routed" and str(report.path) in rate.source
    assert row_of(rows, "engine's LUT4 sites per MAC").value == 11.9
    assert clock_of("stream", [report])[1] == "estimated"


def test_missed_clock_is_not_used(tmp_path: Path) -> None:
    """Speed at a clock that the bitstream does not reach."""
    clocks = REPORT["clocks"] | {"cpu": {"required_mhz": 40.0, "achieved_mhz": 39.9}}
    report = read_report(write_report(tmp_path, clocks=clocks))
    assert report.clock_hz is None
    assert clock_of("resident", [report])[1] == "estimated"


def test_peers_have_sources() -> None:
    """A number of somebody else without where it is published, or a derived one called measured."""
    rows = list(peer_rows())
    assert len(rows) == len(PEERS)
    for peer, row in zip(PEERS, rows, strict=True):
        assert row.value == peer.tokens_per_second and row.source == peer.source
        assert row.provenance == f"published, {'measured' if peer.measured else 'derived'} by its authors"
        assert peer.source.count("/") >= 1


@pytest.mark.parametrize(("value", "text"), [
    (61952, "61,952"), (957, "957"), (590821.4, "590,821"), (84.387, "84.39"), (0.215, "0.215"), (100.0, "100")])
def test_numbers_are_short(value: float, text: str) -> None:
    """Digits that nobody knows."""
    assert number(value) == text


def test_markdown_has_a_cell_per_heading(resident: Workload) -> None:
    """A table that no renderer aligns."""
    lines = markdown([*image_rows(resident, []), *peer_rows()]).splitlines()
    assert {line.count("|") for line in lines} == {len(bench.HEADINGS) + 1}
    assert lines[0] == f"| {' | '.join(bench.HEADINGS)} |"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    return int(ended.value.code or 0)


def test_command_prints_json_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table mixed into the JSON object, or a plot that is missing."""
    report = write_report(tmp_path, clocks={"sync": {"required_mhz": 60.0, "achieved_mhz": 59.0}})
    assert run("--config", "resident", "--config", "stream", "--report", str(report), "--json", "-o",
               str(tmp_path / "plots")) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)["rows"]
    assert set(rows[0]) == set(bench.HEADINGS)
    assert {row["config"] for row in rows} >= {"resident", "stream", "KV260"}
    assert "missed its frequency" in " ".join(captured.err.split())
    for name in ("roofline.svg", "roofline.png"):
        assert (tmp_path / "plots" / name).stat().st_size > 10_000


def test_all_fitting_configurations_without_a_name() -> None:
    """A model that is refused because it does not fit tiny, which nobody asked for."""
    assert [image.config.name for image in bench.images(DEFAULT_MODEL, ())] == ["resident", "stream"]


def test_each_configuration_with_its_own_model() -> None:
    """The bench without arguments: a configuration left out, or shown with another's model."""
    shown = [(image.config.name, image.model["name"]) for image in bench.images(None, ())]
    assert shown == [("nano", "words4k"), ("pocket", "stories150k"), ("sparse", "stories1m-sparse"),
                     ("resident", "stories1m"), ("stream", "stories1m")]


def test_short_context_bounds_the_golden_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement that runs past the end of the context."""
    monkeypatch.setattr(bench, "GOLDEN_TOKENS", 32)
    assert bench.golden_row(synthetic_image("nano")).source == "sim/golden.py, 16 tokens"


def test_image_file_keeps_its_configuration(tmp_path: Path) -> None:
    """An image recompiled or refused."""
    path = tmp_path / "model.trit"
    read_image(DEFAULT_MODEL, "stream").save(path)
    assert [image.config.name for image in bench.images(path, ())] == ["stream"]


@pytest.mark.parametrize(("text", "message"), [
    ("{", "not the report.json of a build"), ("[]", "not the report.json of a build"),
    ('{"config": "resident", "clocks": {}}', "not the report.json of a build"), (None, "cannot be read")])
def test_wrong_report_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None,
                                  message: str) -> None:
    """A traceback instead of the file's name."""
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    assert run("--report", str(path)) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"tritloom: {path}: {message}") and error.count("\n") == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (("--config", "huge"), "no configuration 'huge'"),
    (("--config", "tiny"), "tiny has no model of its own; name one with --model"),
    (("--config", "tiny", "--model", str(DEFAULT_MODEL)), "head_dim 20 does not fit tiny"),
    (("--model", "/none"), "/none: no such model directory")])
def test_wrong_use_is_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    """A traceback instead of what to do."""
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("tritloom: ") and error.count("\n") == 1 and message in error


def test_board_without_clock() -> None:
    """A KeyError for an image of somebody's own configuration."""
    with pytest.raises(TritloomError, match="ulx3s has no clock for configuration 'short'; choose "):
        clock_of("short", [])
