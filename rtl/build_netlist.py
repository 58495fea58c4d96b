"""The netlist between yosys and nextpnr: what it costs, and the savings that neither of the two makes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rtl.carry_chain import INJECT

# LUT4 sites that a cell takes. A distributed RAM takes four for its data and two for its write port.
LUT_SITES = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
CARRY_FEED_SITES = 2  # nextpnr adds one CCU2C to bring a signal into a carry chain, and one to bring it out
UNDRIVEN = "x"
BLOCK_RAMS = ("DP16KD", "PDPW16KD")
CARRY_PORTS = {"CIN": "input", "COUT": "output", "S0": "output", "S1": "output"}

Module = Mapping[str, Any]


def top_module(netlist: Mapping[str, Any]) -> Module:
    """The module that yosys marked as the top of the design."""
    return next(module for module in netlist["modules"].values() if int(module["attributes"].get("top", "0"), 2))


def _readers(module: Module, *, but: str | None = None) -> set[int | str]:
    """Nets that an output of the module reads, or an input of a cell on any port ``but`` one."""
    read = {bit for cell in module["cells"].values() for port, bits in cell["connections"].items()
            if cell["port_directions"][port] != "output" and port != but for bit in bits}
    return read | {bit for port in module["ports"].values() if port["direction"] != "input" for bit in port["bits"]}


def drop_unused_carries(netlist: Mapping[str, Any]) -> int:
    """Disconnect the carry outputs that nothing reads, and the carry inputs that do not matter; return how many.

    Yosys leaves a net on the last carry of every chain, and abc9 ties the open ends of the first ones to zero. For a
    net nextpnr spends a CCU2C that brings it out or in.
    """
    dropped = 0
    for module in netlist["modules"].values():
        read = _readers(module)
        for cell in module["cells"].values():
            if cell["type"] == "CCU2C":
                # Yosys forgets ports without a net, and nextpnr fails on a carry cell that lacks one.
                for port, direction in CARRY_PORTS.items():
                    cell["connections"].setdefault(port, [UNDRIVEN])
                    cell["port_directions"].setdefault(port, direction)
                if cell["connections"]["COUT"] != [UNDRIVEN] and read.isdisjoint(cell["connections"]["COUT"]):
                    cell["connections"]["COUT"] = [UNDRIVEN]
                    dropped += 1
                if cell["connections"]["CIN"] != [UNDRIVEN] and int(cell["parameters"]["INIT0"], 2) == INJECT:
                    cell["connections"]["CIN"] = [UNDRIVEN]
                    dropped += 1
    return dropped


def block_contents(netlist: Mapping[str, Any]) -> dict[int, np.ndarray]:
    """Initial contents of all block RAMs, in the order of the netlist and the form of `Bitstream.contents`.

    A cell has 64 parameters of sixteen 18-bit words, each in 20 bits.
    """
    found = {}
    for module in netlist["modules"].values():
        for cell in module["cells"].values():
            if cell["type"] in BLOCK_RAMS:
                text = "".join(cell["parameters"][f"INITVAL_{index:02X}"][::-1] for index in range(64))
                words = np.frombuffer(text.encode(), np.uint8).reshape(-1, 20)[:, :18] == ord("1")
                found[len(found)] = words.astype(np.uint8).reshape(-1, 9)
    return found


def lut_sites(module: Module) -> int:
    """LUT4 sites of one module of a mapped netlist, with the feeds of its carry chains."""
    cells = module["cells"].values()
    chains = [cell["connections"] for cell in cells if cell["type"] == "CCU2C"]
    carries_in = {bit for connections in chains for bit in connections.get("CIN", ())}
    carries_out = {bit for connections in chains for bit in connections.get("COUT", ())}
    in_logic = _readers(module, but="CIN")
    sites = sum(LUT_SITES.get(cell["type"], 0) for cell in cells)
    for connections in chains:
        sites += CARRY_FEED_SITES * any(
            bit != UNDRIVEN and bit not in carries_out for bit in connections.get("CIN", ()))
        sites += CARRY_FEED_SITES * any(
            bit != UNDRIVEN and (bit in in_logic or bit not in carries_in) for bit in connections.get("COUT", ()))
    return sites
