"""What a build reports: resources, clocks, worst paths; read from the files of yosys and nextpnr."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from host.errors import TritloomError
from rtl.build_netlist import top_module

PLL_PINS = ("CLKOP", "CLKOS", "CLKOS2", "CLKOS3")
GLOBAL_PREFIX = "$glbnet$"  # what nextpnr puts before the name of a net that it moves to the clock network
TOOL_SOURCE = "/share/"      # yosys's own library, which says nothing about the design
# Suffixes that name a cell after the ports between it and the signal it was named for.
CELL_SUFFIX = re.compile(r"_(?:LUT4|TRELLIS_FF|TRELLIS_DPR16X4|CCU2C|PFUMX|L6MUX21|DP16KD|MULT18X18D|ALU54B)(?:_|$).*")


@dataclass(frozen=True)
class Clock:
    """Required and achieved frequency of one clock domain; ``net`` is nextpnr's name for it."""

    net: str
    required_mhz: float
    achieved_mhz: float

    @property
    def met(self) -> bool:
        return self.achieved_mhz >= self.required_mhz


def resources(report: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Used and available LUT4, FF, EBR and DSP, from nextpnr's report.

    LUT4 counts sites: logic, carry, the feeds nextpnr adds to carry chains, distributed RAM and its write ports.
    """
    def count(which: str) -> dict[str, int]:
        cells = {name: entry[which] for name, entry in report["utilization"].items()}
        return {"LUT4": cells["TRELLIS_COMB"], "FF": cells["TRELLIS_FF"], "EBR": cells["DP16KD"],
                "DSP": cells["MULT18X18D"]}
    return count("used"), count("available")


def clocks(report: Mapping[str, Any], netlist: Mapping[str, Any], domains: Mapping[str, float],
           outputs: tuple[str, ...]) -> dict[str, Clock]:
    """Frequencies of the clock domains.

    nextpnr names a clock after whichever alias of its net it likes best; the PLL's pins say which domain it is.

    Parameters
    ----------
    report : nextpnr's report.
    netlist : what yosys wrote for nextpnr.
    domains : required frequency in Hz by domain.
    outputs : domains in the order of the PLL's outputs.

    Raises
    ------
    TritloomError: nextpnr timed no path in one of the domains.
    """
    top = top_module(netlist)
    pll = next(cell for cell in top["cells"].values() if cell["type"] == "EHXPLLL")
    timed = {name.removeprefix(GLOBAL_PREFIX): name for name in report["fmax"]}
    found = {}
    for domain, hz in domains.items():
        (bit,) = pll["connections"][PLL_PINS[outputs.index(domain)]]
        aliases = [name for name, net in top["netnames"].items() if bit in net["bits"]]
        net = next((timed[name] for name in aliases if name in timed), None)
        if net is None:
            raise TritloomError(f"place and route timed no path of clock {domain} (nets {', '.join(aliases)})")
        found[domain] = Clock(net=net, required_mhz=round(hz / 1e6, 3),
                              achieved_mhz=round(report["fmax"][net]["achieved"], 2))
    return found


def worst_path(report: Mapping[str, Any], net: str) -> list[str]:
    """Lines that show the slowest path of one clock in the names of the source: one line per signal it passes.

    Parameters
    ----------
    report : nextpnr's report.
    net : nextpnr's name of the clock.
    """
    path = next((path["path"] for path in report["critical_paths"]
                 if path["from"] == path["to"] == f"posedge {net}"), [])
    total_ns, signals = 0.0, []
    for piece in path:
        total_ns += piece["delay"]
        name = source_name(piece.get("net", piece["to"]["cell"]))
        where = next((source for source in piece.get("sources", ()) if not source.startswith(TOOL_SOURCE)), "")
        if signals and signals[-1][1] == name:
            signals[-1] = (total_ns, name, signals[-1][2] or where)
        else:
            signals.append((total_ns, name, where))
    return [f"  {ns:6.2f} ns  {name} {f'({where})' if where else ''}".rstrip() for ns, name, where in signals]


def source_name(name: str) -> str:
    """A signal of the source behind the name of a net or cell of the netlist."""
    return CELL_SUFFIX.sub("", name).removeprefix(GLOBAL_PREFIX)
