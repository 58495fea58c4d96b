"""Places block RAMs and multipliers before nextpnr places the rest.

nextpnr's placer looks for the places of all cells at once and moves a cell that it finds on a block RAM's site to the
next free one. That works while few of them are in use; with nearly all of the block RAMs and half of the multipliers
taken, they end far from the logic that they serve. Here only these are placed, and the logic between them is kept as
what it pulls them with: a quadratic model of all wires is solved again and again, each time with the wires as long as
they were found the last time (the bound-to-bound model of Spindler et al., Kraftwerk2, 2008), the logic pulled to where
it would lie if spread over the chip (as in Kim et al., SimPL, 2012), and the block RAMs and multipliers assigned to
sites at the least cost in wire.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.linalg import cg

from rtl.floorplan_graph import Graph
from rtl.floorplan_sites import Sites, device_sites

STARTS = 3             # searches, of which the best counts
ROUNDS = 60
FINAL_ROUNDS = 8       # in which sites suit the spread logic instead of that of the wires alone
FREE_ROUNDS = 6        # in which block RAMs and multipliers follow the logic wherever it goes
PULL = 0.03            # of the place in the spread logic, growing by this much each round
HOLD = 1e4             # of the site of a block RAM or multiplier
SLIGHT = 1e-6          # pull on every cell, so that there is but one solution
STAY = 0.05            # cost of a site per tile from where the wires alone would put its cell
NEAR = 1.0             # tiles; wires are never taken for shorter, which keeps the model well conditioned
SOLVER_STEPS, SOLVER_TOLERANCE = 100, 1e-5


def floorplan(netlist: Mapping[str, Any], device: str, seed: int) -> float:
    """Give every block RAM and multiplier of a mapped netlist its site, as the attribute ``BEL``.

    Returns the length of all wires in tiles, with the logic where the model has it.

    Parameters
    ----------
    netlist : as yosys writes it; changed in place.
    device : Lattice's name of it.
    seed : of the random places from which the searches start.
    """
    graph, sites = Graph.of_netlist(netlist), device_sites(device)
    searches = [_Search(graph, sites, np.random.default_rng((seed, start))).run() for start in range(STARTS)]
    chosen, length = min(searches, key=lambda found: found[1])
    for kind, choice in chosen.items():
        for cell, site in choice.items():
            graph.cells[cell]["attributes"]["BEL"] = sites.names[kind][site]
    return length


class _Search:
    """Places float [cells, 2] that improve round by round.

    Members
    -------
    place : solution of the wires' model.
    target : where each cell is pulled: to its place in the spread logic, or to its site.
    """

    def __init__(self, graph: Graph, sites: Sites, random: np.random.Generator) -> None:
        self.graph, self.sites = graph, sites
        self.blocks = {kind: graph.of_type(kind) for kind in sites.places}
        self.logic = np.flatnonzero(graph.area)
        rows, columns = sites.logic.shape
        self.end = np.array([columns, rows]) - 1.0
        self.place = self.end * random.uniform(0.3, 0.7, (len(graph.cells), 2))
        self.target = self.place

    def run(self) -> tuple[dict[str, dict[int, int]], float]:
        """Per type of cell, the site of every cell; and the length of all wires."""
        for number in range(ROUNDS):
            hold = HOLD if number >= FREE_ROUNDS else 0.0
            self.place = np.stack([self._solve(axis, number * PULL, hold) for axis in (0, 1)], 1)
            settled = self.place if number < ROUNDS - FINAL_ROUNDS else self.target
            target = self.place.copy()
            target[self.logic] = spread(self.place[self.logic], self.graph.area[self.logic], self.sites.logic)
            chosen = self._assign(settled)
            for kind, choice in chosen.items():
                target[list(choice)] = self.sites.places[kind][list(choice.values())]
            self.target = target
        return chosen, self.graph.wire_length(self.target)

    def _solve(self, axis: int, pull: float, hold: float) -> np.ndarray:
        """Coordinates [cells] at which wires, pulls of the logic and holds of the others are in balance."""
        distance = np.abs(self.place[:, axis] - self.target[:, axis])
        weight = np.where(self.graph.area > 0, pull / np.maximum(distance, NEAR), 0) + SLIGHT
        for cells in self.blocks.values():
            weight[cells] += hold
        system = self._wires(axis) + sparse.diags_array(weight)
        found, _ = cg(system, weight * self.target[:, axis], x0=self.place[:, axis], rtol=SOLVER_TOLERANCE,
                      maxiter=SOLVER_STEPS, M=sparse.diags_array(1 / system.diagonal()))
        return np.clip(found, 1, self.end[axis] - 1)

    def _wires(self, axis: int) -> sparse.csr_array:
        """Laplacian of the wires along one axis: every cell of a net is tied to the two outermost."""
        graph = self.graph
        order, at = _sort_in_nets(graph, self.place[:, axis])
        cell, net = graph.pin_cell[order], graph.pin_net
        pin = np.arange(len(cell))
        weight = 1 / (graph.last - graph.first)[net]
        ties = []
        for outer, others in ((graph.first, pin != graph.first[net]),
                              (graph.last, (pin != graph.first[net]) & (pin != graph.last[net]))):
            end = outer[net]
            distance = np.maximum(np.abs(at - at[end]), NEAR)
            ties.append((cell[others], cell[end][others], (weight / distance)[others]))
        a, b, w = (np.concatenate(part) for part in zip(*ties, strict=True))
        count = len(graph.cells)
        wires = sparse.coo_array((np.tile(w, 2), (np.r_[a, b], np.r_[b, a])), shape=(count, count)).tocsr()
        return sparse.diags_array(wires.sum(axis=1)) - wires

    def _assign(self, places: np.ndarray) -> dict[str, dict[int, int]]:
        """A site for every cell, by type, at the least sum of wire with all other cells at ``places``."""
        pins = [_sort_in_nets(self.graph, places[:, axis]) for axis in (0, 1)]
        chosen = {}
        for kind, cells in self.blocks.items():
            sites = self.sites.places[kind]
            cost = STAY * np.abs(self.place[cells][:, None] - sites).sum(2)
            for axis in (0, 1):
                cost += self._wire_costs(cells, *pins[axis], sites[:, axis])
            pairs = zip(*linear_sum_assignment(cost), strict=True)
            chosen[kind] = {int(cells[cell]): int(site) for cell, site in pairs}
        return chosen

    def _wire_costs(self, cells: np.ndarray, order: np.ndarray, at: np.ndarray, sites: np.ndarray) -> np.ndarray:
        """How much [cells, sites] the nets of each cell grow along one axis if it alone moves to each site.

        ``order`` and ``at`` are of all pins, as `_sort_in_nets` gives them.
        """
        graph = self.graph
        row = np.full(len(graph.cells), -1)
        row[cells] = np.arange(len(cells))
        cell = graph.pin_cell[order]
        pins = np.flatnonzero(row[cell] >= 0)
        first, last = graph.first[graph.pin_net[pins]], graph.last[graph.pin_net[pins]]
        lowest = at[np.where(first == pins, first + 1, first)]    # of the other cells of the net
        highest = at[np.where(last == pins, last - 1, last)]
        coordinates, which = np.unique(sites, return_inverse=True)
        growth = np.maximum(lowest[:, None] - coordinates, 0) + np.maximum(coordinates - highest[:, None], 0)
        cost = np.zeros((len(cells), len(coordinates)))
        np.add.at(cost, row[cell[pins]], growth)
        return cost[:, which]


def _sort_in_nets(graph: Graph, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order [pins] that sorts the pins of each net by coordinate, and the coordinates in it."""
    order = np.lexsort((at[graph.pin_cell], graph.pin_net))
    return order, at[graph.pin_cell[order]]


