"""The embedding memory: a row per token, then gains of norms; loaded at run time or initialised with the bitstream."""

import numpy as np
from amaranth import Module, Mux, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

from rtl.config import Config
from rtl.one_port_memory import OnePortMemory
from rtl.op_layout import load_port, read_port
from rtl.wide_load import wide_write


class Embedding(wiring.Component):
    """Block RAM for ``embed_rows * embed_beats`` beats of ``embed_bits`` offset-binary elements.

    A loaded beat takes the place of a read; programs do not run while the memory is loaded.

    Latency: read data follow the address by one cycle.

    Parameters
    ----------
    config : the geometry.
    init : uint8 [embed_rows, embed_beats * lanes] offset-binary elements; all zero without it.

    Members
    -------
    read : beat ``token * embed_beats + beat``.
    load : address ``beat | piece``, 32 bits of a beat each, low bits first; the last piece writes the beat.

    Raises
    ------
    ValueError: ``init`` has another shape, or an element of more than ``embed_bits`` bits.
    """

    def __init__(self, *, config: Config, init: np.ndarray | None = None) -> None:
        self._lanes, self._bits = config.lanes, config.embed_bits
        self._depth = config.embed_rows * config.embed_beats
        shape = (config.embed_rows, config.embed_beats * config.lanes)
        if init is not None and init.shape != shape:
            raise ValueError(f"init must have shape {shape}, got {init.shape}")
        if init is not None and init.max(initial=0) >> self._bits:
            raise ValueError(f"init has an element {init.max()}, which does not fit {self._bits} bits")
        self._words = [] if init is None else self._pack(init)
        super().__init__({
            "read": In(read_port(data.ArrayLayout(unsigned(self._bits), self._lanes), ceil_log2(self._depth))),
            "load": In(load_port())})

    def _pack(self, init: np.ndarray) -> list[int]:
        """Words of the memory."""
        bits = np.unpackbits(init.reshape(self._depth, self._lanes, 1), axis=2, count=self._bits, bitorder="little")
        packed = np.packbits(bits.reshape(self._depth, -1), axis=1, bitorder="little")
        return [int.from_bytes(row.tobytes(), "little") for row in packed]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self._lanes * self._bits
        m.submodules.beats = beats = OnePortMemory(shape=width, depth=self._depth, init=self._words)
        enable, address, word = wide_write(m, self.load, width)
        m.d.comb += [
            beats.write.eq(enable), beats.write_data.eq(word), beats.read.eq(self.read.enable),
            beats.address.eq(Mux(beats.write, address, self.read.address)),
            self.read.data.eq(beats.read_data),
        ]
        return m
