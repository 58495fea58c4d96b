"""SDR SDRAM chips of ECP5 boards as data, and their timings in clock cycles. Pure Python."""

from dataclasses import dataclass
from math import ceil, floor

WORD_HALVES = 2            # 16-bit halves of the 32-bit word that everything above the chip counts in
ADDRESS_BITS = 24          # 32-bit word address of the largest chip here


@dataclass(frozen=True)
class SDRAMTiming:
    """Minimum distances in clock cycles of one chip at one clock; ``refi`` is a maximum.

    Members carry the datasheet's names: ``rcd`` is tRCD. ``cas_latency`` comes from the clock; ``mrd`` is the
    distance after a mode register set, ``power_up`` the wait before the first command.
    """

    cas_latency: int
    rcd: int
    rp: int
    ras: int
    rc: int
    rfc: int
    wr: int
    rrd: int
    mrd: int
    refi: int
    power_up: int


@dataclass(frozen=True)
class SDRAMPart:
    """One 16-bit wide chip of four banks, in the words of its datasheet's AC characteristics table.

    Parameters
    ----------
    name : ordering code without package and temperature letters.
    row_bits, column_bits : address bits; a column is 16 bits.
    tck3_ns, tck2_ns : shortest clock period with CAS latency 3 and 2.
    trcd_ns, trp_ns, tras_ns, trc_ns, trfc_ns, twr_ns, trrd_ns : minima.
    power_up_us : stable clock before the first command.
    """

    name: str
    row_bits: int
    column_bits: int
    tck3_ns: float
    tck2_ns: float
    trcd_ns: float
    trp_ns: float
    tras_ns: float
    trc_ns: float
    trfc_ns: float
    twr_ns: float
    trrd_ns: float
    power_up_us: float = 200.0
    refresh_ms: float = 64.0
    bank_bits: int = 2
    mode_cycles: int = 2

    @property
    def words(self) -> int:
        """32-bit words of the chip."""
        return 1 << (self.row_bits + self.bank_bits + self.column_bits - 1)

    @property
    def page_words(self) -> int:
        """32-bit words of one open row."""
        return 1 << (self.column_bits - 1)

    def timing(self, clock_hz: float, *, power_up_us: float | None = None) -> SDRAMTiming:
        """Cycles at ``clock_hz``; simulation shortens the wait after power-up.

        Raises
        ------
        ValueError: the chip is not that fast.
        """
        period_ns = 1e9 / clock_hz
        if period_ns < self.tck3_ns - 1e-9:
            raise ValueError(f"{self.name} runs up to {1e3 / self.tck3_ns:.1f} MHz, got {clock_hz / 1e6:.1f} MHz")

        def cycles(ns: float) -> int:
            return max(1, ceil(ns / period_ns - 1e-9))

        power_up_ns = 1e3 * (self.power_up_us if power_up_us is None else power_up_us)
        return SDRAMTiming(
            cas_latency=2 if period_ns >= self.tck2_ns - 1e-9 else 3, rcd=cycles(self.trcd_ns), rp=cycles(self.trp_ns),
            ras=cycles(self.tras_ns), rc=cycles(self.trc_ns), rfc=cycles(self.trfc_ns),
            wr=max(2, cycles(self.twr_ns)), rrd=max(2, cycles(self.trrd_ns)), mrd=self.mode_cycles,
            refi=floor(self.refresh_ms * 1e6 / (1 << self.row_bits) / period_ns), power_up=cycles(power_up_ns))


# Rounded up where die revisions of one speed grade differ, so that each entry suits all of them.
IS42S16160G_7 = SDRAMPart(
    name="IS42S16160G-7", row_bits=13, column_bits=9, tck3_ns=7.0, tck2_ns=10.0, trcd_ns=20, trp_ns=20, tras_ns=42,
    trc_ns=63, trfc_ns=63, twr_ns=14, trrd_ns=14)
MT48LC16M16A2_7E = SDRAMPart(
    name="MT48LC16M16A2-7E", row_bits=13, column_bits=9, tck3_ns=7.0, tck2_ns=7.5, trcd_ns=15, trp_ns=15, tras_ns=37,
    trc_ns=60, trfc_ns=66, twr_ns=15, trrd_ns=14)
MT48LC16M16A2_6A = SDRAMPart(
    name="MT48LC16M16A2-6A", row_bits=13, column_bits=9, tck3_ns=6.0, tck2_ns=10.0, trcd_ns=18, trp_ns=18, tras_ns=42,
    trc_ns=60, trfc_ns=60, twr_ns=12, trrd_ns=12)
W9825G6KH_6 = SDRAMPart(
    name="W9825G6KH-6", row_bits=13, column_bits=9, tck3_ns=6.0, tck2_ns=10.0, trcd_ns=18, trp_ns=18, tras_ns=42,
    trc_ns=60, trfc_ns=60, twr_ns=12, trrd_ns=12)
AS4C32M16SB_7 = SDRAMPart(
    name="AS4C32M16SB-7", row_bits=13, column_bits=10, tck3_ns=7.0, tck2_ns=10.0, trcd_ns=21, trp_ns=21, tras_ns=42,
    trc_ns=63, trfc_ns=63, twr_ns=14, trrd_ns=14)

DEFAULT_PART = IS42S16160G_7
SDRAM_PARTS = {part.name: part for part in (
    IS42S16160G_7, MT48LC16M16A2_7E, MT48LC16M16A2_6A, W9825G6KH_6, AS4C32M16SB_7)}
