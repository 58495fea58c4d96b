"""The engine with slots joined with the decoder of the SDRAM stream, and small geometries of it, for tests."""

from dataclasses import replace

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, connect, flipped

from rtl.config import STREAM, Config
from rtl.slot_engine import SlotEngine
from rtl.trit_decoder import TritDecoder
from tests.engine_components import join

SLOTS = replace(STREAM, name="slots")
# Chains of lanes that are not full, slots that are no power of two, more planes, a sum of few bits.
ODD_SLOTS = replace(STREAM, name="odd_slots", slots=5, lanes=10, head_dim=5, sampler_lanes=2, table_blocks=9,
                    activation_depth=16, weight_planes=4)
NARROW_SLOTS = replace(STREAM, name="narrow_slots", slots=3, lanes=7, head_dim=7, sampler_lanes=1, table_blocks=3,
                       activation_depth=4, weight_planes=1)
MANY_SLOTS = replace(STREAM, name="many_slots", slots=20, lanes=5, head_dim=5, sampler_lanes=1, table_blocks=8,
                     activation_depth=8, weight_planes=2)


class SlotEngineWithDecoder(wiring.Component):
    """An engine with slots; tiles come as base-3 words."""

    def __init__(self, *, config: Config, primitives: str) -> None:
        self._engine = SlotEngine(config=config, primitives=primitives)
        self._decoder = TritDecoder(config=config)
        members = self._engine.signature.members
        super().__init__({name: member for name, member in members.items() if name not in ("tiles", "starved")}
                         | {"words": In(stream.Signature(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine, m.submodules.decoder = engine, decoder = self._engine, self._decoder
        connect(m, flipped(self.words), decoder.words)
        connect(m, decoder.tiles, engine.tiles)
        m.d.comb += [engine.slots.eq(self.slots), self.result_slot.eq(engine.result_slot)]
        join(m, self, engine)
        return m
