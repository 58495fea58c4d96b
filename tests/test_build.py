"""The build: clock settings, arguments, netlist accounting, reports, and whole builds of a small design."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from boards import BOARDS
from boards.ecp5_pll import PHASE_DETECTOR_HZ, PHASE_STEPS, VCO_HZ, PllOutput, pll_settings
from boards.ulx3s import OSCILLATOR_HZ
from host.errors import TritloomError
from host.session import OWN_MODELS
from rtl import build
from rtl.build_flow import BITSTREAM, ENGINE, LOG, REPORT, Build
from rtl.build_netlist import drop_unused_carries, lut_sites, top_module
from rtl.build_report import clocks, worst_path
from rtl.carry_chain import INJECT
from rtl.config import CONFIGS
from rtl.soc import Soc
from rtl.timing import SDRAM_CLOCKS
from tests.shapes import synthetic_image
from tests.small_soc import SMALL, small_build

ULX3S = BOARDS["ulx3s"]


@pytest.mark.parametrize("mhz", [
    (125, 125, 62.5, 50), (137.5, 137.5, 68.75, 55), (75, 50), (100, 50), (87.5,), (12.5, 25)])
@pytest.mark.parametrize("phase", [0, 90, 180, 270])
def test_pll_dividers_make_exactly_the_frequencies(mhz: tuple[float, ...], phase: int) -> None:
    """Recomputes every output from the dividers: catches a wrong feedback formula and phases of the wrong output."""
    outputs = {f"clock{index}": PllOutput(value * 1e6, phase if index == 1 else 0) for index, value in enumerate(mhz)}
    settings = pll_settings(25e6, outputs)
    detector_hz = 25e6 / settings.input_divider
    vco_hz = detector_hz * settings.feedback_divider * settings.output_dividers[0]
    assert PHASE_DETECTOR_HZ[0] <= detector_hz <= PHASE_DETECTOR_HZ[1]
    assert VCO_HZ[0] <= vco_hz <= VCO_HZ[1]
    for index, output in enumerate(outputs.values()):
        divider = settings.output_dividers[index]
        assert vco_hz / divider == output.hz, (index, settings)
        lag = settings.coarse_phases[index] - (divider - 1) + settings.fine_phases[index] / PHASE_STEPS
        assert abs(lag / divider * 360 - output.phase_degrees) <= 360 / divider / PHASE_STEPS / 2, (index, settings)


@pytest.mark.parametrize(("input_mhz", "mhz", "message"), [
    (25, (71.3,), "no PLL setting makes clock0 71.3 MHz from 25 MHz; nearest: "),
    (25, (500,), "clock clock0 500 MHz is outside 3.125 MHz..400 MHz"),
    (4, (50,), "PLL input 4 MHz is outside 8 MHz..400 MHz"),
    (25, (50, 50, 50, 50, 50), "a PLL has 1 to 4 outputs, asked for 5"),
])
def test_pll_names_what_it_cannot_make(input_mhz: float, mhz: tuple[float, ...], message: str) -> None:
    """A frequency that is only nearly right would be a board that does not match its report."""
    with pytest.raises(ValueError, match="^" + message):
        pll_settings(input_mhz * 1e6, {f"clock{index}": PllOutput(value * 1e6) for index, value in enumerate(mhz)})


@pytest.mark.parametrize("name", CONFIGS)
def test_board_clocks_can_be_made(name: str) -> None:
    """Every configuration has clocks on the board, and SDRAM and engine run at the ratio that predictions assume."""
    domains = ULX3S.clocks[name]
    made = dict(zip(domains.outputs, domains.settings(OSCILLATOR_HZ).output_hz, strict=True))
    assert {domain: made[domain] for domain in domains.required_hz} == pytest.approx(domains.required_hz, rel=1e-9)
    assert domains.has_sdram == (CONFIGS[name].weight_source == "sdram")
    if domains.has_sdram:
        assert made["sdram"] == made["sdram_chip"] == pytest.approx(made["sync"] * float(SDRAM_CLOCKS), rel=1e-9)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--board", "icestick"], "there is no board 'icestick'; choose ulx3s"),
    (["--board", "ulx3s", "--device", "100F"], "there is no device '100F'; choose 12F, 25F, 45F, 85F"),
    (["--board", "ulx3s", "--config", "huge"],
     "there is no configuration 'huge'; choose nano, tiny, pocket, sparse, resident, stream"),
    (["--board", "ulx3s", "--persist"], "--persist needs --flash"),
    (["--board", "ulx3s", "--model", "no/such/model"], "no/such/model: no such model directory"),
    (["--board", "ulx3s", "--config", "tiny", "--model", "models/stories1m"], "head_dim 20 does not fit tiny"),
])
def test_wrong_arguments_are_one_line(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, exit status 1, and no bitstream that could be taken for the one asked for."""
    monkeypatch.setattr(sys, "argv", ["build", *arguments, "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        build.main()
    error = capsys.readouterr().err
    assert stopped.value.code == 1
    assert error.startswith("error: ") and message in error and error.count("\n") == 1, error
    assert not (tmp_path / BITSTREAM).exists()


def test_image_of_another_geometry_is_refused(tmp_path: Path) -> None:
    """An image for other hardware would load and then answer nonsense."""
    synthetic_image("tiny").save(tmp_path / "image")
    with pytest.raises(TritloomError, match="resident"):
        build.image_for(CONFIGS["resident"], tmp_path / "image")


@pytest.mark.parametrize(("name", "model"), [
    ("nano", "words4k"), ("tiny", "synthetic"), ("pocket", "stories150k"), ("sparse", "stories1m-sparse"),
    ("resident", "stories1m"), ("stream", "stories1m")])
def test_each_configuration_has_a_model(name: str, model: str) -> None:
    """A build that needs ``--model``, or puts a model into a bitstream that another configuration is for."""
    assert set(CONFIGS) == {*build.RANDOM_MODELS, *OWN_MODELS}
    assert build.image_for(CONFIGS[name], None).model["name"] == model


def test_flash_tells_why_it_failed(tmp_path: Path) -> None:
    """What openFPGALoader prints must reach the user as one line."""
    with pytest.raises(TritloomError) as error:
        build.flash(ULX3S, tmp_path / "missing.bit", persist=False)
    assert "\n" not in str(error.value)


def test_failing_tool_is_named_with_its_complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first error line counts: the last ones are often only its consequences."""
    fake = tmp_path / "fake-yosys"
    fake.write_text("#!/bin/sh\necho 'ERROR: no such cell'\necho 'ERROR: later'\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("YOSYS", str(fake))
    with pytest.raises(TritloomError, match=r"^yosys failed: no such cell \(log: .*build.log\)$"):
        small_build(tmp_path / "out").run()


def carry_chain(length: int, *, carry_in: int | str, read_carry_out: bool, table: int = 0x96AA) -> dict[str, Any]:
    """A netlist of one carry chain; nets 100.. are its carries, ``table`` is the first half of each cell."""
    directions = {"CIN": "input", "COUT": "output", "S0": "output"}
    cells = {f"add{index}": {
        "type": "CCU2C", "port_directions": dict(directions), "parameters": {"INIT0": f"{table:016b}"},
        "connections": {"CIN": [100 + index if index else carry_in], "COUT": [101 + index], "S0": [200 + index]},
    } for index in range(length)}
    outputs = [100 + length] if read_carry_out else [200]
    return {"modules": {"top": {"attributes": {"top": "1"}, "cells": cells,
                                "ports": {"o": {"direction": "output", "bits": outputs}}}}}


@pytest.mark.parametrize(("carry_in", "read_carry_out", "dropped", "sites"), [
    ("0", False, 1, 8), ("x", False, 1, 6), ("x", True, 0, 8), (7, True, 0, 10)])
def test_carry_feeds_are_counted_and_unused_ones_dropped(
        carry_in: int | str, read_carry_out: bool, dropped: int, sites: int) -> None:
    """Dropping a carry that is read would break an adder; missing a feed would flatter the report."""
    netlist = carry_chain(3, carry_in=carry_in, read_carry_out=read_carry_out)
    assert drop_unused_carries(netlist) == dropped
    cells = top_module(netlist)["cells"]
    assert [cells[f"add{index}"]["connections"]["COUT"] for index in range(2)] == [[101], [102]]
    assert cells["add2"]["connections"]["COUT"] == (["x"] if dropped else [103])
    assert lut_sites(top_module(netlist)) == sites
    cells["logic"] = {"type": "PFUMX", "port_directions": {"A": "input"}, "connections": {"A": [102]}}
    assert lut_sites(top_module(netlist)) == sites + 2


def test_clocks_are_found_by_the_pins_of_the_pll() -> None:
    """nextpnr calls a clock by any of its aliases: matching by name would mix up two domains."""
    netlist = {"modules": {"top": {
        "attributes": {"top": "1"},
        "cells": {"pll": {"type": "EHXPLLL", "connections": {"CLKOP": [5], "CLKOS": [6]}}},
        "netnames": {"pll.sync_clk": {"bits": [5]}, "soc.clk": {"bits": [5]}, "soc.cpu_clk": {"bits": [6]}}}}}
    report = {"fmax": {"$glbnet$soc.clk": {"achieved": 80.126}, "soc.cpu_clk": {"achieved": 49.9}}}
    found = clocks(report, netlist, {"sync": 75e6, "cpu": 50e6}, ("sync", "cpu"))
    assert (found["sync"].achieved_mhz, found["sync"].met) == (80.13, True)
    assert (found["cpu"].achieved_mhz, found["cpu"].met) == (49.9, False)
    with pytest.raises(TritloomError, match="timed no path of clock cpu"):
        clocks({"fmax": {"soc.clk": {"achieved": 80}}}, netlist, {"cpu": 50e6}, ("sync", "cpu"))


def test_worst_path_names_signals_of_the_source() -> None:
    """Cells of the netlist have names that nobody wrote; the path must show those that somebody did."""
    def piece(delay: float, cell: str, **extra: Any) -> dict[str, Any]:
        return {"delay": delay, "type": "logic", "to": {"cell": cell}, **extra}
    path = [piece(0.5, "soc.sum_TRELLIS_FF_Q"),
            piece(1.0, "x", net="soc.sum_LUT4_Z_1", sources=["/share/a.v", "sum.py:7"]),
            piece(0.25, "x", net="soc.next[3]")]
    report = {"critical_paths": [{"from": "posedge other", "to": "posedge clk", "path": path[:1]},
                                 {"from": "posedge clk", "to": "posedge clk", "path": path}]}
    assert worst_path(report, "clk") == ["    1.50 ns  soc.sum (sum.py:7)", "    1.75 ns  soc.next[3]"]


def test_chain_that_injects_its_carry_takes_none() -> None:
    """The first half of a gated adder overrides the carry below it, so a constant there needs no cell."""
    netlist = carry_chain(1, carry_in="0", read_carry_out=True, table=INJECT)
    assert lut_sites(top_module(netlist)) == 6
    assert drop_unused_carries(netlist) == 1
    assert lut_sites(top_module(netlist)) == 4


def test_small_design_becomes_a_bitstream(tmp_path: Path) -> None:
    """All tools in a row; the LUT count of the netlist must be what nextpnr places, but for its two constants."""
    job = small_build(tmp_path)
    assert job.run() == tmp_path / BITSTREAM
    report = json.loads((tmp_path / REPORT).read_text())
    assert set(report) >= {"board", "device", "config", "resources", "lut4_per_mac", "clocks", "seconds", "versions",
                           "hashes"}
    assert set(report["clocks"]) == {"sync", "cpu", "sdram"}
    assert report["clocks"]["sdram"]["required_mhz"] == 100
    assert all(clock["achieved_mhz"] >= clock["required_mhz"] for clock in report["clocks"].values())
    cells = job.netlist["modules"][ENGINE]["cells"].values()
    assert {"CCU2C", "LUT4", "TRELLIS_DPR16X4"} <= {cell["type"] for cell in cells}
    netlist_sites = lut_sites(top_module(job.netlist)) + lut_sites(job.netlist["modules"][ENGINE])
    assert 0 <= report["resources"]["LUT4"] - netlist_sites <= 2, report["resources"]
    assert report["lut4_per_mac"] == round(report["engine_lut4"] / SMALL.macs, 2)
    assert set(report["hashes"]) == {"firmware", "image", "design", "bitstream"}
    assert (tmp_path / BITSTREAM).stat().st_size > 10_000
    assert not list(tmp_path.glob("*.partial"))


def test_another_seed_keeps_the_netlist_and_another_design_does_not(tmp_path: Path) -> None:
    """Synthesis takes minutes and knows no seed; a netlist kept too long would be a bitstream of another design."""
    notes = []
    for seed, mhz in ((1, 50), (2, 50), (2, 37.5)):
        job = small_build(tmp_path, sync_mhz=mhz)
        job.seed = seed
        job.run()
        notes.append("is kept from the last build" in (tmp_path / LOG).read_text())
    assert notes == [False, True, False]


def test_missed_timing_fails_and_shows_the_path(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A bitstream that misses its clock must not exist, not even from an earlier build."""
    (tmp_path / BITSTREAM).write_bytes(b"from an earlier build")
    with pytest.raises(TritloomError, match=r"^timing missed: sync reaches [\d.]+ of 200 MHz"):
        small_build(tmp_path, sync_mhz=200).run()
    shown = capsys.readouterr().out
    assert "worst path of clock sync, 5.00 ns allowed:" in shown and " ns  soc.core." in shown
    assert not (tmp_path / BITSTREAM).exists()
    assert json.loads((tmp_path / REPORT).read_text())["clocks"]["sync"]["required_mhz"] == 200


def test_tiny_becomes_a_bitstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accelerator of the smallest board, whole, with the command of the README, must route and meet its clocks."""
    monkeypatch.setattr("sys.argv", ["rtl.build", "--board", "ulx3s", "--config", "tiny", "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        build.main()
    assert not ended.value.code
    report = json.loads((tmp_path / REPORT).read_text())
    assert report["device"] == "12F"
    assert report["clocks"]["sync"]["required_mhz"] >= 80
    assert all(clock["achieved_mhz"] >= clock["required_mhz"] for clock in report["clocks"].values())
    assert (tmp_path / BITSTREAM).stat().st_size > 100_000


@pytest.mark.parametrize("name", ["nano", "tiny", "stream"])
def test_accelerator_fits_the_board_top(name: str, tmp_path: Path) -> None:
    """Pins, clock domains and the tile engine's place, where the report looks for it, with and without SDRAM."""
    job = Build(board=ULX3S, device="85F", config=CONFIGS[name], read_image=partial(synthetic_image, name),
                make_soc=Soc, seed=1, folder=tmp_path, firmware=bytes(64), image=synthetic_image(name))
    job.work.mkdir()
    job.export(ULX3S.devices["85F"]())
    design = (job.work / "top.il").read_text()
    assert f"module \\{ENGINE}\n" in design
    constraints = (job.work / "top.lpf").read_text()
    assert ('"sdram_0__clk__io"' in constraints) == ULX3S.clocks[name].has_sdram
    assert 'LOCATE COMP "uart_0__tx__io" SITE "L4"' in constraints
