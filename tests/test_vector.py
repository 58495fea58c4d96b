"""The vector unit with its memory and the scalar registers, against the golden model."""

from dataclasses import replace

import pytest
from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.config import ADDRESS_BITS, TINY, Config
from rtl.isa import Opcode
from rtl.op_layout import (
    RESULT,
    ROTATION,
    SCALAR,
    cache_write_port,
    elements,
    int8s,
    op_layout,
    query_port,
    read_port,
    row_write_port,
    write_port,
)
from rtl.scalar_unit import ScalarUnit
from rtl.vector_memory import VectorMemory
from rtl.vector_unit import VectorUnit
from tests.bench import run_bench

# One head per beat, wide embedding codes, block RAM, and a row count that does not divide by shifting.
NARROW = replace(TINY, name="narrow", lanes=12, rows=4, head_dim=12, vector_depth=80, embed_planes=5, embed_beats=2)
# Rows that reach from one beat into the next.
UNEVEN = replace(TINY, name="uneven", lanes=12, head_dim=4, sampler_lanes=2)
# Gains of norms, and with them products; SiLU.
GAINED = replace(TINY, name="gained", gain_rows=8, has_silu=True)
# What recurrences need besides.
RECURRENT = replace(GAINED, name="recurrent", has_recurrence=True)
# Two banks, each with its writer.
BANKED = replace(TINY, name="banked", vector_depth=64, bank_beats=16, query_groups=4)
CONFIGS = {"tiny": TINY, "banked": BANKED, "narrow": NARROW, "uneven": UNEVEN, "gained": GAINED, "recurrent": RECURRENT}


class VectorBench(wiring.Component):
    """Vector memory, vector unit and scalar unit; an operation starts when both units are idle."""

    def __init__(self, config: Config) -> None:
        self.config = config
        lanes, depth = config.lanes, config.vector_depth
        codes = data.ArrayLayout(config.embed_bits, lanes)
        super().__init__({
            "vector_op": In(stream.Signature(op_layout(Opcode.VECTOR))),
            "embed_op": In(stream.Signature(op_layout(Opcode.EMBED))),
            "scalar_op": In(stream.Signature(op_layout(Opcode.SCALAR))),
            "busy": Out(2),
            "engine": In(stream.Signature(RESULT)),
            "attention": In(stream.Signature(RESULT)),
            "rows": In(row_write_port(lanes, config.rows, ceil_log2(depth))),
            "beats": In(write_port(elements(lanes), ceil_log2(depth))),
            "bank": In(write_port(elements(lanes), ceil_log2(max(2, config.bank_beats)))),
            "far": Out(read_port(elements(lanes), max(1, ceil_log2((1 << ADDRESS_BITS) - config.attention_beat)))),
            "look": In(read_port(elements(lanes), ADDRESS_BITS)),
            "scalar": In(read_port(SCALAR, 5)),
            "temperature": In(SCALAR),
            "history": In(1),
            "embedding": Out(read_port(codes, ceil_log2(config.embed_rows * config.embed_beats))),
            "token": In(16),
            "rotary": In(data.ArrayLayout(ROTATION, config.head_dim // 2)),
            "activation": Out(write_port(int8s(lanes), ceil_log2(config.activation_depth))),
            "query": Out(query_port(lanes)),
            "cache": Out(cache_write_port(lanes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self.config
        m.submodules.memory = memory = VectorMemory(
            lanes=c.lanes, rows=c.rows, depth=c.vector_depth, attention_beat=c.attention_beat,
            bank_beats=c.bank_beats)
        m.submodules.unit = unit = VectorUnit(
            lanes=c.lanes, head_dim=c.head_dim, vector_depth=c.vector_depth,
            activation_depth=c.activation_depth, vocab=c.vocab, embed_beats=c.embed_beats, embed_planes=c.embed_planes,
            bank_beats=c.bank_beats, gain_rows=c.gain_rows, has_products=c.has_products, has_silu=c.has_silu,
            has_sigmoid=c.has_recurrence)
        m.submodules.scalars = scalars = ScalarUnit(has_history=c.has_recurrence)
        if c.has_recurrence:
            m.d.comb += scalars.history.eq(self.history)
        idle = Signal()
        m.d.comb += [idle.eq(~(unit.busy | scalars.busy)), self.busy[0].eq(unit.busy), self.busy[1].eq(scalars.busy)]
        for port, op in ((self.vector_op, unit.op), (self.embed_op, unit.embed), (self.scalar_op, scalars.op)):
            m.d.comb += [op.payload.eq(port.payload), op.valid.eq(port.valid & idle), port.ready.eq(op.ready & idle)]
        # The test writes while the unit is idle, whose data for the first bank then are zero.
        first, second = self.beats.data.as_value(), self.bank.data.as_value()
        for port, inner, own, beat in (
                (self.beats, memory.write_beats, unit.memory_write, first | unit.memory_write.data.as_value()),
                (self.bank, memory.write_bank, unit.bank_write, Mux(self.bank.enable, second, unit.bank_write.data))):
            m.d.comb += [inner.enable.eq(port.enable | own.enable), inner.data.as_value().eq(beat),
                         inner.address.eq(Mux(port.enable, port.address, own.address))]
        for port, inner in ((self.rows, memory.write_rows), (self.far, memory.attention), (self.look, memory.read[1]),
                            (self.engine, scalars.results[0]), (self.attention, scalars.results[2]),
                            (self.scalar, scalars.read[1]),
                            (self.embedding, unit.embedding), (self.activation, unit.activation),
                            (self.query, unit.query), (self.cache, unit.cache)):
            wiring.connect(m, wiring.flipped(port), inner)
        wiring.connect(m, unit.memory_read, memory.read[0])
        wiring.connect(m, unit.scalar_read, scalars.read[0])
        wiring.connect(m, unit.result, scalars.results[1])
        m.d.comb += [
            unit.token.eq(self.token), unit.rotary.eq(self.rotary), scalars.temperature.eq(self.temperature)]
        return m


@pytest.mark.parametrize(("name", "pattern", "seeds"), [
    ("tiny", "none", 10), ("tiny", "random", 5), ("tiny", "worst", 5), ("banked", "none", 10),
    ("narrow", "none", 5), ("narrow", "worst", 5),
    ("gained", "none", 10), ("gained", "random", 5), ("recurrent", "none", 10), ("recurrent", "random", 5),
    ("recurrent", "worst", 5)])
def test_random_operations_match_the_golden_model(name: str, pattern: str, seeds: int) -> None:
    """Every function and target, back to back; catches wrong rounding, saturation, hazards and cycle counts."""
    run_bench(VectorBench(CONFIGS[name]), module="tests.cocotb_vector", name=f"vector_{name}",
              parameters={"config": name, "pattern": pattern, "seeds": seeds, "chains": 10})


def test_rows_must_fit_a_beat() -> None:
    """Rows that would write one lane twice at once."""
    with pytest.raises(ValueError, match="rows 21 must not exceed lanes 20"):
        VectorMemory(lanes=20, rows=21, depth=64, attention_beat=252)
