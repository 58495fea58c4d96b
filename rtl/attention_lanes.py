"""The multipliers of the attention unit, with their operands and accumulators."""

from amaranth import Array, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.attention_head import PRODUCT_BITS
from rtl.config import ACTIVATION_BITS, ELEMENT_BITS, Config
from rtl.exp2 import PROBABILITY_BITS
from rtl.op_layout import elements, int8s, query_port


class AttentionLanes(wiring.Component):
    """One multiplier per query group and lane: queries times keys, or weights times values.

    Latency: ``key`` and ``value`` reach the multipliers after two cycles, queries and ``weights`` after one; the
    product follows one cycle later, its accumulation another cycle later.

    Parameters
    ----------
    config : the geometry.

    Members
    -------
    query : writes the queries of a group.
    key, value : the beat of a position.
    weights : of the value, per head.
    weigh : multiply weights and ``value``, else queries and ``key``; given one cycle before the multiplication.
    products : per head.
    clear : empty the accumulators.
    accumulate : add the products to them.
    group : selects the accumulators that ``beat`` shows.
    beat : accumulated values, rounded half up to ``context_log2 + 2`` bits less.
    """

    def __init__(self, *, config: Config) -> None:
        self._config = config
        c = config
        super().__init__({
            "query": In(query_port(c.lanes)),
            "key": In(int8s(c.lanes)), "value": In(int8s(c.lanes)),
            "weights": In(data.ArrayLayout(unsigned(PROBABILITY_BITS), c.heads_parallel)),
            "weigh": In(1),
            "products": Out(data.ArrayLayout(data.ArrayLayout(signed(PRODUCT_BITS), c.head_dim), c.heads_parallel)),
            "clear": In(1),
            "accumulate": In(1),
            "group": In(max(1, ceil_log2(c.query_groups))),
            "beat": Out(elements(c.lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self._config
        dropped_bits = c.context_log2 + 2
        total_bits = ELEMENT_BITS + dropped_bits
        # Block RAM is slow and far away, so its words get a cycle for nothing but the way here.
        key, value, shared = (Signal(int8s(c.lanes), name=name, reset_less=True) for name in ("k", "v", "shared"))
        m.d.sync += [key.eq(self.key), value.eq(self.value)]
        m.d.sync += [shared[lane].eq(Mux(self.weigh, value[lane], key[lane])) for lane in range(c.lanes)]

        rounded = []
        for group in range(c.query_groups):
            query = Signal(int8s(c.lanes), name=f"query{group}")
            with m.If(self.query.enable & (self.query.address == group)):
                m.d.sync += query.eq(self.query.data)
            totals = []
            for lane in range(c.lanes):
                head, element = group * c.segments + lane // c.head_dim, lane % c.head_dim
                own = Signal(signed(PROBABILITY_BITS + 1), name=f"own{group}_{lane}", reset_less=True)
                product = Signal(signed(ACTIVATION_BITS + len(own)), name=f"product{group}_{lane}", reset_less=True)
                # Emptied to half a unit of the output, which rounds it.
                total = Signal(signed(total_bits), name=f"total{group}_{lane}", init=1 << dropped_bits - 1)
                m.d.sync += [
                    own.eq(Mux(self.weigh, self.weights[head], query[lane])),
                    product.eq(shared[lane] * own),
                ]
                with m.If(self.clear):
                    m.d.sync += total.eq(total.init)
                with m.Elif(self.accumulate):
                    m.d.sync += total.eq(total + product)
                m.d.comb += self.products[head][element].eq(product)
                totals.append(total >> dropped_bits)
            rounded.append(totals)
        for lane in range(c.lanes):
            m.d.comb += self.beat[lane].eq(Array(totals[lane] for totals in rounded)[self.group])
        return m
