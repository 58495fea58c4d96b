"""The attention unit: one query position against all cached positions, several heads at once."""

from amaranth import Array, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from rtl.attention_head import HeadScore, HeadWeight
from rtl.attention_lanes import AttentionLanes
from rtl.config import EXPONENT_BITS, SCORE_BITS, Config
from rtl.isa import Opcode
from rtl.one_port_memory import OnePortMemory
from rtl.op_layout import cache_read_port, elements, op_layout, query_port, read_port, result_layout
from rtl.timing import EXP2_CYCLES, OPERAND_CYCLES, RESULT_SLACK, score_cycles


def stages(m: Module, value: Value, count: int, *, name: str) -> list[Value]:
    """``value`` now, one cycle ago, and so on: ``count`` of them."""
    values = [value]
    for cycle in range(1, count):
        register = Signal(value.shape(), name=f"{name}{cycle}")
        m.d.sync += register.eq(values[-1])
        values.append(register)
    return values


class Walk(wiring.Component):
    """Count from a first to a last index.

    Latency: the first index is valid in the cycle after ``start``.

    Parameters
    ----------
    index_bits : width of the index.

    Members
    -------
    start : begin at ``first``; not while ``valid``.
    first, last : the index to begin with, taken with ``start``, and the one to end with.
    step : go to the next index.
    valid, index : the current index.
    final : the last index is valid.
    """

    def __init__(self, *, index_bits: int) -> None:
        super().__init__({
            "start": In(1), "first": In(index_bits), "last": In(index_bits), "step": In(1),
            "valid": Out(1), "index": Out(index_bits), "final": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.final.eq(self.valid & (self.index == self.last))
        with m.If(self.start):
            m.d.sync += [self.valid.eq(1), self.index.eq(self.first)]
        with m.Elif(self.valid & self.step):
            m.d.sync += [self.valid.eq(~self.final), self.index.eq(self.index + 1)]
        return m


class Attention(wiring.Component):
    """Softmax attention of ``query_groups * word_heads`` heads over a position and ``reach`` before it, as
    ``golden.attend``.

    A first pass reads the keys, keeps all scores and finds the greatest of each head; a second reads the scores and,
    as they become weights, the values. The same ``query_groups * word_lanes`` multipliers serve both passes.

    Latency: busy for ``timing.attention_cycles(config, op, position)`` cycles if ``result`` waits at most
    ``RESULT_SLACK`` times; either pass takes one position per cycle.

    Parameters
    ----------
    config : the geometry.
    primitives : see `Multiplier`.

    Members
    -------
    op, busy : the operation.
    query : writes the queries, ``word_beats`` beats per group; not while busy.
    cache : reads of the KV cache.
    position : the last position to attend to, below ``context``; taken with the operation, whose ``reach`` is how many
        before it count.
    read : the ``word_beats`` beats of each query group that the last operation left; data follow the address by one
        cycle.
    result : per head the sum of its probabilities, with the exponent of its weights.
    """

    def __init__(self, *, config: Config, primitives: str = "portable") -> None:
        self._config, self._primitives = config, primitives
        super().__init__({
            "op": In(stream.Signature(op_layout(Opcode.ATTEND, config.slot_bits))),
            "busy": Out(1),
            "query": In(query_port(config.lanes)),
            "cache": Out(cache_read_port(config.word_lanes, ceil_log2(config.kv_slots * config.context))),
            "position": In(16),
            "read": In(read_port(elements(config.lanes), max(1, ceil_log2(config.query_groups * config.word_beats)))),
            "result": Out(stream.Signature(result_layout(config.slot_bits)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self._config
        op = Signal.like(self.op.payload, reset_less=True)
        # The first and the last position, and the distance between them.
        first, last, span = (Signal(c.context_log2, name=name, reset_less=True) for name in ("first", "last", "span"))
        position, reach = self.position[: c.context_log2], self.op.payload.reach[: c.context_log2]
        before, begin = position - reach, Signal(c.context_log2)
        m.d.comb += begin.eq(Mux(before < 0, 0, before))
        # What is counted or compared begins anew a cycle later: it lies far apart, and its first event is later still.
        self._start, self._clear = Signal(), Signal()
        m.d.sync += self._clear.eq(self._start)
        m.d.comb += [self.op.ready.eq(~self.busy), self._start.eq(self.op.valid & self.op.ready)]
        with m.If(self._start):
            m.d.sync += [op.eq(self.op.payload), first.eq(begin), last.eq(position),
                         span.eq(Mux(before < 0, position, reach))]

        # A stage is the number of cycles since the address of its position was given: that of the key in the first
        # pass, that of the score in the second.
        score = OPERAND_CYCLES + 1 + score_cycles(c.head_dim)
        probability = 1 + 2 + EXP2_CYCLES
        # The address of a value is given a cycle before its probability is known: its weight is known a cycle later.
        fetch = probability - 1
        accumulate = fetch + OPERAND_CYCLES + 1
        m.submodules.keys = keys = Walk(index_bits=c.context_log2)
        m.submodules.scores = scores = Walk(index_bits=c.context_log2)
        keyed = stages(m, keys.valid, score + 1, name="keyed")
        key_final = stages(m, keys.final, score + 1, name="key_final")
        weighed = stages(m, scores.valid, accumulate + 1, name="weighed")
        score_final = stages(m, scores.final, probability + c.heads_parallel + RESULT_SLACK + 1, name="score_final")
        second, second_next = Signal(), Signal()
        m.d.comb += second_next.eq(~self._start & (second | key_final[score]))
        m.d.sync += second.eq(second_next)
        value_index = self._count(m, weighed[fetch], name="value", first=first)
        m.d.comb += [
            keys.start.eq(self._start), keys.first.eq(begin), keys.last.eq(last), keys.step.eq(1),
            scores.start.eq(key_final[score]), scores.last.eq(span), scores.step.eq(1),
            self.cache.enable.eq(keys.valid | weighed[fetch]),
            self.cache.address.eq((op.slot << c.context_log2) | Mux(second, value_index, keys.index)),
        ]

        m.submodules.lanes = lanes = AttentionLanes(config=c, primitives=self._primitives)
        connect(m, flipped(self.query), lanes.query)
        m.d.comb += [
            lanes.key.eq(self.cache.key), lanes.value.eq(self.cache.value), lanes.weigh.eq(second_next),
            lanes.clear.eq(self._start), lanes.accumulate.eq(weighed[accumulate - 1]),
        ]
        m.d.comb += [lanes.show.eq(Mux(self.read.enable, 1 << self.read.address, 0)), self.read.data.eq(lanes.beat)]
        key_exponent, top, shift = self._exponents(m, keyed[OPERAND_CYCLES - 1], weighed[probability - 1])
        totals = self._heads(m, lanes, scores, key_exponent, shift, keyed[score], weighed[probability])
        self._finish(m, op, totals, top, score_final[probability],
                     score_final[probability + c.heads_parallel + RESULT_SLACK])
        return m

    def _count(self, m: Module, step: Value, *, name: str, first: Value | int = 0) -> Signal:
        """Positions that have passed a stage, from ``first`` on."""
        index = Signal(self._config.context_log2, name=f"{name}_index")
        with m.If(self._clear):
            m.d.sync += index.eq(first)
        with m.Elif(step):
            m.d.sync += index.eq(index + 1)
        return index

    def _exponents(self, m: Module, keyed: Value, weigh: Value) -> tuple[Signal, Signal, Signal]:
        """Exponent of a product of query and key, greatest exponent of the values, shift of a weight."""
        query_exponent = Signal(EXPONENT_BITS)
        key_exponent = Signal(EXPONENT_BITS, reset_less=True)
        sum_exponent = Signal(EXPONENT_BITS + 1, reset_less=True)
        product_exponent = Signal.like(sum_exponent)
        value_exponent = Signal(EXPONENT_BITS, reset_less=True)
        top = Signal(EXPONENT_BITS)
        shift = Signal(EXPONENT_BITS, reset_less=True)
        m.submodules.exponents = exponents = memory.Memory(
            shape=EXPONENT_BITS, depth=self._config.context, init=[], attrs={"ram_style": "distributed"})
        write, read = exponents.write_port(), exponents.read_port(domain="comb")
        with m.If(self.query.enable):
            m.d.sync += query_exponent.eq(self.query.exponent)
        m.d.sync += [
            key_exponent.eq(self.cache.key_exponent), sum_exponent.eq(query_exponent + key_exponent),
            product_exponent.eq(sum_exponent), value_exponent.eq(self.cache.value_exponent), shift.eq(top - read.data),
        ]
        m.d.comb += [
            write.en.eq(keyed), write.addr.eq(self._count(m, keyed, name="exponent_write")),
            write.data.eq(value_exponent), read.addr.eq(self._count(m, weigh, name="exponent_read")),
        ]
        with m.If(self._clear):
            m.d.sync += top.eq(0)
        with m.Elif(keyed & (value_exponent > top)):
            m.d.sync += top.eq(value_exponent)
        return product_exponent, top, shift

    def _heads(self, m: Module, lanes: AttentionLanes, scores: Walk, exponent: Value, shift: Value, scored: Value,
               probable: Value) -> list[Value]:
        """Scores, weights and sums of probabilities of all heads."""
        c = self._config
        m.submodules.memory = stored = OnePortMemory(
            shape=data.ArrayLayout(signed(SCORE_BITS), c.heads_parallel), depth=c.context)
        write_index = self._count(m, scored, name="score_write")
        m.d.comb += [
            stored.write.eq(scored), stored.read.eq(scores.valid),
            stored.address.eq(Mux(scores.valid, scores.index, write_index)),
        ]
        totals: list[Value] = []
        for head in range(c.heads_parallel):
            m.submodules[f"score{head}"] = score = HeadScore(head_dim=c.head_dim)
            m.submodules[f"weight{head}"] = weight = HeadWeight(context=c.context)
            m.d.comb += [
                score.products.eq(lanes.products[head]), score.exponent.eq(exponent),
                stored.write_data[head].eq(score.score),
                weight.clear.eq(self._clear), weight.score.eq(score.score), weight.score_valid.eq(scored),
                weight.stored.eq(stored.read_data[head]), weight.probability_valid.eq(probable),
                weight.shift.eq(shift), lanes.weights[head].eq(weight.weight),
            ]
            totals.append(weight.total)
        return totals

    def _finish(self, m: Module, op: Value, totals: list[Value], top: Value, summed: Value,
                over: Value) -> None:
        """Deliver the sums, for which there is time to spare; the accumulators are complete before that, too."""
        c = self._config
        m.submodules.results = results = Walk(index_bits=max(1, ceil_log2(c.heads_parallel)))
        results_due, under_way = Signal(), Signal()
        m.d.comb += [
            self.busy.eq(results_due | under_way),
            results.start.eq(summed), results.last.eq(c.heads_parallel - 1), results.step.eq(self.result.ready),
            self.result.valid.eq(results.valid), self.result.payload.register.eq(op.rd + results.index),
            self.result.payload.value.eq(Array(totals)[results.index]), self.result.payload.exponent.eq(-top),
        ]
        with m.If(self._start):
            m.d.sync += [results_due.eq(1), under_way.eq(1)]
        with m.Else():
            with m.If(results.final & results.step):
                m.d.sync += results_due.eq(0)
            with m.If(over):
                m.d.sync += under_way.eq(0)
