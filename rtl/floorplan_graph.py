"""A mapped netlist as a graph: cells with areas, and nets as lists of the cells they join."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtl.build_netlist import LUT_SITES, Module, top_module

FLIP_FLOP = "TRELLIS_FF"
FLIP_FLOP_SITES = 0.35  # of a LUT4: most share a site with the look-up table before them
# Nets with more pins go everywhere whatever is done, and most of them on the clock network.
LARGEST_NET = 600
CLOCK_PINS = frozenset({"CLK", "WCK", "CLKA", "CLKB", "CLK0", "CLK1", "CLK2", "CLK3"})

Cell = dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """Cells and nets of a whole design, flat. Pins are sorted by net, and a net meets a cell once.

    Members
    -------
    cells : of the netlist.
    area : float [cells], LUT4 sites.
    pin_cell : int [pins], the cell of each pin.
    first, last : int [nets], first and last pin of each net; a net has at least two.
    pin_net : int [pins], the net of each pin.
    """

    cells: list[Cell]
    area: np.ndarray
    pin_cell: np.ndarray
    first: np.ndarray
    last: np.ndarray
    pin_net: np.ndarray

    @staticmethod
    def of_netlist(netlist: Mapping[str, Any]) -> "Graph":
        """The graph of a netlist as yosys writes it, modules inside modules included."""
        cells, numbers = [], {}
        pins = []
        for cell, nets in _flatten(netlist, top_module(netlist), "", {}):
            pins += [(numbers.setdefault(net, len(numbers)), len(cells)) for net in nets]
            cells.append(cell)
        found = np.unique(np.array(pins), axis=0)
        size = np.bincount(found[:, 0])[found[:, 0]]
        net, cell = found[(size > 1) & (size <= LARGEST_NET)].T
        _, first, pin_net, size = np.unique(net, return_index=True, return_inverse=True, return_counts=True)
        areas = LUT_SITES | {FLIP_FLOP: FLIP_FLOP_SITES}
        area = np.array([areas.get(cell["type"], 0.0) for cell in cells])
        return Graph(cells, area, cell, first, first + size - 1, pin_net)

    def of_type(self, kind: str) -> np.ndarray:
        """Numbers of the cells of one type."""
        return np.array([index for index, cell in enumerate(self.cells) if cell["type"] == kind], int)

    def wire_length(self, places: np.ndarray) -> float:
        """Sum over the nets of half the perimeter around their cells, in tiles; places [cells, 2]."""
        at = places[self.pin_cell]
        return float((np.maximum.reduceat(at, self.first) - np.minimum.reduceat(at, self.first)).sum())


def _flatten(netlist: Mapping[str, Any], module: Module, path: str,
             outside: Mapping[int, str]) -> Iterator[tuple[Cell, list[str]]]:
    """Every cell below a module, with the nets at its pins; ``outside`` names those that come in through ports."""
    for name, cell in module["cells"].items():
        connections = {port: [outside.get(bit, f"{path}{bit}") if isinstance(bit, int) else "" for bit in bits]
                       for port, bits in cell["connections"].items() if port not in CLOCK_PINS}
        inner = netlist["modules"].get(cell["type"])
        if inner and "blackbox" not in inner["attributes"]:
            ports = {bit: net for port, nets in connections.items()
                     for bit, net in zip(inner["ports"][port]["bits"], nets, strict=True)}
            yield from _flatten(netlist, inner, f"{path}{name}.", ports)
        else:
            yield cell, [net for nets in connections.values() for net in nets if net]
