"""Weight tiles in block RAM, read one per clock."""

import numpy as np
from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.carry_chain import check_primitives
from rtl.config import CODE_BITS, WORD_BITS, Config
from rtl.op_layout import FETCH, load_port
from rtl.register_copy import RegisterCopy
from rtl.tile_layout import tile_layout

LOAD_BITS = 32


class WeightMemory(wiring.Component):
    """Delivers consecutive tiles from an address on.

    The codes of a row lie in its words without gaps. No tile may be loaded while tiles are being read.

    Latency: three cycles from ``fetch`` to the first tile, then one tile per cycle.

    Parameters
    ----------
    config : geometry.
    init : initial words, uint64 [at most ``weight_depth`` tiles, rows * row_words].
    primitives : see `RegisterCopy`.

    Members
    -------
    fetch : address and number of tiles; ready while no tiles of an earlier request are left to read.
    tiles : the tiles.
    load : writes 36-bit words in two pieces, low 32 bits first; the address is ``tile | row | word | piece``.

    Raises
    ------
    ValueError: the configuration keeps no weights in block RAM, ``init`` has another shape, or unknown primitives.
    """

    def __init__(self, *, config: Config, init: np.ndarray, primitives: str = "portable") -> None:
        c = config
        if c.weight_depth < 2:
            raise ValueError(f"weight_depth must be at least 2, got {c.weight_depth}")
        if init.ndim != 2 or init.shape[0] > c.weight_depth or init.shape[1] != c.rows * c.row_words:
            raise ValueError(f"init must be [at most {c.weight_depth}, {c.rows * c.row_words}], got {init.shape}")
        check_primitives(primitives)
        self._config, self._primitives = c, primitives
        self._init = init
        super().__init__({"fetch": In(stream.Signature(FETCH)),
                          "tiles": Out(stream.Signature(tile_layout(c.rows, c.codes))), "load": In(load_port())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self._config
        left = Signal(FETCH["tiles"].shape, reset_less=True)
        valid = Signal(2)
        advance = self.tiles.ready | ~valid[1]
        address, step = Signal(range(c.weight_depth)), Signal()     # step: tiles are left
        next_address = Signal.like(address)
        m.d.comb += [
            self.fetch.ready.eq(~step), self.tiles.valid.eq(valid[1]),
            next_address.eq(Mux(step, address + (step & advance), self.fetch.payload.address)),
        ]
        m.d.sync += address.eq(next_address)
        with m.If(~step):
            m.d.sync += [left.eq(self.fetch.payload.tiles), step.eq(self.fetch.valid)]
        with m.Elif(advance):
            m.d.sync += [left.eq(left - 1), step.eq(left != 1)]
        with m.If(advance):
            m.d.sync += valid.eq(Cat(step, valid[0]))

        load = self._load(m)
        for row in range(c.rows):
            self._row(m, row, next_address, advance, load)
        return m

    def _load(self, m: Module) -> data.View:
        """Assemble loaded words; each row has its own register for them."""
        c = self._config
        word_bits, row_bits = ceil_log2(c.row_words), ceil_log2(c.rows)
        layout = data.StructLayout({"enable": 1, "word": word_bits, "row": row_bits,
                                    "tile": ceil_log2(c.weight_depth), "data": WORD_BITS})
        load, low = Signal(layout), Signal(LOAD_BITS, reset_less=True)
        with m.If(self.load.enable & ~self.load.address[0]):
            m.d.sync += low.eq(self.load.data)
        m.d.comb += [load.enable.eq(self.load.enable & self.load.address[0]), load.data.eq(Cat(low, self.load.data)),
                     Cat(load.word, load.row, load.tile).eq(self.load.address[1:])]
        return load

    def _row(self, m: Module, row: int, next_address: Signal, advance: Signal, load: data.View) -> None:
        """The memories of one row, with their own copies of what goes to them and their output register."""
        c = self._config
        m.submodules[f"address_{row}"] = address = RegisterCopy(
            width=len(next_address), primitives=self._primitives)
        m.submodules[f"load_{row}"] = loaded = RegisterCopy(width=len(load.as_value()), primitives=self._primitives)
        m.d.comb += [address.i.eq(next_address), loaded.i.eq(load)]
        load = data.View(load.shape(), loaded.o)
        words = []
        for word in range(c.row_words):
            # Loading and reading exclude each other. Synthesis may rely on that only if the register of the block RAM
            # is outside the read port.
            bits = min(WORD_BITS, CODE_BITS * c.codes - word * WORD_BITS)
            memory = Memory(shape=bits, depth=c.weight_depth,
                            init=[int(value) for value in self._init[:, row * c.row_words + word]],
                            attrs={"ram_style": "block", "no_rw_check": 1})
            m.submodules[f"memory_{row}_{word}"] = memory
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [
                write.en.eq(load.enable & (load.row == row) & (load.word == word)), write.addr.eq(load.tile),
                write.data.eq(load.data), read.addr.eq(address.o)]
            word_data = Signal(bits, name=f"data_{row}_{word}", reset_less=True)
            with m.If(advance):
                m.d.sync += word_data.eq(read.data)
            words.append(word_data)
        codes = Signal(CODE_BITS * c.codes, name=f"codes_{row}", reset_less=True)
        with m.If(advance):
            m.d.sync += codes.eq(Cat(words))
        m.d.comb += self.tiles.payload[row].eq(codes)