def spread(places: np.ndarray, area: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Places [cells, 2] near the given ones at which cells of an area fill the chip evenly.

    The chip is halved across its longer side, the cells along the same side in proportion to what the halves hold, and
    so on with each half.

    Parameters
    ----------
    area : float [cells].
    capacity : float [rows, columns], area that each tile can take.
    """
    found = places.copy()
    rows, columns = capacity.shape
    work = [(np.arange(len(places)), 0, columns, 0, rows)]
    while work:
        cells, left, right, top, bottom = work.pop()
        width, height = right - left, bottom - top
        if width * height <= 4 or len(cells) <= 2:
            found[cells] = np.clip(places[cells], (left, top), (right - 0.01, bottom - 0.01))
            continue
        along = 0 if width >= height else 1
        half = (width if along == 0 else height) // 2
        part = capacity[top:bottom, left:right].sum(axis=along)
        share = part[:half].sum() / max(part.sum(), 1e-9)
        cells = cells[np.argsort(places[cells, along], kind="stable")]
        filled = np.cumsum(area[cells])
        cut = np.searchsorted(filled, share * filled[-1])
        middle = (left if along == 0 else top) + half
        work.append((cells[:cut], left, middle if along == 0 else right, top, bottom if along == 0 else middle))
        work.append((cells[cut:], middle if along == 0 else left, right, top if along == 0 else middle, bottom))
    return found
