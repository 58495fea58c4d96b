"""One slot of an engine: an activation buffer, and the sums of its activations with the weights that pass."""

from amaranth import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.accumulator import accumulate_dots
from rtl.carry_chain import check_primitives
from rtl.config import Config
from rtl.op_layout import int8s, write_port
from rtl.tile_layout import trits_layout
from rtl.trit_dot import TritDot, dot_bits


def sum_bits(config: Config) -> int:
    """Bits of the sum of an element."""
    return max(dot_bits(config.columns), config.accumulator_bits)


def pass_layout(config: Config) -> data.StructLayout:
    """What passes from slot to slot: three parts of a tile, each as long after the one before as a slot takes for it.

    First the ``beat`` of activations, ``SLOT_READ_CYCLES`` later the ``trits``, ``SLOT_DOT_CYCLES`` after these
    whether they are ``valid``, begin a further ``plane``, and are the ``last`` of an element.
    """
    return data.StructLayout({"beat": ceil_log2(config.activation_depth), "trits": trits_layout(config.columns),
                              "valid": 1, "plane": 1, "last": 1})


class Slot(wiring.Component):
    """Accumulates the products of its activations with the tiles that pass, and hands the tiles on.

    Latency: one cycle from ``i`` to ``o``; the sum of an element appears two cycles after ``i.last``, one tile per
    cycle.

    Parameters
    ----------
    config : geometry.
    block : whether the buffer is block RAM.
    primitives : see `GatedAdder`.

    Members
    -------
    activation : writes the buffer.
    i, o : tiles from the slot before and to the next.
    used : sums are wanted, else they stay zero.
    sum : of an element; zero in other cycles.

    Raises
    ------
    ValueError: see the parts.
    """

    def __init__(self, *, config: Config, block: bool, primitives: str) -> None:
        check_primitives(primitives)
        self._config, self._ram_style, self._primitives = config, "block" if block else "distributed", primitives
        super().__init__({
            "activation": In(write_port(int8s(config.lanes), ceil_log2(config.activation_depth))),
            "i": In(pass_layout(config)), "o": Out(pass_layout(config)), "used": In(1),
            "sum": Out(signed(sum_bits(config)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self._config
        # What is read in the cycle of its write is nobody's business. Synthesis may rely on that only if the register
        # of the block RAM is outside the read port.
        m.submodules.buffer = buffer = Memory(shape=int8s(c.lanes), depth=c.activation_depth, init=[],
                                              attrs={"ram_style": self._ram_style, "no_rw_check": 1})
        write, read = buffer.write_port(), buffer.read_port(domain="comb")
        m.submodules.dot = dot = TritDot(lanes=c.lanes, primitives=self._primitives)
        output, activations = (Signal(int8s(c.lanes), reset_less=True) for _ in range(2))
        passed = Signal(pass_layout(c), reset_less=True)
        tag = Signal(3)                     # without which what is passed says nothing
        m.d.sync += [passed.eq(self.i), tag.eq(Cat(self.i.valid, self.i.plane, self.i.last)), output.eq(read.data),
                     activations.eq(output)]
        m.d.comb += [
            self.o.beat.eq(passed.beat), self.o.trits.eq(passed.trits),
            Cat(self.o.valid, self.o.plane, self.o.last).eq(tag),
            write.en.eq(self.activation.enable), write.addr.eq(self.activation.address),
            write.data.eq(self.activation.data), read.addr.eq(self.o.beat),
            dot.activations.eq(activations), dot.trits.eq(self.o.trits),
            self.sum.eq(accumulate_dots(
                m, bits=sum_bits(c), primitives=self._primitives, valid=self.o.valid, plane=self.o.plane,
                last=self.o.last, show=self.o.last & self.used, dot=dot.o, negative=0, carry=dot.carry)),
        ]
        return m
