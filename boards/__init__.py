"""Boards: what each one carries, which devices it comes with, and the top that connects an accelerator to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from amaranth import Elaboratable
from amaranth.vendor import LatticeECP5Platform

from boards import ulx3s
from boards.clocks import Clocks
from boards.sdram_pads import SDRAMPads
from rtl.sdram_parts import SDRAMPart


@dataclass(frozen=True)
class Board:
    """One board.

    Members
    -------
    name : on the command line, and in openFPGALoader's list.
    devices : platform of each FPGA the board comes with.
    default_devices : device by configuration, where it is not ``default_device``.
    clocks : frequencies by configuration.
    baud_hz : rate of the serial port.
    sdram : the chip on the board.
    sdram_io_cycles : `sdram` clocks that the pad registers add to the way to the chip and back.
    top : makes the top from ``soc=`` and ``clocks=``.
    """

    name: str
    devices: Mapping[str, type[LatticeECP5Platform]]
    default_device: str
    default_devices: Mapping[str, str]
    clocks: Mapping[str, Clocks]
    baud_hz: int
    sdram: SDRAMPart
    sdram_io_cycles: int
    top: Callable[..., Elaboratable]


BOARDS = {board.name: board for board in (
    Board(name="ulx3s", devices=ulx3s.DEVICES, default_device="85F",
          default_devices={"tiny": "12F", "pocket": "12F", "nano": "12F"}, clocks=ulx3s.CLOCKS,
          baud_hz=ulx3s.BAUD_HZ, sdram=ulx3s.SDRAM_PART, sdram_io_cycles=SDRAMPads.IO_CYCLES, top=ulx3s.ULX3STop),
)}
