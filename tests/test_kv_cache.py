"""The KV cache and the embedding memory: what is written is read back, and what must not be written is not."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth.lib import wiring
from amaranth.sim import Simulator

from rtl.config import TINY, Config
from rtl.embedding import Embedding
from rtl.kv_cache import KvCache
from rtl.one_port_memory import OnePortMemory
from rtl.wide_load import PIECE_BITS

CACHE = replace(TINY, lanes=4, rows=4, head_dim=4, context=8, kv_slots=3)
EMBEDDING = replace(TINY, vocab=16)


def drive(ctx, port: wiring.PureInterface, **values: object) -> None:
    """Set members of a port."""
    for name, value in values.items():
        ctx.set(getattr(port, name), value)


def simulate(dut: wiring.Component, bench) -> None:
    """Run a testbench to its end."""
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("config", [CACHE, replace(CACHE, word_beats=2)], ids=["beats", "words"])
@pytest.mark.parametrize("seed", range(10))
def test_cache_keeps_what_was_written(seed: int, config: Config) -> None:
    """Random writes and reads agree with a dictionary; writes beyond slots or context are ignored."""
    rng = np.random.default_rng(seed)
    dut = KvCache(config=config)
    blank = ([0] * config.word_lanes, 0)
    model: dict[tuple[int, int], tuple[list[int], int]] = {}

    async def bench(ctx) -> None:
        for step in range(300):
            slot, position = int(rng.integers(5)), int(rng.choice([*range(8), 8, 9, 256, 32768]))
            value, exponent = int(rng.integers(2)), int(rng.integers(16))
            data = rng.integers(-128, 128, config.word_lanes).tolist()
            held = slot < CACHE.kv_slots and position < CACHE.context
            ctx.set(dut.position, position)
            for beat in range(config.word_beats):
                part = data[beat * config.lanes :][: config.lanes]
                drive(ctx, dut.write, enable=1, value=value, slot=slot, data=part, exponent=exponent,
                      last=beat == config.word_beats - 1)
                await ctx.tick()
            ctx.set(dut.write.enable, 0)
            if held:
                model[value, slot * CACHE.context + position] = (data, exponent)
            address = int(rng.integers(CACHE.kv_slots * CACHE.context))
            ctx.set(dut.read.address, address)
            ctx.set(dut.read.enable, 1)
            await ctx.tick()
            ctx.set(dut.read.enable, 0)
            await ctx.tick()
            for half, name in enumerate(("key", "value")):
                actual = (list(ctx.get(getattr(dut.read, name))), ctx.get(getattr(dut.read, f"{name}_exponent")))
                expected = model.get((half, address), blank)
                assert actual == expected, f"seed {seed} step {step}: {name} {address} is {actual}, expected {expected}"

    simulate(dut, bench)


def test_embedding_holds_what_it_was_given() -> None:
    """Beats of the initial contents and loaded beats read back; a load of some pieces leaves the beat as it was."""
    rng = np.random.default_rng(3)
    levels = 3**EMBEDDING.embed_planes
    rows = rng.integers(0, levels, (EMBEDDING.vocab, EMBEDDING.embed_beats * EMBEDDING.lanes)).astype(np.uint8)
    model = rows.reshape(-1, EMBEDDING.lanes).tolist()
    dut = Embedding(config=EMBEDDING, init=rows)
    pieces = -(-EMBEDDING.lanes * EMBEDDING.embed_bits // PIECE_BITS)
    piece_bits = (pieces - 1).bit_length()

    async def load(ctx, beat: int, values: list[int], count: int) -> None:
        word = sum(value << EMBEDDING.embed_bits * lane for lane, value in enumerate(values))
        for piece in range(count):
            data = word >> PIECE_BITS * piece & (1 << PIECE_BITS) - 1
            drive(ctx, dut.load, enable=1, address=beat << piece_bits | piece, data=data)
            await ctx.tick()
        ctx.set(dut.load.enable, 0)

    async def bench(ctx) -> None:
        for step in range(100):
            beat = int(rng.integers(len(model)))
            values = rng.integers(0, levels, EMBEDDING.lanes).tolist()
            whole = step % 3 != 0
            await load(ctx, beat, values, pieces if whole else pieces - 1)
            if whole:
                model[beat] = values
            for address in (beat, int(rng.integers(len(model)))):
                drive(ctx, dut.read, enable=1, address=address)
                await ctx.tick()
                ctx.set(dut.read.enable, 0)
                actual = list(ctx.get(dut.read.data))
                assert actual == model[address], f"step {step}: beat {address} is {actual}, expected {model[address]}"

    simulate(dut, bench)


def test_embedding_rejects_contents_of_another_shape() -> None:
    """A row too few, or an element with too many bits, names what was given."""
    rows = np.zeros((EMBEDDING.vocab, EMBEDDING.embed_beats * EMBEDDING.lanes), np.uint8)
    with pytest.raises(ValueError, match=r"got \(15, 24\)"):
        Embedding(config=EMBEDDING, init=rows[1:])
    with pytest.raises(ValueError, match="element 32, which does not fit 5 bits"):
        Embedding(config=EMBEDDING, init=rows + np.uint8(32))


def test_memory_rejects_impossible_sizes() -> None:
    """A depth without an address bit, or contents longer than the memory, names what was given."""
    with pytest.raises(ValueError, match="at least 2, got 1"):
        OnePortMemory(shape=8, depth=1)
    with pytest.raises(ValueError, match="init has 5 words, the memory 4"):
        OnePortMemory(shape=8, depth=4, init=[0] * 5)
