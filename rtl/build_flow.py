"""From a model and a configuration to a bitstream and its report, step by step."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amaranth.lib import wiring
from amaranth.vendor import LatticeECP5Platform

from boards import Board
from host.block_map import find_blocks
from host.block_memory import block_memories, noise
from host.errors import TritloomError
from host.files import write_atomically
from host.image import Image
from host.swap import SwapMap, map_of
from rtl.build_netlist import block_contents, drop_unused_carries, lut_sites
from rtl.build_report import Clock, clocks, resources, worst_path
from rtl.build_tools import BuildLog, versions
from rtl.config import Config
from rtl.firmware_build import build_firmware
from rtl.floorplan import floorplan

TOP = "top"
ENGINE = f"{TOP}.soc.core.engine"  # module of the tile engine, kept apart in synthesis so that its cells can be counted
# Elements of arrays are named like bits of words, and abc9 (yosys 0.70) mistakes the one for the other.
HIDE_ELEMENTS = r"rename -hide w:*\[*"
STEPS = ("firmware", "image", "export", "synthesis", "floorplan", "place and route", "bitstream", "report")
BITSTREAM, REPORT, LOG, IMAGE = "tritloom.bit", "report.json", "build.log", "image.tritloom"
# Of a late wire against a long one, in nextpnr's placer: its default, and what helps the fast clock of the SDRAM.
TIMING_WEIGHTS = {"ebr": 10, "sdram": 30}


@dataclass
class Build:
    """One bitstream in the making. ``run`` does the steps in order; each leaves its result in a member.

    Members
    -------
    board, device, config : what to build.
    read_image : makes or reads the image for ``config``.
    make_soc : the accelerator, called with the arguments of ``rtl.soc.Soc``; `ENGINE` is the place of its tile engine.
    seed : of floorplan and placement.
    folder : where the results go. Intermediate files lie in ``folder/work``.
    """

    board: Board
    device: str
    config: Config
    read_image: Callable[[], Image]
    make_soc: Callable[..., wiring.Component]
    seed: int
    folder: Path
    firmware: bytes = b""
    image: Image | None = None
    sources: tuple[str, ...] = ()
    netlist: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    routed: bool = False
    swap_map: SwapMap | None = None
    bitstream: bytes = b""

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def run(self) -> Path:
        """Build everything and return the path of the bitstream.

        Raises
        ------
        TritloomError: a tool failed, or a clock misses its frequency; then the report is there, the bitstream is not.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        bitstream = self.folder / BITSTREAM
        for path in (bitstream, map_of(bitstream), self.folder / REPORT):
            path.unlink(missing_ok=True)
        platform = self.board.devices[self.device]()
        with BuildLog(self.folder / LOG, len(STEPS)) as log:
            log.step("firmware", "zig cc")
            self.firmware = build_firmware(self.work / "firmware")
            log.step("image", "compiling the model")
            self.image = self.read_image()
            self.image.save(self.folder / IMAGE)
            block_memories(self.image.require(self.config), self.firmware)  # fails if it does not fit
            log.step("export", "Amaranth")
            self.export(platform)
            log.step("synthesis", "yosys")
            self._synthesise(log)
            log.step("floorplan", "block RAMs and multipliers")
            self._floorplan(platform, log)
            log.step("place and route", "nextpnr, takes minutes")
            self._route(platform, log)
            log.step("bitstream", "ecppack")
            if self.routed:
                log.run("ecppack", ("--compress", "--input", "top.config", "--bit", "top.bit"), folder=self.work)
                self._put_image()
            log.step("report")
            found = self._clocks()
            report = self._report(found)
        report["seconds"] = log.seconds
        write_atomically({self.folder / REPORT: (json.dumps(report, indent=2) + "\n").encode()})
        self._check_timing(found)
        write_atomically({map_of(bitstream): self.swap_map.file, bitstream: self.bitstream})
        return bitstream

    def export(self, platform: LatticeECP5Platform) -> None:
        """Write the design as RTLIL into ``work``, with the scripts and constraints that go with it.

        Its memories hold noise, so what synthesis and routing make of it does not depend on the model.
        """
        domains = self.board.clocks[self.config.name]
        image, firmware = noise(self.config)
        soc = self.make_soc(
            config=self.config, image=image, firmware=firmware, engine_hz=int(domains.sync_hz),
            cpu_hz=int(domains.cpu_hz), sdram_hz=domains.sdram_hz, baud_hz=self.board.baud_hz, primitives="ecp5",
            sdram_part=self.board.sdram,
            sdram_io_cycles=self.board.sdram_io_cycles)
        for path in soc.verilog_files:
            platform.add_file(path.name, path.read_bytes())
        plan = platform.prepare(
            self.board.top(soc=soc, clocks=domains), TOP,
            script_after_read=f"setattr -mod -set keep_hierarchy 1 {ENGINE}", synth_opts="-run begin:map_luts",
            script_after_synth=f"{HIDE_ELEMENTS}; synth_ecp5 -run map_luts: -top {TOP}")
        self.sources = (f"{TOP}.ys", f"{TOP}.il", *(path.name for path in soc.verilog_files))
        for name, content in plan.files.items():
            (self.work / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def _synthesise(self, log: BuildLog) -> None:
        """RTLIL to a netlist of ECP5 cells. Another seed of the same design keeps the netlist of the last build."""
        made, made_of = self.work / f"{TOP}.json", self.work / f"{TOP}.sha256"
        sources = [(self.work / name).read_bytes() for name in self.sources]
        design = hashlib.sha256(b"".join([json.dumps(versions()).encode(), *sources]))
        if made.exists() and made_of.exists() and made_of.read_text() == design.hexdigest():
            log.note(f"{made.name} is kept from the last build, of the same design and tools")
        else:
            made_of.unlink(missing_ok=True)
            log.run("yosys", ("-q", "-l", "yosys.log", f"{TOP}.ys"), folder=self.work)
            made_of.write_text(design.hexdigest())
        self.netlist = json.loads(made.read_text())
        drop_unused_carries(self.netlist)
        # Better to learn now that a memory is not where a model can be put than after routing.
        find_blocks(block_contents(self.netlist), block_memories(*noise(self.config)))

    def _floorplan(self, platform: LatticeECP5Platform, log: BuildLog) -> None:
        """Places for block RAMs and multipliers, written into the netlist."""
        log.note(f"wires: {floorplan(self.netlist, platform.device, self.seed):.0f} tiles")
        (self.work / "netlist.json").write_text(json.dumps(self.netlist))

    def _route(self, platform: LatticeECP5Platform, log: BuildLog) -> None:
        """Netlist to a placed and routed design."""
        report = self.work / "nextpnr.json"
        report.unlink(missing_ok=True)
        status = log.run("nextpnr-ecp5", (
            platform._nextpnr_device_options[platform.device], "--package",
            platform._nextpnr_package_options[platform.package].upper(), "--speed", platform.speed,
            # router2 stands still on tiny (67 % of a 12F) with 1,200 wires left.
            "--router", "router1", "--seed", str(self.seed),
            "--placer-heap-timingweight", str(TIMING_WEIGHTS[self.config.weight_source]),
            "--json", "netlist.json", "--lpf", f"{TOP}.lpf", "--textcfg", "top.config",
            "--report", report.name), folder=self.work, result=report)
        self.routed = status == 0
        self.timing = json.loads(report.read_text())

    def _put_image(self) -> None:
        """Find the memories in the routed chip, and put firmware and image there in place of noise."""
        routed = (self.work / "top.bit").read_bytes()
        self.swap_map = SwapMap.of_routed(self.config, self.firmware, routed)
        self.bitstream = self.swap_map.put(self.image, routed)

    def _clocks(self) -> dict[str, Clock]:
        domains = self.board.clocks[self.config.name]
        return clocks(self.timing, self.netlist, domains.required_hz, tuple(domains.outputs))

    def _report(self, found: dict[str, Clock]) -> dict[str, Any]:
        used, available = resources(self.timing)
        engine = lut_sites(self.netlist["modules"][ENGINE])
        hashes = {"firmware": self.firmware, "image": (self.folder / IMAGE).read_bytes(),
                  "design": (self.work / f"{TOP}.il").read_bytes()}
        if self.routed:
            hashes["bitstream"] = self.bitstream
        return {
            "board": self.board.name, "device": self.device, "config": self.config.name, "seed": self.seed,
            "provenance": "placed and routed",
            "resources": used, "available": available,
            "engine_lut4": engine, "macs": self.config.macs, "lut4_per_mac": round(engine / self.config.macs, 2),
            "clocks": {name: {"required_mhz": clock.required_mhz, "achieved_mhz": clock.achieved_mhz}
                       for name, clock in found.items()},
            "versions": {"tritloom": version("tritloom")} | versions(),
            "hashes": {name: hashlib.sha256(content).hexdigest() for name, content in hashes.items()},
        }

    def _check_timing(self, found: dict[str, Clock]) -> None:
        """Print the worst path of each clock that is too slow, and fail."""
        missed = {name: clock for name, clock in found.items() if not clock.met}
        for name, clock in missed.items():
            print(f"worst path of clock {name}, {1000 / clock.required_mhz:.2f} ns allowed:")
            print("\n".join(worst_path(self.timing, clock.net)))
        if missed:
            text = ", ".join(f"{name} reaches {clock.achieved_mhz:g} of {clock.required_mhz:g} MHz"
                             for name, clock in missed.items())
            raise TritloomError(f"timing missed: {text}; another --seed may do")
