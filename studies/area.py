"""What one multiply-accumulate costs: transistors of generic CMOS cells, and cells of an ECP5. See docs/area.md."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from amaranth.back import rtlil
from amaranth.lib import wiring
from rich.console import Console
from rich.table import Table

from host.errors import TritloomError
from rtl.accumulator import Accumulator
from rtl.adder_tree import sum_bits
from rtl.build_flow import HIDE_ELEMENTS
from rtl.build_netlist import drop_unused_carries, lut_sites
from rtl.build_tools import tool_path
from rtl.config import CONFIGS, Config
from rtl.lookup_table import TableFill
from rtl.row_engine import RowEngine
from studies.mac_units import Bf16Mac, Int8Mac, TernaryDot

CMOS = "synth -flatten -top top; dfflegalize -cell $_DFF_P_ 01; abc -g cmos; opt_clean; stat -json -tech cmos"
ECP5 = f"synth_ecp5 -nodsp -run begin:map_luts -top top; {HIDE_ELEMENTS}; synth_ecp5 -run map_luts: -top top"
FLIP_FLOP, FLIP_FLOP_TRANSISTORS = "$_DFF_P_", 16   # as yosys counts them
CLAIM = {"ternary": (5, 5), "floating point": (5_000, 10_000)}
TREE_INPUTS = 64
TERMS = 4096


@dataclass(frozen=True)
class Area:
    """What a circuit came to after synthesis.

    Members
    -------
    name : of the circuit.
    macs : multiply-accumulates it does per clock.
    transistors : of its logic, estimated; None where a circuit is made of ECP5 cells.
    flip_flops : registers' bits.
    lut4, ccu2c, dpr16x4 : ECP5 cells by type.
    lut_sites : LUT4 sites that these take (`rtl.build_netlist.lut_sites`).
    """

    name: str
    macs: int
    transistors: int | None
    flip_flops: int
    lut4: int
    ccu2c: int
    dpr16x4: int
    lut_sites: int

    @property
    def transistors_per_mac(self) -> float | None:
        return None if self.transistors is None else self.transistors / self.macs

    @property
    def transistors_with_flip_flops(self) -> int | None:
        return None if self.transistors is None else self.transistors + FLIP_FLOP_TRANSISTORS * self.flip_flops

    @property
    def lut_sites_per_mac(self) -> float:
        return self.lut_sites / self.macs


def synthesise(component: wiring.Component, script: str, result: str) -> Any:
    """Run yosys on a component and return what the commands ``result`` wrote into ``result.json``.

    Raises
    ------
    TritloomError: yosys failed; the message is its first complaint.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "top.il").write_text(rtlil.convert(component, name="top", emit_src=False))
        status = subprocess.run(
            [tool_path("yosys"), "-q", "-l", "yosys.log", "-p", f"read_rtlil top.il; {script}; {result}"],
            cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode
        # The packaged yosys loses its standard streams in abc, the log file keeps everything.
        if status:
            log = (Path(folder) / "yosys.log").read_text(errors="replace")
            raise TritloomError(f"yosys failed: {log.partition('ERROR:')[2].strip() or f'exit status {status}'}")
        return json.loads((Path(folder) / "result.json").read_text())


def measure(name: str, component: wiring.Component, macs: int) -> Area:
    """Synthesise a component to CMOS and to ECP5 cells."""
    steps, _, statistics = CMOS.rpartition("; ")
    design = synthesise(component, steps, f"tee -o result.json {statistics}")["design"]
    area = measure_ecp5(name, component, macs)
    registers = design["num_cells_by_type"].get(FLIP_FLOP, 0)
    transistors = int(design["estimated_num_transistors"]) - FLIP_FLOP_TRANSISTORS * registers
    return Area(**asdict(area) | {"transistors": transistors})


def measure_ecp5(name: str, component: wiring.Component, macs: int) -> Area:
    """Synthesise a component to ECP5 cells only."""
    netlist = synthesise(component, ECP5, "write_json result.json")
    drop_unused_carries(netlist)
    module = netlist["modules"]["top"]
    types = [cell["type"] for cell in module["cells"].values()]
    return Area(name=name, macs=macs, transistors=None, flip_flops=types.count("TRELLIS_FF"),
                lut4=types.count("LUT4"), ccu2c=types.count("CCU2C"), dpr16x4=types.count("TRELLIS_DPR16X4"),
                lut_sites=lut_sites(module))


def lookup_engine(config: Config) -> Area:
    """The engine's datapath: ``rows`` row engines and accumulators, and the circuit that fills their tables."""
    row = RowEngine(codes=config.codes, table_blocks=config.table_blocks, primitives="ecp5")
    dot_bits = sum_bits(config.codes)
    accumulator = Accumulator(dot_bits=dot_bits, bits=max(dot_bits, config.accumulator_bits),
                              shift_max=config.shift_max, primitives="ecp5")
    fill = TableFill(lanes=config.lanes, block_beats=config.block_beats, table_blocks=config.table_blocks,
                     depth=config.activation_depth, code_trits=config.code_trits, primitives="ecp5")
    parts = [(config.rows, measure_ecp5("row engine", row, config.codes * config.code_trits)),
             (config.rows, measure_ecp5("accumulator", accumulator, 0)),
             (1, measure_ecp5("table fill", fill, 0))]
    counts = {member: sum(times * getattr(part, member) for times, part in parts)
              for member in ("macs", "flip_flops", "lut4", "ccu2c", "dpr16x4", "lut_sites")}
    return Area(name=f"lookup-table engine, {config.name}", transistors=None, **counts)


def all_areas(config: Config, terms: int) -> Iterator[Area]:
    """Every circuit of the comparison, one after the other."""
    yield measure("ternary MAC", TernaryDot(terms=terms), 1)
    yield measure(f"ternary MAC in a tree of {TREE_INPUTS}", TernaryDot(inputs=TREE_INPUTS, terms=terms), TREE_INPUTS)
    yield measure("int8 MAC", Int8Mac(terms=terms), 1)
    yield measure("bf16 MAC, float32 sum", Bf16Mac(), 1)
    yield lookup_engine(config)


def summary(areas: list[Area], terms: int) -> dict[str, object]:
    """Everything measured, in the keys of ``scripts/area --json``."""
    return {
        "provenance": "synthesised with yosys, neither placed nor routed; transistors estimated by its stat command",
        "terms": terms,
        "claim_transistors": CLAIM,
        "units": [asdict(area) | {"transistors_per_mac": area.transistors_per_mac,
                                  "transistors_with_flip_flops": area.transistors_with_flip_flops,
                                  "lut_sites_per_mac": area.lut_sites_per_mac} for area in areas],
    }


def table(areas: list[Area], terms: int) -> Table:
    """The comparison for people."""
    out = Table(title=f"cost of one multiply-accumulate, sums of {terms:,} products (synthesised, not routed)",
                title_justify="left", caption_justify="left",
                caption="transistors: logic in generic CMOS cells as yosys estimates them; flip-flops are 16 each. "
                        "LUT4 sites: LUTs, carry cells and distributed RAM. See docs/area.md.")
    out.add_column("circuit")
    for heading in ("MACs", "transistors per MAC", "with flip-flops", "LUT4", "CCU2C", "RAM", "FF",
                    "LUT4 sites per MAC"):
        out.add_column(heading, justify="right")
    for area in areas:
        logic, every = area.transistors_per_mac, area.transistors_with_flip_flops
        out.add_row(area.name, f"{area.macs:,}", "-" if logic is None else f"{logic:,.0f}",
                    "-" if every is None else f"{every / area.macs:,.0f}", f"{area.lut4:,}", f"{area.ccu2c:,}",
                    f"{area.dpr16x4:,}", f"{area.flip_flops:,}", f"{area.lut_sites_per_mac:,.1f}")
    out.add_section()
    for name, (least, most) in CLAIM.items():
        out.add_row(f"claim often quoted: {name}", "1", f"{least:,}" + (f" to {most:,}" if most > least else ""))
    return out


def main(
    config: Annotated[str, typer.Option(help="Configuration of the lookup-table engine.")] = "resident",
    terms: Annotated[int, typer.Option(min=1, help="Products that a sum must hold.")] = TERMS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Synthesise multiply-accumulate units of three number formats and this project's engine, and compare them."""
    if config not in CONFIGS:
        raise TritloomError(f"there is no configuration {config!r}; choose {', '.join(CONFIGS)}")
    areas, notes = [], Console(stderr=True)
    with notes.status("synthesising"):
        for area in all_areas(CONFIGS[config], terms):
            areas.append(area)
    if as_json:
        print(json.dumps(summary(areas, terms)))
    else:
        Console().print(table(areas, terms))


if __name__ == "__main__":
    try:
        typer.run(main)
    except TritloomError as error:
        print(f"area: {error}", file=sys.stderr)
        sys.exit(1)
