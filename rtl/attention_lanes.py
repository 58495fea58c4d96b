"""The multipliers of the attention unit, with their operands and accumulators."""

from functools import reduce
from operator import or_

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.attention_head import PRODUCT_BITS
from rtl.config import ACTIVATION_BITS, ELEMENT_BITS, Config
from rtl.exp2 import PROBABILITY_BITS
from rtl.multiplier import Multiplier
from rtl.op_layout import elements, int8s, query_port
from rtl.register_copy import RegisterCopy

COPY_LANES = 5             # lanes of every group that share one copy of what steers them


class AttentionLanes(wiring.Component):
    """A multiplier per query group and element of a word of the KV cache: queries by keys, or weights by values.

    Latency: ``key`` and ``value`` reach the multipliers after two cycles, queries and ``weights`` after one; the
    product follows one cycle later, its accumulation another cycle later.

    Parameters
    ----------
    config : the geometry.
    primitives : see `Multiplier`.

    Members
    -------
    query : writes a beat of the queries; the beats of a group follow each other.
    key, value : the word of a position.
    weights : of the value, per head.
    weigh : multiply weights and ``value``, else queries and ``key``; given two cycles before the multiplication.
    products : per head.
    clear : empty the accumulators, a cycle later.
    accumulate : add the products of the cycle after to them.
    show : per group and beat of its words, whether these accumulators are in ``beat`` a cycle later.
    beat : accumulated values, rounded half up to ``context_log2 + 2`` bits less; zero unless shown.
    """

    def __init__(self, *, config: Config, primitives: str) -> None:
        self._config, self._primitives = config, primitives
        c = config
        super().__init__({
            "query": In(query_port(c.lanes)),
            "key": In(int8s(c.word_lanes)), "value": In(int8s(c.word_lanes)),
            "weights": In(data.ArrayLayout(unsigned(PROBABILITY_BITS), c.heads_parallel)),
            "weigh": In(1),
            "products": Out(data.ArrayLayout(data.ArrayLayout(signed(PRODUCT_BITS), c.head_dim), c.heads_parallel)),
            "clear": In(1),
            "accumulate": In(1),
            "show": In(c.query_groups * c.word_beats),
            "beat": Out(elements(c.lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self._config
        dropped_bits = c.context_log2 + 2
        total_bits = ELEMENT_BITS + dropped_bits
        # Block RAM is slow and far away, so its words get a cycle for nothing but the way here.
        key, value = (Signal(int8s(c.word_lanes), name=name, reset_less=True) for name in "kv")
        m.d.sync += [key.eq(self.key), value.eq(self.value)]

        steers = []
        for lane in range(0, c.word_lanes, COPY_LANES):
            steer = Cat(self.weigh, self.clear, self.accumulate, self.show)
            m.submodules[f"steer{lane}"] = copy = RegisterCopy(width=len(steer), primitives=self._primitives)
            m.d.comb += copy.i.eq(steer)
            steers.append(copy.o)
        rounded = []
        for group in range(c.query_groups):
            query = Signal(int8s(c.word_lanes), name=f"query{group}", reset_less=True)
            for beat in range(c.word_beats):
                with m.If(self.query.enable & (self.query.address == group * c.word_beats + beat)):
                    m.d.sync += [query[beat * c.lanes + lane].eq(self.query.data[lane]) for lane in range(c.lanes)]
            totals = []
            for lane in range(c.word_lanes):
                weigh, clear, accumulate = steers[lane // COPY_LANES][:3]
                head, element = group * c.word_heads + lane // c.head_dim, lane % c.head_dim
                m.submodules[f"multiplier{group}_{lane}"] = multiplier = Multiplier(
                    a_bits=ACTIVATION_BITS, b_bits=PROBABILITY_BITS + 1, primitives=self._primitives)
                # Emptied to half a unit of the output, which rounds it.
                total = Signal(signed(total_bits), name=f"total{group}_{lane}", init=1 << dropped_bits - 1,
                               reset_less=True)
                m.d.comb += [
                    multiplier.a.eq(Mux(weigh, value[lane], key[lane])),
                    multiplier.b.eq(Mux(weigh, self.weights[head], query[lane])),
                    self.products[head][element].eq(multiplier.o),
                ]
                with m.If(clear):
                    m.d.sync += total.eq(total.init)
                with m.Elif(accumulate):
                    m.d.sync += total.eq(total + multiplier.o)
                totals.append(total >> dropped_bits)
            rounded.append(totals)
        for lane in range(c.lanes):
            shown = []
            for index in range(c.query_groups * c.word_beats):
                group, beat = divmod(index, c.word_beats)
                element = beat * c.lanes + lane
                shown.append(Mux(steers[element // COPY_LANES][3 + index], rounded[group][element], 0))
            m.d.comb += self.beat[lane].eq(reduce(or_, shown))
        return m
