"""Counts the tiles of an operation, before and while they are taken."""

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.isa import Opcode
from rtl.lookup_table import block_shape
from rtl.op_layout import op_layout

TAG = data.StructLayout({"valid": 1, "plane": 1, "last": 1, "final": 1})


def times(value: Value, factor: Value) -> Value:
    """``value * factor`` as a sum of shifted copies: no multiplier block is used."""
    return sum(Mux(factor[bit], value << bit, 0) for bit in range(len(factor)))


class TileCounter(wiring.Component):
    """Counts the tiles of an operation: blocks within planes within groups.

    Latency: none; ``tag`` and ``block`` describe the tile that is taken in this cycle.

    Parameters
    ----------
    table_blocks : most blocks of an operation.

    Members
    -------
    op : operation, constant while its tiles are counted; the counter is at its start again after the last tile.
    take : a tile is taken.
    block : its column block.
    tag : its place: ``valid`` is ``take``, first of a further ``plane``, ``last`` of an element, ``final`` of the
        operation.
    """

    def __init__(self, *, table_blocks: int) -> None:
        self._table_blocks = table_blocks
        super().__init__({"op": In(op_layout(Opcode.MATVEC)), "take": In(1), "block": Out(block_shape(table_blocks)),
                          "tag": Out(TAG)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        op, block, plane, group = self.op, self.block, Signal.like(self.op.planes), Signal.like(self.op.groups)
        last_block = block == op.blocks - 1
        last_plane, last_group = plane == op.planes - 1, group == op.groups - 1
        last = self.take & last_block & last_plane
        m.d.comb += [self.tag.valid.eq(self.take), self.tag.plane.eq((block == 0) & (plane != 0)),
                     self.tag.last.eq(last), self.tag.final.eq(last & last_group)]
        with m.If(self.take):
            m.d.sync += block.eq(Mux(last_block, 0, block + 1))
            with m.If(last_block):
                m.d.sync += plane.eq(Mux(last_plane, 0, plane + 1))
                with m.If(last_plane):
                    m.d.sync += group.eq(Mux(last_group, 0, group + 1))
        return m
