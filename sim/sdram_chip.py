"""The SDRAM chip model as an Amaranth instance."""

from dataclasses import asdict
from pathlib import Path

from amaranth.hdl import Instance, Value
from amaranth.lib import wiring

from rtl.sdram_parts import SDRAMPart

CHIP_SOURCE = Path(__file__).resolve().parent / "sdram_chip.v"
POWER_UP_US = 1.0          # instead of 200: the controllers of simulations wait as little


def chip_instance(part: SDRAMPart, clock_hz: float, pins: wiring.PureInterface, clock: Value) -> Instance:
    """The chip model behind the pins of a controller, with the timings of ``part`` at this clock."""
    timing = asdict(part.timing(clock_hz, power_up_us=POWER_UP_US))
    del timing["cas_latency"]                  # the mode register sets it
    return Instance(
        "sdram_chip", p_ROW_BITS=part.row_bits, p_COLUMN_BITS=part.column_bits,
        **{f"p_{name.upper()}": cycles for name, cycles in timing.items()}, i_clk=clock, i_cke=pins.cke,
        i_cs_n=pins.cs_n, i_ras_n=pins.ras_n, i_cas_n=pins.cas_n, i_we_n=pins.we_n, i_ba=pins.ba, i_a=pins.a,
        i_dqm=pins.dqm, i_dq_i=pins.dq_o, i_dq_oe=~pins.dq_oe_n, o_dq_o=pins.dq_i)
