"""One row of the tile engine: its own copy of the lookup tables, and the tree that adds what they say."""

from amaranth import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.adder_tree import AdderTree, sum_bits
from rtl.carry_chain import check_primitives
from rtl.config import CODE_BITS, SIGN
from rtl.lookup_table import INDEX_BITS, LookupTable, block_shape, table_write_port
from rtl.register_copy import RegisterCopy
from rtl.timing import table_latency

WRITE_FAN_OUT = 27         # tables that share one copy of the write address


class RowEngine(wiring.Component):
    """Looks up the sums of all codes of a tile row and adds them.

    Latency: ``table_latency(table_blocks) + (tree_levels(codes) + 1) // 2`` cycles; one row per cycle.

    Parameters
    ----------
    codes : codes of a row.
    table_blocks : column blocks that the tables hold.
    primitives : see `GatedAdder`.

    Members
    -------
    write : entries of all tables.
    codes : row of a tile, signs relative (`rtl.tile_layout`).
    block : column block of the tile.
    o, negative : dot product: ``-o`` if negative.

    Raises
    ------
    ValueError: see the parts.
    """

    def __init__(self, *, codes: int, table_blocks: int, primitives: str) -> None:
        check_primitives(primitives)
        self._codes, self._table_blocks, self._primitives = codes, table_blocks, primitives
        super().__init__({
            "write": In(table_write_port(codes, table_blocks)),
            "codes": In(data.ArrayLayout(CODE_BITS, codes)), "block": In(block_shape(table_blocks)),
            "o": Out(signed(sum_bits(codes))), "negative": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.tree = tree = AdderTree(codes=self._codes, primitives=self._primitives)
        control = Cat(self.write.enable, self.write.address)
        copies = []
        for index in range(-(-self._codes // WRITE_FAN_OUT)):
            copies.append(RegisterCopy(width=len(control), primitives=self._primitives))
            m.submodules[f"write_{index}"] = copies[-1]
            m.d.comb += copies[-1].i.eq(control)
        for code in range(self._codes):
            copy = copies[code // WRITE_FAN_OUT].o
            m.submodules[f"table_{code}"] = table = LookupTable(table_blocks=self._table_blocks)
            m.d.comb += [
                table.enable.eq(copy[0]), table.address.eq(copy[1:]), table.data.eq(self.write.data[code]),
                table.index.eq(self.codes[code][:INDEX_BITS]), table.block.eq(self.block),
                tree.values[code].eq(table.value),
            ]
        signs = Cat(self.codes[code][SIGN] for code in range(self._codes))
        for stage in range(table_latency(self._table_blocks)):
            delayed = Signal(self._codes, name=f"signs_{stage}")
            m.d.sync += delayed.eq(signs)
            signs = delayed
        m.d.comb += [tree.signs.eq(signs), self.o.eq(tree.o), self.negative.eq(tree.negative)]
        return m
