"""cocotb side of test_sdram: drives the chip model by hand, keeping every rule but one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from rtl.sdram_parts import DEFAULT_PART
from tests.bench import parameters, start

NOP, ACT, READ, WRITE, PRE, REF, MRS = 0b111, 0b011, 0b101, 0b100, 0b010, 0b001, 0b000
ALL = 1 << 10
MODE = 3 << 4 | 1          # CAS latency 3, sequential bursts of two
# tRC longer than tRAS and tRP together, and few rows, so that a window of all their refreshes is short.
PART = replace(DEFAULT_PART, trc_ns=80.0, row_bits=4, refresh_ms=0.125)
TIMING = PART.timing(133e6, power_up_us=1)
Step = tuple[int, int, int, int]      # command, bank, address, cycles until the next command


class Driver:
    """Pins of the chip."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        for name in ("cke", "cs_n", "ras_n", "cas_n", "we_n", "dq_oe_n"):
            getattr(dut, f"pins__{name}").value = 1
        for name in ("ba", "a", "dqm", "dq_o"):
            getattr(dut, f"pins__{name}").value = 0

    async def command(self, code: int, bank: int = 0, address: int = 0, cycles: int = 1, *, drive: bool = True) -> None:
        """One command, then NOPs; a WRITE drives two words."""
        dut = self.dut
        for cycle in range(cycles):
            now = code if cycle == 0 else NOP
            dut.pins__cs_n.value = int(now == NOP)
            dut.pins__ras_n.value, dut.pins__cas_n.value, dut.pins__we_n.value = now >> 2 & 1, now >> 1 & 1, now & 1
            dut.pins__ba.value, dut.pins__a.value = bank, address
            dut.pins__dq_oe_n.value = int(not (code == WRITE and cycle < 2 and drive))
            await RisingEdge(dut.clk)
        dut.pins__cs_n.value = 1
        dut.pins__dq_oe_n.value = 1

    async def run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            await self.command(*step)


def initialise(*, refreshes: int = 8, mode: int = MODE, mode_wait: int = TIMING.mrd) -> list[Step]:
    """The bring-up sequence after the power-up wait."""
    return [(PRE, 0, ALL, TIMING.rp), *[(REF, 0, 0, TIMING.rfc)] * refreshes, (MRS, 0, mode, mode_wait)]


def shortened(rule: str) -> list[Step]:
    """A sequence that keeps every distance, but the one that ``rule`` names is one cycle short."""
    t = {name: getattr(TIMING, name) - int(rule == f"t{name.upper()}")
         for name in ("rcd", "rp", "ras", "rc", "rfc", "wr", "rrd", "mrd")}
    opening = {
        "tRAS": [(ACT, 0, 5, t["ras"]), (PRE, 0, 0, 9)],
        "tRC": [(ACT, 0, 5, TIMING.ras), (PRE, 0, 0, t["rc"] - TIMING.ras), (ACT, 0, 6, 9)],
        "tRRD": [(ACT, 0, 5, t["rrd"]), (ACT, 1, 5, 9)],
        "tWR": [(ACT, 0, 5, 9), (WRITE, 0, 0, 1 + t["wr"]), (PRE, 0, 0, 9)],
        "tRFC": [(REF, 0, 0, t["rfc"]), (ACT, 0, 0, 9)],
    }.get(rule, [(ACT, 0, 5, t["rcd"]), (READ, 0, 4, 9), (PRE, 0, 0, t["rp"]), (ACT, 0, 6, 9)])
    return [*initialise(mode_wait=t["mrd"]), *opening]


SEQUENCES: dict[str, list[Step]] = {
    "two refreshes before MRS": initialise(refreshes=1),
    "mode register set first": [*initialise()[:-1], (ACT, 0, 0, 9)],
    "ACT of a closed bank": [*initialise(), (ACT, 2, 5, 20), (ACT, 2, 5, 9)],
    "access to an open bank": [*initialise(), (ACT, 2, 5, 9), (READ, 1, 0, 9)],
    "all banks precharged": [*initialise(), (ACT, 2, 5, 9), (REF, 0, 0, 20)],
    "no auto-precharge": [*initialise(), (ACT, 2, 5, 9), (READ, 2, ALL, 9)],
    "CAS latency 2 or 3": initialise(mode=1 << 4 | 1),
    "WRITE after read data": [*initialise(), (ACT, 2, 5, 9), (READ, 2, 0, 2), (WRITE, 2, 0, 9)],
    "one driver of DQ": [*initialise(), (ACT, 2, 5, 9), (READ, 2, 0, 5), (WRITE, 2, 0, 9)],
    "refreshes per window": [*initialise(), *[(REF, 0, 0, 8 * TIMING.refi)] * 3],
    "refresh interval": [*initialise(), (NOP, 0, 0, 9 * TIMING.refi + 20)],
}


@cocotb.test()
async def obey_or_break(dut: Any) -> None:
    """Break the rule that the caller names, or none."""
    rule = parameters()["rule"]
    driver = Driver(dut)
    await start(dut)
    if rule == "CKE high":
        dut.pins__cke.value = 0
    if rule != "power-up wait":
        await driver.command(NOP, cycles=TIMING.power_up)
    if rule == "data with WRITE":
        await driver.run([*initialise(), (ACT, 2, 5, 9)])
        await driver.command(WRITE, 2, 0, 9, drive=False)
    else:
        await driver.run(SEQUENCES.get(rule) or shortened(rule))
    if rule == "none":
        await words_return(driver)


async def words_return(driver: Driver) -> None:
    """What was written is read, CAS latency cycles after the READ, low half first; a masked word stays."""
    dut = driver.dut
    await driver.run([(PRE, 0, ALL, 9), (ACT, 3, 7, 9)])
    for column, words, mask in ((8, (0x1234, 0xABCD), 0), (8, (0xFFFF, 0xFFFF), 3)):
        dut.pins__dqm.value = mask
        dut.pins__dq_o.value = words[0]
        await driver.command(WRITE, 3, column, 1)
        dut.pins__dq_o.value, dut.pins__dq_oe_n.value = words[1], 0
        await RisingEdge(dut.clk)
        dut.pins__dq_oe_n.value = 1
    dut.pins__dqm.value = 0
    await driver.command(NOP, cycles=4)
    await driver.command(READ, 3, 8, 1)
    taken = []
    for _ in range(5):
        taken.append(int(dut.pins__dq_i.value))
        await RisingEdge(dut.clk)
    latency = TIMING.cas_latency
    assert taken[latency:latency + 2] == [0x1234, 0xABCD], [hex(word) for word in taken]
