"""The tile engine joined with each of its weight sources, for tests."""

from dataclasses import replace

import numpy as np
from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, connect, flipped

from host.packing import codes_to_words, relative_signs, to_codes
from rtl.config import RESIDENT, SPARSE, SPARSE_GROUP, STREAM, TINY, Config
from rtl.op_layout import load_port
from rtl.slot_engine import SlotEngine
from rtl.tile_engine import TileEngine
from rtl.trit_decoder import TritDecoder
from rtl.weight_memory import WeightMemory

ODD_MEMORY = replace(TINY, name="odd_memory", lanes=15, block_beats=3, rows=5, head_dim=5, sampler_lanes=3,
                     weight_depth=64, vector_depth=32, activation_depth=7, weight_planes=5)
ODD_STREAM = replace(STREAM, name="odd_stream", slots=1, lanes=10, block_beats=2, rows=2, table_blocks=3, head_dim=5,
                     sampler_lanes=2, vector_depth=24, activation_depth=9, weight_planes=4)
WIDE_STREAM = replace(STREAM, name="wide_stream", slots=1, table_blocks=9, activation_depth=12, vector_depth=16)
SPARSE_ROWS = replace(SPARSE, name="sparse_rows", rows=2, weight_depth=128)
ODD_SPARSE = replace(ODD_MEMORY, name="odd_sparse", lanes=20, sampler_lanes=4, vector_depth=24, code_trits=4)
SPARSE_BLOCKS = replace(ODD_SPARSE, name="sparse_blocks", table_blocks=3, activation_depth=12)
RESIDENT_ROWS = replace(RESIDENT, name="resident_rows", rows=2, weight_depth=128)


def packed(trits: np.ndarray, code_trits: int = 3) -> np.ndarray:
    """Words [tiles, rows * row_words] of trits [tiles, rows, columns]."""
    return codes_to_words(relative_signs(to_codes(trits, code_trits))).reshape(trits.shape[0], -1)


def initial_trits(config: Config) -> np.ndarray:
    """Trits [weight_depth, rows, columns] of a resident engine; the first tiles have the largest sums."""
    return random_trits(config, np.random.default_rng(config.weight_depth), config.weight_depth)


def random_trits(config: Config, chance: np.random.Generator, tiles: int) -> np.ndarray:
    """Trits int8 [tiles, rows, columns] as sparse as the configuration; the first tiles have the largest sums."""
    shape = tiles, config.rows, config.columns
    trits = chance.integers(-1, 2, shape)
    trits[:3] = 1
    trits[3:6] = -1
    if config.has_sparse_codes:
        groups = trits.reshape(-1, SPARSE_GROUP)
        groups[groups == 0] = 1
        groups[np.arange(len(groups)), chance.integers(0, SPARSE_GROUP, len(groups))] = 0
    return trits.astype(np.int8)


class EngineWithMemory(wiring.Component):
    """A resident engine; tiles are in its memory from the start or loaded."""

    def __init__(self, *, config: Config) -> None:
        self._engine = TileEngine(config=config)
        self._memory = WeightMemory(config=config, init=packed(initial_trits(config), config.code_trits))
        members = self._engine.signature.members
        super().__init__({name: members[name] for name in ("op", "busy", "activation", "write", "result")}
                         | {"load": In(load_port())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine, m.submodules.memory = engine, memory = self._engine, self._memory
        connect(m, engine.fetch, memory.fetch)
        connect(m, memory.tiles, engine.tiles)
        connect(m, flipped(self.load), memory.load)
        join(m, self, engine)
        return m


class EngineWithDecoder(wiring.Component):
    """A streaming engine; tiles come as base-3 words."""

    def __init__(self, *, config: Config) -> None:
        self._engine = TileEngine(config=config)
        self._decoder = TritDecoder(config=config)
        members = self._engine.signature.members
        super().__init__({name: members[name] for name in ("op", "busy", "activation", "write", "result")}
                         | {"words": In(stream.Signature(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine, m.submodules.decoder = engine, decoder = self._engine, self._decoder
        connect(m, flipped(self.words), decoder.words)
        connect(m, decoder.tiles, engine.tiles)
        m.d.comb += engine.fetch.ready.eq(1)
        join(m, self, engine)
        return m


def join(m: Module, top: wiring.Component, engine: TileEngine | SlotEngine) -> None:
    """Connect the ports that an engine has with any source."""
    connect(m, flipped(top.op), engine.op)
    connect(m, flipped(top.activation), engine.activation)
    connect(m, engine.write, flipped(top.write))
    connect(m, engine.result, flipped(top.result))
    m.d.comb += top.busy.eq(engine.busy)
