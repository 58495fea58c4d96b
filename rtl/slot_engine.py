"""The engine with slots: several vectors of activations meet each tile of the stream of weights."""

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from rtl.carry_chain import check_primitives
from rtl.config import Config
from rtl.isa import Opcode
from rtl.op_layout import RESULT, int8s, op_layout, slot_write_port, write_port
from rtl.slot import Slot, pass_layout
from rtl.slot_results import SlotResults
from rtl.tile_counter import TAG, TileCounter, times
from rtl.tile_layout import trits_layout
from rtl.timing import SLOT_DOT_CYCLES, SLOT_READ_CYCLES


class SlotEngine(wiring.Component):
    """Executes MATVEC in every slot at once: one output of ``columns`` ternary weights per clock, tile and slot.

    Tiles pass from slot to slot, a slot per clock, so no slot is far from where its tiles come from. There are no
    tables to fill: ``fill`` changes nothing, block ``b`` of a slot is its beat ``src + b``. Blocks change fastest, then
    planes, most significant first. A row takes as many clocks as there are slots in use, or more.

    Latency: `rtl.timing.engine_cycles`; one tile per cycle.

    Parameters
    ----------
    config : geometry; an operation has at most ``weight_planes`` planes and ``table_blocks`` blocks, and as many
        groups as fill whole beats.
    primitives : see `GatedAdder`.

    Members
    -------
    op : operations; ready while idle.
    busy : an operation is under way.
    slots : how many slots are in use, constant from the acceptance of an operation until it is done; the others write
        nothing and have no result.
    activation : writes the activation buffers, one beat of one slot per clock; the slot is the high part of the
        address.
    tiles : trits in the order of consumption.
    starved : a tile could be taken but is not there.
    write : beats, at most one per clock; data are zero while it is not enabled.
    result, result_slot : peak of all elements of a slot, one slot in use after the other, and its number.

    Raises
    ------
    ValueError: see the parts.
    """

    def __init__(self, *, config: Config, primitives: str = "portable") -> None:
        check_primitives(primitives)
        self._config, self._primitives = config, primitives
        self._beat_bits, self._slot_bits = ceil_log2(config.activation_depth), ceil_log2(config.slots)
        super().__init__({
            "op": In(stream.Signature(op_layout(Opcode.MATVEC))), "busy": Out(1), "slots": In(range(config.slots + 1)),
            "activation": In(write_port(int8s(config.lanes), self._beat_bits + self._slot_bits)),
            "tiles": In(stream.Signature(trits_layout(config.columns))), "starved": Out(1),
            "write": Out(slot_write_port(config.lanes, config.slots)),
            "result": Out(stream.Signature(RESULT)), "result_slot": Out(range(config.slots))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self._config
        m.submodules.counter = counter = TileCounter(table_blocks=c.table_blocks)
        m.submodules.results = results = SlotResults(config=c, primitives=self._primitives)
        op = Signal(op_layout(Opcode.MATVEC), reset_less=True)
        accept = self.op.valid & self.op.ready
        last_slot = Signal(range(c.slots))
        m.d.sync += last_slot.eq(self.slots - 1)

        # The slots finish an element one after the other: so long the next one, if it has fewer tiles, has to wait.
        tiles = times(op.planes, op.blocks)
        gap, running = Signal(range(c.slots)), Signal()
        ready = running & (gap == 0)
        with m.If(counter.tag.last):
            m.d.sync += gap.eq(Mux(tiles < self.slots, self.slots - tiles, 0))
        with m.Elif(gap != 0):
            m.d.sync += gap.eq(gap - 1)
        m.d.comb += [self.busy.eq(~self.op.ready), self.starved.eq(ready & ~self.tiles.valid),
                     self.tiles.ready.eq(ready), counter.op.eq(op), counter.take.eq(self.tiles.valid & ready)]

        half = Signal(c.shift_max)
        m.d.sync += half.eq(1 << op.shift >> 1)
        m.d.comb += [
            results.start.eq(accept), results.destination.eq(self.op.payload.dst), results.last_slot.eq(last_slot),
            results.shift.eq(op.shift), results.half.eq(half), results.register.eq(op.rd),
            self.result_slot.eq(results.result_slot)]
        connect(m, results.write, flipped(self.write))
        connect(m, results.result, flipped(self.result))
        self._slots(m, op.src, counter, results)
        with m.FSM(name="state"):
            with m.State("IDLE"):
                m.d.comb += self.op.ready.eq(1)
                with m.If(accept):
                    m.d.sync += op.eq(self.op.payload)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                with m.If(counter.tag.final):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                with m.If(results.done):
                    m.next = "IDLE"
        return m

    def _slots(self, m: Module, source: Signal, counter: TileCounter, results: SlotResults) -> None:
        """The chain of slots, what enters it, and the port that writes their buffers."""
        trits, tag = self.tiles.payload, counter.tag
        for stage in range(SLOT_READ_CYCLES):
            delayed = Signal(trits.shape(), name=f"trits_{stage}", reset_less=True)
            m.d.sync += delayed.eq(trits)
            trits = delayed
        for stage in range(SLOT_READ_CYCLES + SLOT_DOT_CYCLES):
            delayed = Signal(TAG, name=f"tag_{stage}")
            m.d.sync += delayed.eq(tag)
            tag = delayed
        tile = Signal(pass_layout(self._config))
        m.d.comb += [tile.beat.eq(source + counter.block), tile.trits.eq(trits), tile.valid.eq(tag.valid),
                     tile.plane.eq(tag.plane), tile.last.eq(tag.last)]
        m.d.sync += results.tag.eq(tag)

        beat, target = Signal(self._beat_bits), self.activation.address[self._beat_bits :]
        values = Signal(int8s(self._config.lanes), reset_less=True)
        m.d.sync += [beat.eq(self.activation.address), values.eq(self.activation.data)]
        for index in range(self._config.slots):
            m.submodules[f"slot_{index}"] = slot = Slot(
                config=self._config, block=index < self._config.block_slots, primitives=self._primitives)
            enable, used = Signal(name=f"enable_{index}"), Signal(name=f"used_{index}")
            m.d.sync += [enable.eq(self.activation.enable & (target == index)), used.eq(self.slots > index)]
            m.d.comb += [slot.activation.enable.eq(enable), slot.activation.address.eq(beat),
                         slot.activation.data.eq(values), slot.i.eq(tile), slot.used.eq(used),
                         results.sums[index].eq(slot.sum)]
            tile = slot.o
