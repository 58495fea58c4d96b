"""The KV cache: keys and values of all layers and positions."""

from amaranth import Module, Mux
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.config import EXPONENT_BITS, Config
from rtl.one_port_memory import OnePortMemory
from rtl.op_layout import cache_read_port, cache_write_port, int8s


class KvCache(wiring.Component):
    """Block RAM for ``kv_slots * context`` keys and as many values, each a beat with its block exponent.

    A write in the cycle of a read takes its place; programs keep the two apart.

    Latency: read data follow the address by one cycle; a read may follow a write at once.

    Parameters
    ----------
    config : the geometry.

    Members
    -------
    write : key or value of a slot at the current position; ignored where the cache has none.
    position : current position.
    read : key and value at ``slot * context + position``.
    """

    def __init__(self, *, config: Config) -> None:
        self._config = config
        self._depth = config.kv_slots * config.context
        super().__init__({
            "write": In(cache_write_port(config.lanes)),
            "position": In(16),
            "read": In(cache_read_port(config.lanes, ceil_log2(self._depth)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self._config
        word = data.StructLayout({"elements": int8s(c.lanes), "exponent": EXPONENT_BITS})
        m.submodules.keys = keys = OnePortMemory(shape=word, depth=self._depth)
        m.submodules.values = values = OnePortMemory(shape=word, depth=self._depth)

        held = (self.position < c.context) & (self.write.slot < c.kv_slots)
        write = self.write.enable & held
        address = (self.write.slot << c.context_log2) | self.position[: c.context_log2]
        m.d.comb += [keys.write.eq(write & ~self.write.value), values.write.eq(write & self.write.value)]
        for half in (keys, values):
            m.d.comb += [
                half.address.eq(Mux(half.write, address, self.read.address)), half.read.eq(self.read.enable),
                half.write_data.elements.eq(self.write.data), half.write_data.exponent.eq(self.write.exponent),
            ]
        m.d.comb += [
            self.read.key.eq(keys.read_data.elements), self.read.key_exponent.eq(keys.read_data.exponent),
            self.read.value.eq(values.read_data.elements), self.read.value_exponent.eq(values.read_data.exponent),
        ]
        return m
