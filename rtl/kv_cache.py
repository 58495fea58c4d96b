"""The KV cache: keys and values of all layers and positions."""

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

from rtl.carry_chain import check_primitives
from rtl.config import EXPONENT_BITS, Config
from rtl.one_port_memory import OnePortMemory
from rtl.op_layout import cache_read_port, cache_write_port, int8s
from rtl.register_copy import RegisterCopy

PARTS = 2                  # memories that hold a word, each with its own address registers


def word_layout(lanes: int) -> data.StructLayout:
    """A word of the cache with its block exponent."""
    return data.StructLayout({"elements": int8s(lanes), "exponent": EXPONENT_BITS})


class KvCache(wiring.Component):
    """Block RAM for ``kv_slots * context`` keys and as many values, each a word with its block exponent.

    A word is put together from ``word_beats`` successive writes, the last of which says so and brings the exponent.

    A write in the cycle of a read takes its place; programs keep the two apart. The memories lie all over the device,
    so everything that goes to them is registered first.

    Latency: read data follow the address by two cycles; a read may follow a write at once.

    Parameters
    ----------
    config : the geometry.
    primitives : see `RegisterCopy`.

    Members
    -------
    write : key or value of a slot at the current position; ignored where the cache has none.
    position : current position.
    read : key and value at ``slot * context + position``.
    """

    def __init__(self, *, config: Config, primitives: str = "portable") -> None:
        check_primitives(primitives)
        self._config, self._primitives = config, primitives
        self._depth = config.kv_slots * config.context
        super().__init__({
            "write": In(cache_write_port(config.lanes)),
            "position": In(16),
            "read": In(cache_read_port(config.word_lanes, ceil_log2(self._depth)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self._config
        held = (self.position < c.context) & (self.write.slot < c.kv_slots)
        write = self.write.enable & self.write.last & held
        write_address = (self.write.slot << c.context_log2) | self.position[: c.context_log2]
        address = Signal.like(self.read.address)
        m.d.comb += address.eq(Mux(self.write.enable & self.write.last, write_address, self.read.address))
        written = Signal(word_layout(c.word_lanes), reset_less=True)
        with m.If(self.write.enable):
            beats = Cat(written.elements, self.write.data)[-len(written.elements.as_value()) :]
            m.d.sync += [written.elements.eq(beats), written.exponent.eq(self.write.exponent)]
        for value, name in enumerate(("key", "value")):
            steer = Cat(address, self.read.enable, write & (self.write.value == value))
            word = self._word(m, name, steer, written)
            m.d.comb += [getattr(self.read, name).eq(word.elements),
                         getattr(self.read, f"{name}_exponent").eq(word.exponent)]
        return m

    def _word(self, m: Module, name: str, steer: Value, written: data.View) -> data.View:
        """The keys, or the values: two memories side by side, each with its own copy of what steers it."""
        word = Signal.like(written, name=f"{name}_word")
        bits = -(-len(word.as_value()) // PARTS)
        for part in range(PARTS):
            m.submodules[f"{name}_steer_{part}"] = copy = RegisterCopy(width=len(steer), primitives=self._primitives)
            section = slice(part * bits, (part + 1) * bits)
            m.submodules[f"{name}s_{part}"] = memory = OnePortMemory(
                shape=len(word.as_value()[section]), depth=self._depth)
            m.d.comb += [
                copy.i.eq(steer), Cat(memory.address, memory.read, memory.write).eq(copy.o),
                memory.write_data.eq(written.as_value()[section]), word.as_value()[section].eq(memory.read_data),
            ]
        return word
