"""The floorplan: sites of the devices, the graph of a netlist, even spreading, and short wires."""

from typing import Any

import numpy as np
import pytest

from rtl.floorplan import floorplan, spread
from rtl.floorplan_graph import CLOCK_PINS, Graph
from rtl.floorplan_sites import device_sites

CLUSTERS, CLUSTER_SIZE = 12, 60


def cell(kind: str, inputs: list[int | str], outputs: list[int | str], **more: list[int | str]) -> dict[str, Any]:
    connections = {"A": inputs, "Z": outputs, **more}
    return {"type": kind, "attributes": {}, "parameters": {}, "connections": connections,
            "port_directions": {port: "output" if port == "Z" else "input" for port in connections}}


def module(cells: dict[str, Any], **attributes: str) -> dict[str, Any]:
    return {"attributes": attributes, "ports": {}, "cells": cells, "netnames": {}}


def clustered(rng: np.random.Generator) -> dict[str, Any]:
    """A block RAM or multiplier in the middle of each cluster of look-up tables, the clusters in a ring."""
    cells, net = {}, iter(range(2, 1 << 20))
    outputs = []
    for cluster in range(CLUSTERS):
        own = [next(net) for _ in range(CLUSTER_SIZE)]
        kind = ("DP16KD", "MULT18X18D")[cluster % 2]
        cells[f"block{cluster}"] = cell(kind, own[:20], own[20:40])
        for index, out in enumerate(own[:20] + own[40:]):
            sources = [*rng.choice(own, 2).tolist(), *(outputs[-1][index : index + 1] if outputs else [])]
            cells[f"lut{cluster}_{index}"] = cell("LUT4", sources, [out])
        outputs.append(own)
    return {"modules": {"top": module(cells, top="1")}}


@pytest.mark.parametrize(("device", "blocks", "multipliers", "logic"), [
    ("LFE5U-85F", 208, 156, 83_640), ("LFE5U-45F", 108, 72, 43_848), ("LFE5U-12F", 56, 28, 24_288)])
def test_sites_are_those_of_the_data_sheet(device: str, blocks: int, multipliers: int, logic: int) -> None:
    """A misread tile grid; the 12F is a 25F in all but name."""
    sites = device_sites(device)
    assert {kind: len(names) for kind, names in sites.names.items()} == {
        "DP16KD": blocks, "MULT18X18D": multipliers}
    assert sites.logic.sum() == logic
    for kind, names in sites.names.items():
        assert len(set(names)) == len(names)
        for name, (x, y) in zip(names, sites.places[kind], strict=True):
            assert name.startswith(f"X{x}/Y{y}/")


def test_graph_joins_modules_and_leaves_clocks_out() -> None:
    """A net that ends at a module's border, or a clock that pulls everything together."""
    inner = module({"b": cell("TRELLIS_FF", [2], [3], CLK=[4])})
    inner["ports"] = {"I": {"bits": [2]}, "O": {"bits": [3]}, "C": {"bits": [4]}}
    box = cell("inner", [], [])
    box["connections"] = {"I": [10], "O": [11], "C": [12]}
    model = module({"x": cell("$buf", [2], [3])}, blackbox="1")
    top = module({"a": cell("LUT4", [11, "0"], [10]), "box": box, "ram": cell("DP16KD", ["x"], [12])}, top="1")
    graph = Graph.of_netlist({"modules": {"inner": inner, "top": top, "DP16KD": model}})
    assert [found["type"] for found in graph.cells] == ["LUT4", "TRELLIS_FF", "DP16KD"]
    assert "CLK" in CLOCK_PINS
    nets = [set(graph.pin_cell[first : last + 1].tolist())
            for first, last in zip(graph.first, graph.last, strict=True)]
    assert nets == [{0, 1}, {0, 1}]
    assert graph.wire_length(np.array([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]])) == 14


@pytest.mark.parametrize("seed", range(5))
def test_spread_fills_the_chip_evenly_and_keeps_the_order(seed: int) -> None:
    """Crowding that the pulls are there to prevent."""
    rng = np.random.default_rng(seed)
    places, area = rng.normal((30, 20), 1.0, (4000, 2)), rng.choice([0.35, 1.0, 2.0, 6.0], 4000)
    capacity = np.full((40, 60), 8.0)
    capacity[10] = 0
    found = spread(places, area, capacity)
    for region, fraction in ((found[:, 0] < 30, 0.5), (found[:, 1] < 10, 10 / 39), (found[:, 1] >= 20, 20 / 39)):
        assert abs(area[region].sum() / area.sum() - fraction) < 0.03
    left, right = found[:, 0] < 30, found[:, 0] >= 30
    assert places[left, 0].max() <= places[right, 0].min()


@pytest.mark.parametrize("device", ["LFE5U-85F", "LFE5U-12F"])
def test_blocks_get_sites_of_their_own_with_short_wires(device: str) -> None:
    """Two blocks on one site, a place of the wrong kind, or a search that does not shorten wires."""
    netlist = clustered(np.random.default_rng(1))
    length = floorplan(netlist, device, 1)
    sites = device_sites(device)
    chosen = {name: found["attributes"].get("BEL") for name, found in netlist["modules"]["top"]["cells"].items()}
    blocks = {name: place for name, place in chosen.items() if name.startswith("block")}
    assert len(set(blocks.values())) == CLUSTERS
    for name, place in blocks.items():
        kind = netlist["modules"]["top"]["cells"][name]["type"]
        assert place in sites.names[kind]
    assert all(place is None for name, place in chosen.items() if name.startswith("lut"))
    # Even a ring of twelve pieces of this chip, each cluster filling one, needs no more than this.
    nets = CLUSTERS * CLUSTER_SIZE
    piece = (sites.logic.shape[0] * sites.logic.shape[1] / CLUSTERS) ** 0.5
    assert length < nets * piece * 1.5


def test_same_seed_same_floorplan_other_seed_another() -> None:
    """A build that cannot be repeated, or a seed that changes nothing."""
    def places(seed: int) -> list[str]:
        netlist = clustered(np.random.default_rng(2))
        floorplan(netlist, "LFE5U-12F", seed)
        return [found["attributes"].get("BEL") for found in netlist["modules"]["top"]["cells"].values()]
    assert places(1) == places(1)
    assert places(1) != places(2)
