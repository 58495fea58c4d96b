"""A stand-in for the accelerator that routes in seconds: the memories that hold a model, and few gates."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from boards import BOARDS
from boards.clocks import Clocks
from host.checkpoint import synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.image import Image
from rtl.build_flow import Build
from rtl.config import TINY, Config
from rtl.cpu import Ram
from rtl.csr_map import RAM_BYTES
from rtl.embedding import Embedding
from rtl.firmware_build import with_image_id
from rtl.isa import PROGRAM_BITS
from rtl.rotary import Rotary
from rtl.sdram_controller import PinsSignature
from rtl.weight_memory import WeightMemory
from tests.shapes import SHAPES

# Two rows in place of eight: fewer block RAMs, with words of 18 and 4 bits where `tiny` has 36 and 4.
SMALL = replace(TINY, name="small", rows=2, weight_depth=1024)


@cache
def small_image(seed: int = 0) -> Image:
    """The image of a random model for `SMALL`."""
    return compile_checkpoint(synthetic_checkpoint(SHAPES["tiny"], seed=seed), SMALL)


class SmallEngine(wiring.Component):
    """Stands where the tile engine stands: a multiplier, two adders and a distributed RAM."""

    i: In(16)
    o: Out(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        square, total = Signal(32), Signal(32)
        m.submodules.table = table = Memory(shape=8, depth=16, init=[])
        write, read = table.write_port(), table.read_port(domain="comb")
        m.d.comb += [write.en.eq(1), write.addr.eq(self.i), write.data.eq(total), read.addr.eq(total[9:])]
        m.d.sync += [square.eq(self.i * self.i + read.data), total.eq(total + square),
                     self.o.eq(total ^ (total * 5)[7:])]
        return m


class SmallCore(wiring.Component):
    """Holds the engine, and the memories of the accelerator.

    Parameters
    ----------
    config, image, firmware : as of the accelerator.

    Members
    -------
    i : what the memories are loaded with, bit by bit.
    o : depends on every bit of every memory.
    """

    def __init__(self, *, config: Config, image: Image, firmware: bytes) -> None:
        sections = image.sections
        self._engine = SmallEngine()
        self._source = WeightMemory(config=config, init=sections["weights"], primitives="ecp5")
        self._embedding = Embedding(config=config, init=sections["embedding"])
        self._rotary = Rotary(context_log2=config.context_log2, head_dim=config.head_dim, init=sections["rotary"])
        self._program = Memory(
            shape=PROGRAM_BITS, depth=config.program_depth, attrs={"ram_style": "block"},
            init=[int(low) | int(middle) << 32 | int(high) << 64 for low, middle, high in sections["program"]])
        self._ram = Ram(size_bytes=RAM_BYTES, contents=with_image_id(firmware, image.image_id))
        super().__init__({"i": In(1), "o": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = self._engine
        m.submodules.source = source = self._source
        m.submodules.embedding = embedding = self._embedding
        m.submodules.rotary = rotary = self._rotary
        m.submodules.program = program = self._program
        m.submodules.ram = ram = self._ram
        count, received, mixed = Signal(24), Signal(96), Signal(8)
        m.d.sync += [count.eq(count + 1), received.eq(Cat(self.i, received))]
        for part in (source, embedding, rotary):
            m.d.comb += Cat(part.load.enable, part.load.address, part.load.data).eq(received)
        write, read = program.write_port(), program.read_port()
        m.d.comb += [
            write.en.eq(received[0]), write.addr.eq(received), write.data.eq(received), read.addr.eq(count),
            engine.i.eq(count), ram.data.valid.eq(count[0]), ram.data.access.eq(received), embedding.read.enable.eq(1),
            embedding.read.address.eq(count), source.fetch.valid.eq(1), source.fetch.payload.eq(count),
            source.tiles.ready.eq(1), rotary.op.valid.eq(1), rotary.position.eq(count)]
        memories = Cat(source.tiles.payload, embedding.read.data, rotary.factors, ram.data.read_data, read.data)
        for index in range(8):
            m.d.sync += mixed[index].eq(memories[index::8].xor())
        m.d.sync += self.o.eq(engine.o[-8:] ^ mixed)
        return m


class SmallSoc(wiring.Component):
    """A design with the ports, clock domains and memories of the accelerator."""

    verilog_files = ()

    def __init__(self, *, config: Config, image: Image, firmware: bytes, **_: Any) -> None:
        self._core = SmallCore(config=config, image=image, firmware=firmware)
        super().__init__({"uart_rx": In(1, init=1), "uart_tx": Out(1, init=1), "leds": Out(8),
                          "sdram": Out(PinsSignature())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = core = self._core
        m.d.cpu += self.uart_tx.eq(self.uart_rx)
        m.d.sdram += [self.sdram.a.eq(self.sdram.a + 1), self.sdram.dq_oe_n.eq(self.sdram.a[3]),
                      self.sdram.dq_o.eq(self.sdram.dq_i + 1)]
        m.d.comb += [core.i.eq(self.uart_rx), self.leds.eq(core.o)]
        return m


def small_build(folder: Path, *, sync_mhz: float = 50, seed: int = 0) -> Build:
    """A build of the small design for the smallest device, with all clock domains.

    Parameters
    ----------
    seed : of the random model.
    """
    domains = Clocks(sync_hz=sync_mhz * 1e6, cpu_hz=50e6, sdram_hz=2 * sync_mhz * 1e6, chip_phase_degrees=180)
    return Build(board=replace(BOARDS["ulx3s"], clocks={SMALL.name: domains}), device="12F", config=SMALL,
                 read_image=partial(small_image, seed), make_soc=SmallSoc, seed=1, folder=folder)
