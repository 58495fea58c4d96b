"""The tile engine: multiplies streamed tiles of ternary weights by activations it holds."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from rtl.accumulator import Accumulator
from rtl.adder_tree import sum_bits
from rtl.carry_chain import check_primitives
from rtl.config import Config
from rtl.isa import Opcode
from rtl.lookup_table import TableFill
from rtl.op_layout import FETCH, RESULT, int8s, op_layout, row_write_port, write_port
from rtl.peak import Peak
from rtl.row_engine import RowEngine
from rtl.tile_counter import TAG, TileCounter, times
from rtl.tile_layout import tile_layout
from rtl.timing import TABLE_READY_CYCLES, accumulator_cycles, row_latency


class TileEngine(wiring.Component):
    """Executes MATVEC: ``rows`` outputs of ``columns`` ternary weights per clock and tile.

    With ``fill`` it first turns the activations into lookup tables; without, it uses those of the operation before.
    Then it takes ``groups * planes * blocks`` tiles; blocks change fastest, then planes, most significant first.

    A block RAM source sees ``tiles.ready`` always high: it must deliver the tiles of one ``fetch`` only, the first at
    least three cycles after it.

    Latency: `rtl.timing.engine_cycles`; one tile per cycle.

    Parameters
    ----------
    config : geometry; an operation has at most ``weight_planes`` planes and ``table_blocks`` blocks.
    primitives : see `GatedAdder`.

    Members
    -------
    op : operations; ready while idle.
    busy : an operation is under way.
    activation : writes the activation buffer, one beat per clock.
    fetch : tiles of an operation wanted.
    tiles : tiles in the order of consumption.
    starved : a tile could be taken but is not there.
    write : elements, one after the other through the beats; data are zero while it is not enabled.
    result : peak of all elements of an operation.

    Raises
    ------
    ValueError: see the parts.
    """

    def __init__(self, *, config: Config, primitives: str = "portable") -> None:
        check_primitives(primitives)
        self._config, self._primitives = config, primitives
        super().__init__({
            "op": In(stream.Signature(op_layout(Opcode.MATVEC))), "busy": Out(1),
            "activation": In(write_port(int8s(config.lanes), ceil_log2(config.activation_depth))),
            "fetch": Out(stream.Signature(FETCH)),
            "tiles": In(stream.Signature(tile_layout(config.rows, config.codes))), "starved": Out(1),
            "write": Out(row_write_port(config.lanes, config.rows, ceil_log2(config.vector_depth))),
            "result": Out(stream.Signature(RESULT))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self._config
        m.submodules.fill = fill = TableFill(
            lanes=c.lanes, block_beats=c.block_beats, table_blocks=c.table_blocks, depth=c.activation_depth,
            code_trits=c.code_trits, primitives=self._primitives)
        m.submodules.peak = peak = Peak(rows=c.rows, primitives=self._primitives)
        connect(m, flipped(self.activation), fill.activation)

        op = Signal(op_layout(Opcode.MATVEC), reset_less=True)
        accept = self.op.valid & self.op.ready
        m.d.comb += [
            self.busy.eq(~self.op.ready), peak.clear.eq(accept),
            fill.source.eq(op.src), fill.blocks.eq(op.blocks), fill.unfilled.eq(op.unfilled),
            self.fetch.payload.address.eq(op.address),
            self.result.payload.register.eq(op.rd), self.result.payload.value.eq(peak.value),
        ]
        m.d.sync += fill.start.eq(accept & self.op.payload.fill)    # a cycle for the way to a distant part
        blocks = op.blocks[: ceil_log2(c.table_blocks + 1)]
        m.d.comb += self.fetch.payload.tiles.eq(times(times(op.groups, op.planes), blocks))

        m.submodules.counter = counter = TileCounter(table_blocks=c.table_blocks)
        running, delay = Signal(), Signal(TABLE_READY_CYCLES)
        ready = running & delay[-1]
        m.d.sync += delay.eq(Mux(running, delay << 1 | 1, 0))
        m.d.comb += [counter.op.eq(op), self.starved.eq(ready & ~self.tiles.valid)]
        if c.weight_source == "ebr":
            m.d.comb += [self.tiles.ready.eq(1), counter.take.eq(self.tiles.valid)]
        else:
            m.d.comb += [self.tiles.ready.eq(ready), counter.take.eq(self.tiles.valid & ready)]
        self._rows(m, op, counter, fill, peak)

        waiting = Signal()
        m.d.comb += self.result.valid.eq(peak.done | waiting)
        m.d.sync += waiting.eq(self.result.valid & ~self.result.ready)
        with m.FSM(name="state"):
            with m.State("IDLE"):
                m.d.comb += self.op.ready.eq(1)
                with m.If(accept):
                    m.d.sync += [op.eq(self.op.payload), self.fetch.valid.eq(~self.op.payload.fill)]
                    m.next = "RUN"
                    with m.If(self.op.payload.fill):
                        m.next = "FILL"
            with m.State("FILL"):
                with m.If(fill.done):
                    m.d.sync += self.fetch.valid.eq(1)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                with m.If(self.fetch.ready):
                    m.d.sync += self.fetch.valid.eq(0)
                with m.If(counter.tag.final):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                with m.If(self.result.valid & self.result.ready):
                    m.next = "IDLE"
        return m

    def _rows(self, m: Module, op: data.View, counter: TileCounter, fill: TableFill, peak: Peak) -> None:
        """The datapath of every row, with the tags of its tiles beside it."""
        c = self._config
        tags = [counter.tag]
        for stage in range(row_latency(c) + accumulator_cycles(c)):
            tags.append(Signal(TAG, name=f"tag_{stage}"))
            m.d.sync += tags[-1].eq(tags[-2])
        dot_tag, element_tag = tags[row_latency(c)], tags[-1]
        half = Signal(c.shift_max)
        m.d.sync += half.eq(1 << op.shift >> 1)
        for row in range(c.rows):
            m.submodules[f"row_{row}"] = engine = RowEngine(
                codes=c.codes, table_blocks=c.table_blocks, primitives=self._primitives)
            m.submodules[f"accumulator_{row}"] = accumulator = Accumulator(
                dot_bits=sum_bits(c.codes), bits=max(sum_bits(c.codes), c.accumulator_bits), shift_max=c.shift_max,
                primitives=self._primitives)
            connect(m, fill.write, engine.write)
            m.d.comb += [
                engine.codes.eq(self.tiles.payload[row]), engine.block.eq(counter.block),
                accumulator.valid.eq(dot_tag.valid), accumulator.plane.eq(dot_tag.plane),
                accumulator.last.eq(dot_tag.last), accumulator.dot.eq(engine.o),
                accumulator.negative.eq(engine.negative), accumulator.shift.eq(op.shift), accumulator.half.eq(half),
                peak.elements[row].eq(accumulator.o), self.write.data[row].eq(accumulator.o),
            ]
        m.d.comb += [peak.valid.eq(element_tag.last), peak.finish.eq(element_tag.final),
                     self.write.enable.eq(element_tag.last)]
        with m.If(self.op.ready):
            m.d.sync += [self.write.address.eq(self.op.payload.dst), self.write.part.eq(1)]
        with m.Elif(element_tag.last):
            parts = c.rows // c.part
            m.d.sync += [self.write.address.eq(self.write.address + self.write.part[-parts:].any()),
                         self.write.part.eq(self.write.part.rotate_left(parts))]
