"""The SDRAM controller against a chip model that checks every timing, and the chip model against broken drivers."""

from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import ClockSignal, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.sdram_controller import PinsSignature, SDRAMController, plan
from rtl.sdram_parts import DEFAULT_PART, MT48LC16M16A2_6A, MT48LC16M16A2_7E, SDRAM_PARTS, SDRAMPart
from sim.sdram_chip import CHIP_SOURCE, chip_instance
from tests.bench import BenchFailure, run_bench
from tests.cocotb_sdram_chip import PART

SDRAM_HZ = 133e6


class ControllerOnChip(wiring.Component):
    """A controller built for ``part`` on a chip that is ``chip``; ``io_cycles`` of registers lie between them."""

    def __init__(self, *, part: SDRAMPart, chip: SDRAMPart, clock_hz: float, io_cycles: int = 0) -> None:
        self._controller = SDRAMController(part=part, clock_hz=clock_hz, io_cycles=io_cycles, power_up_us=2)
        self._chip = chip
        self._clock_hz = clock_hz
        self._io_cycles = io_cycles
        super().__init__({"memory": Out(self._controller.memory.signature)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.controller = controller = self._controller
        wiring.connect(m, controller.memory, wiring.flipped(self.memory))
        pins = controller.pins
        for stage in range(self._io_cycles):
            delayed = PinsSignature().create(path=(f"stage{stage}",))
            m.d.sync += [getattr(delayed, name).eq(getattr(pins, name))
                         for name, member in PinsSignature().members.items() if member.flow == Out and name != "cke"]
            m.d.comb += delayed.cke.eq(pins.cke)
            m.d.comb += pins.dq_i.eq(delayed.dq_i)
            pins = delayed
        m.submodules.chip = chip_instance(self._chip, self._clock_hz, pins, ClockSignal())
        return m


class BareChip(wiring.Component):
    """The chip model alone, its pins driven by the test."""

    pins: In(PinsSignature())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.chip = chip_instance(PART, SDRAM_HZ, self.pins, ClockSignal())
        return m


# No maker sells it: the fastest clock of the list on the largest page.
FAST_AND_LARGE = replace(MT48LC16M16A2_6A, column_bits=10)


@pytest.mark.parametrize(("name", "part", "clock_hz", "io_cycles"), [
    ("default", DEFAULT_PART, 133e6, 0), ("slow", MT48LC16M16A2_7E, 60e6, 2), ("fast", FAST_AND_LARGE, 166e6, 1)])
def test_controller(name: str, part: SDRAMPart, clock_hz: float, io_cycles: int) -> None:
    """Data, order, refresh and efficiency hold on chips, clocks and I/O delays of boards."""
    bench = ControllerOnChip(part=part, chip=part, clock_hz=clock_hz, io_cycles=io_cycles)
    log = run_bench(bench, module="tests.cocotb_sdram", name=f"sdram_{name}", sources=[CHIP_SOURCE], parameters={
        "words": part.words, "page_words": part.page_words, "refi": part.timing(clock_hz).refi})
    print(next(line for line in log.splitlines() if "of peak" in line))


def test_image_in_chip(tmp_path: Path) -> None:
    """The chip model loads a file of 16-bit little-endian words, as the simulated system needs."""
    words = [n * 0x9E3779B9 & 0xFFFFFFFF for n in range(256)]
    image = tmp_path / "image.bin"
    image.write_bytes(b"".join(word.to_bytes(4, "little") for word in words))
    bench = ControllerOnChip(part=DEFAULT_PART, chip=DEFAULT_PART, clock_hz=SDRAM_HZ)
    run_bench(bench, module="tests.cocotb_sdram_image", name="sdram_default", sources=[CHIP_SOURCE],
              testcase="holds_image", parameters={"words": words}, plusargs=[f"+sdram_image={image}"])


@pytest.mark.parametrize(("rule", "broken"), [
    ("tRP", {"trp_ns": 7.0}), ("refresh interval", {"refresh_ms": 200.0})])
def test_controller_of_another_part(rule: str, broken: dict[str, float]) -> None:
    """A controller built with one wrong datasheet figure is stopped by the chip, under the name of that rule."""
    bench = ControllerOnChip(part=replace(DEFAULT_PART, **broken), chip=DEFAULT_PART, clock_hz=SDRAM_HZ)
    with pytest.raises(BenchFailure, match=f"breaks {rule}"):
        run_bench(bench, module="tests.cocotb_sdram", name=f"sdram_broken_{min(broken)}", sources=[CHIP_SOURCE],
                  testcase="sequential", parameters={"refi": DEFAULT_PART.timing(SDRAM_HZ).refi})


RULES = ("tRCD", "tRP", "tRAS", "tRC", "tRFC", "tWR", "tRRD", "tMRD", "power-up wait", "two refreshes before MRS",
         "mode register set first", "ACT of a closed bank", "access to an open bank", "all banks precharged",
         "one driver of DQ", "WRITE after read data", "data with WRITE", "no auto-precharge", "refresh interval",
         "refreshes per window", "CKE high", "CAS latency 2 or 3")


@pytest.mark.parametrize("rule", ("none", *RULES))
def test_chip_model(rule: str) -> None:
    """The chip model stops a driver that breaks a rule, names the rule, and lets a correct driver pass."""
    arguments = {"module": "tests.cocotb_sdram_chip", "name": "sdram_chip", "sources": [CHIP_SOURCE],
                 "testcase": "obey_or_break", "parameters": {"rule": rule}}
    if rule == "none":
        run_bench(BareChip(), **arguments)
    else:
        with pytest.raises(BenchFailure, match=f"breaks {rule}"):
            run_bench(BareChip(), **arguments)


@pytest.mark.parametrize("part", SDRAM_PARTS.values(), ids=SDRAM_PARTS)
@pytest.mark.parametrize("clock_hz", [50e6, 100e6, 133e6, 143e6, 166e6])
def test_every_part_fits(part: SDRAMPart, clock_hz: float) -> None:
    """A chip is accepted at every clock its datasheet allows and refused above, with the clock in the message."""
    if clock_hz * part.tck3_ns <= 1e9:
        plan(part, clock_hz)
    else:
        with pytest.raises(ValueError, match=f"{clock_hz / 1e6:.1f} MHz"):
            plan(part, clock_hz)
