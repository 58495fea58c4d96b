"""The whole SoC: tokens through the serial port, every value and every cycle as golden model and compiler say."""

from dataclasses import replace
from pathlib import Path

import pytest
from amaranth import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from host.checkpoint import synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.image import Image
from host.importer import load_checkpoint
from rtl.config import NANO, POCKET, RESIDENT, STREAM, TINY
from rtl.core import UNITS
from rtl.csr_map import Speculation
from rtl.isa import Opcode
from sim.soc.top import SimulatedSoc
from tests.bench import run_bench
from tests.shapes import BANKED, POCKET_STORIES, SHAPES, STORIES, WORDS, stream_image, synthetic_image

# Operation streams and write ports of each unit that `tests.cocotb_soc` watches.
WATCHED = {
    "engine": {"streams": ("op",), "writes": ()},
    "vector": {"streams": ("op", "embed"), "writes": ("memory_write", "bank_write", "activation", "query", "cache")},
    "scalar": {"streams": ("op",), "writes": ()},
    "attention": {"streams": ("op",), "writes": ()},
    "sampler": {"streams": ("op",), "writes": ()},
    "rotary": {"streams": ("op",), "writes": ()},
}


class ProbedSoc(wiring.Component):
    """The simulated SoC with what its units do as further ports: ``engine_write_data`` and so on."""

    def __init__(self, *, image: Image) -> None:
        self.system = SimulatedSoc(config=image.config, image=image)
        core = self.system.soc.core
        self._probes = {"running": core.running, "finished": core.finished, "cycles": core.records.payload.cycles,
                        "record_token": core.records.payload.token, "record_position": core.records.payload.position}
        if self.system.soc.streaming:
            self._probes["refresh_cycles"] = self.system.soc.refresh_cycles
        for unit, ports in WATCHED.items():
            part = getattr(core, unit)
            self._probes[f"{unit}_busy"] = core.busy[UNITS.index(unit)]
            for name in ports["streams"]:
                stream = getattr(part, name)
                self._probes[f"{unit}_{name}_taken"] = stream.valid & stream.ready
            for name in ports["writes"]:
                port = getattr(part, name)
                for member in ("enable", "address", "data"):
                    if hasattr(port, member):
                        self._probes[f"{unit}_{name}_{member}"] = Value.cast(getattr(port, member))
        for member in ("enable", "address", "part", "data"):
            self._probes[f"engine_write_{member}"] = Value.cast(getattr(core.memory.write_rows, member))
        super().__init__(SimulatedSoc.PORTS | {name: Out(len(value)) for name, value in self._probes.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.system = system = self.system
        m.d.comb += [system.uart_rx.eq(self.uart_rx), self.uart_tx.eq(system.uart_tx), self.leds.eq(system.leds)]
        m.d.comb += [getattr(self, name).eq(value) for name, value in self._probes.items()]
        return m


def run(image: Image, folder: Path, name: str, *, prompt: list[int], count: int, temperature: float = 0.0,
        seed: int = 0, runs: int = 1, position: int = 0, speculation: Speculation = Speculation.OFF) -> None:
    """Generate on the simulated SoC under the eyes of `tests.cocotb_soc`; greedily if in several runs.

    From a later ``position`` on, what comes before it is as at power-up: nothing.
    """
    path = folder / f"{name}.img"
    image.save(path)
    plusargs = []
    if image.stream_words:
        weights = folder / f"{name}.sdram"
        weights.write_bytes(image.sections["stream"].tobytes())
        plusargs.append(f"+sdram_image={weights}")
    soc = ProbedSoc(image=image)
    parameters = {"image": str(path), "prompt": prompt, "count": count, "temperature": temperature, "seed": seed,
                  "runs": runs, "position": position, "speculation": int(speculation)}
    run_bench(soc, module="tests.cocotb_soc", name=name, parameters=parameters, sources=soc.system.verilog_sources,
              plusargs=plusargs)


def test_tiny_equals_golden(tmp_path: Path) -> None:
    """Anything wrong anywhere, found in the fastest configuration."""
    run(synthetic_image("tiny"), tmp_path, "soc_tiny", prompt=[1, 300, 44], count=10)


def test_tiny_samples_like_golden(tmp_path: Path) -> None:
    """Noise, temperature or seed that reach the sampler differently than the golden model."""
    run(synthetic_image("tiny"), tmp_path, "soc_tiny", prompt=[1], count=8, temperature=1.3, seed=12345)


def test_attention_and_feed_forward_side_by_side_equal_golden(tmp_path: Path) -> None:
    """Engine and vector unit that write in one clock, in the fastest configuration with two banks."""
    shape = replace(SHAPES["tiny"], is_parallel=True)
    run(compile_checkpoint(synthetic_checkpoint(shape), BANKED), tmp_path, "soc_banked", prompt=[1, 300, 44], count=30)


def test_groups_and_windows_equal_golden(tmp_path: Path) -> None:
    """A feed-forward in groups and attention over windows, over and beyond them; layers of attention alone
    and of feed-forward alone."""
    shape = replace(SHAPES["tiny"], is_parallel=True, layers=4, feed_groups=(0, 2, 3, 1), windows=(5, 0, 9, 0))
    run(compile_checkpoint(synthetic_checkpoint(shape), BANKED), tmp_path, "soc_banked", prompt=[1, 300, 44], count=30)


def test_sparse_weights_equal_golden(tmp_path: Path) -> None:
    """Codes of four trits in every matrix, and activations of the vector before where the last block is not full."""
    sparse = replace(TINY, code_trits=4)
    image = compile_checkpoint(synthetic_checkpoint(replace(SHAPES["tiny"], is_sparse=True)), sparse)
    assert any(op.unfilled for op in image.program if op.opcode == Opcode.MATVEC)
    run(image, tmp_path, "soc_sparse", prompt=[1, 300, 44], count=10)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_nano_equals_golden_with_the_shipped_model(tmp_path: Path, temperature: float) -> None:
    """Sizes that no other configuration has: logits that fill no beat, words of the cache as wide as the model.

    The whole context, each of whose tokens takes at most a thousand cycles.
    """
    image = compile_checkpoint(load_checkpoint(WORDS), NANO)
    assert max(image.predicted_cycles(position) for position in range(image.context)) <= 1000
    run(image, tmp_path, "soc_nano", prompt=[0], count=image.context, temperature=temperature, seed=3)


@pytest.mark.parametrize("position", [0, 123])
def test_pocket_equals_golden_with_the_shipped_model(tmp_path: Path, position: int) -> None:
    """Two words of the cache per layer, and more than one head of queries for each; up to the end of the context."""
    image = compile_checkpoint(load_checkpoint(POCKET_STORIES), POCKET)
    run(image, tmp_path, "soc_pocket", prompt=[1, 403], count=4, position=position)


@pytest.mark.parametrize("position", [0, 180])
def test_resident_equals_golden_with_the_shipped_model(tmp_path: Path, position: int) -> None:
    """The configuration of the demo: every layer, with attention that ends before the feed-forward or after it."""
    image = compile_checkpoint(load_checkpoint(STORIES), RESIDENT)
    run(image, tmp_path, "soc_resident", prompt=[1, 403], count=4, position=position)


def test_stream_equals_golden(tmp_path: Path) -> None:
    """Weights that come from SDRAM in another order, or not at all, under refresh."""
    run(stream_image(is_parallel=False), tmp_path, "soc_stream_serial", prompt=[1, 5, 9], count=6)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_tokens_of_a_prompt_share_passes_over_the_weights(tmp_path: Path, temperature: float) -> None:
    """A slot that works with another's vectors, scalars, position or token; a prompt pass that streams the head."""
    prompt = [1, *range(100, 100 + 2 * STREAM.slots)]
    run(stream_image(), tmp_path, "soc_stream", prompt=prompt, count=4, temperature=temperature, seed=5)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_drafts_change_nothing_but_the_passes(tmp_path: Path, temperature: float) -> None:
    """A draft that counts though the model says something else, noise of a slot that did not count, a stale key."""
    run(stream_image(), tmp_path, "soc_stream", prompt=[1, 7, 9], count=24, temperature=temperature, seed=2,
        speculation=Speculation.LOOKUP)


@pytest.mark.parametrize("name", ["resident", "stream"])
def test_image_of_another_geometry_is_refused_by_the_simulator(name: str) -> None:
    """Gateware built around an image that was compiled for something else."""
    other = {"resident": RESIDENT, "stream": STREAM}[name]
    with pytest.raises(Exception, match="compile the model for it"):
        SimulatedSoc(config=other, image=synthetic_image("tiny"))
