"""cocotb side of test_weight_stream."""

import random
from collections.abc import Sequence
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from rtl.sdram_parts import ADDRESS_BITS
from tests.bench import STALL_PATTERNS, StreamDriver, StreamMonitor, check_equal, parameters, start

NOMINAL_PS = {"clk": 15_040, "sdram_clk": 7_520}
RATIOS_PS = [NOMINAL_PS, {"clk": 11_000, "sdram_clk": 7_520}, {"clk": 40_010, "sdram_clk": 7_520}]
COUNTERS = ("stream_words", "other_words", "refresh_cycles", "sdram_cycles")


class Bench:
    """The DMA with its host side driven and its stream checked."""

    def __init__(self, dut: Any, *, pattern: str = "none", seed: int = 0) -> None:
        self.dut = dut
        self.request = StreamDriver(dut, "host__request")
        self.response = StreamMonitor(dut, "host__response", pattern=pattern, seed=seed + 1)
        self.o = StreamMonitor(dut, "o", pattern=pattern, seed=seed)
        self.dut.start.value = 0
        self.dut.stop.value = 0

    async def reset(self, periods_ps: dict[str, int]) -> None:
        await start(self.dut, **periods_ps)

    async def write(self, base: int, values: Sequence[int]) -> None:
        """Host writes."""
        await self.request.send([base + n | 1 << ADDRESS_BITS | value << ADDRESS_BITS + 1
                                 for n, value in enumerate(values)])

    async def read(self, addresses: Sequence[int]) -> list[int]:
        """Host reads."""
        sender = cocotb.start_soon(self.request.send(addresses))
        words = await self.response.receive(len(addresses), timeout_cycles=2000 + 2000 * len(addresses))
        await sender
        return words

    async def walk(self, base: int, words: int, passes: int) -> None:
        """Start a walk."""
        assert self.dut.idle.value, "start while idle"
        self.dut.base_words.value, self.dut.pass_words.value, self.dut.passes.value = base, words, passes
        await self._pulse(self.dut.start)

    async def stop(self) -> None:
        """Stop a walk; wait until the DMA is idle."""
        await self._pulse(self.dut.stop)
        await self.idle(timeout_cycles=8 * parameters()["fifo_words"])

    async def idle(self, *, timeout_cycles: int) -> None:
        for _ in range(timeout_cycles):
            await RisingEdge(self.dut.clk)
            if self.dut.idle.value:
                return
        raise AssertionError(f"not idle after {timeout_cycles} cycles")

    async def _pulse(self, signal: Any) -> None:
        signal.value = 1
        await RisingEdge(self.dut.clk)
        signal.value = 0
        await RisingEdge(self.dut.clk)

    def counters(self) -> dict[str, int]:
        value = int(self.dut.counters.value)
        return {name: value >> 32 * n & 0xFFFFFFFF for n, name in enumerate(COUNTERS)}


@cocotb.test()
@cocotb.parametrize(pattern=STALL_PATTERNS, ratio=range(3), seed=range(3))
async def walks(dut: Any, pattern: str, ratio: int, seed: int) -> None:
    """Every pass delivers the region in order, wrapping without a seam, while the host reads and writes elsewhere."""
    chance = random.Random(100 * seed + ratio)
    bench = Bench(dut, pattern=pattern, seed=seed)
    await bench.reset(RATIOS_PS[ratio])
    base, length = chance.randrange(1 << 20), chance.randint(1, 400)
    elsewhere = base + 1024 * chance.randint(1, 5)
    weights = [chance.getrandbits(32) for _ in range(length)]
    await bench.write(base, weights)
    for passes in (1, chance.randint(2, 4)):
        await bench.walk(base, length, passes)
        host = [chance.getrandbits(32) for _ in range(20)]

        async def host_traffic(host: list[int] = host) -> list[int]:
            await bench.write(elsewhere, host)
            return await bench.read([elsewhere + n for n in range(len(host))])

        traffic = cocotb.start_soon(host_traffic())
        expected = weights * passes
        words = await bench.o.receive(len(expected), timeout_cycles=2000 + 6 * len(expected) + 40 * len(host))
        check_equal(f"seed {seed} pass word", words, expected)
        check_equal(f"seed {seed} host word", await traffic, host)
        await bench.idle(timeout_cycles=20)
        assert not dut.o__valid.value, "a word after the last pass"


@cocotb.test()
@cocotb.parametrize(pattern=STALL_PATTERNS, seed=range(3))
async def stop_and_restart(dut: Any, pattern: str, seed: int) -> None:
    """A walk stopped at any moment leaves nothing behind: the next one begins with its own first word."""
    chance = random.Random(seed)
    bench = Bench(dut, pattern=pattern, seed=seed)
    await bench.reset(RATIOS_PS[seed])
    regions = {base: [chance.getrandbits(32) for _ in range(300)] for base in (0, 7 << 12)}
    for base, weights in regions.items():
        await bench.write(base, weights)
    for _ in range(6):
        base = chance.choice(list(regions))
        await bench.walk(base, 300, 9)
        count = chance.randint(0, 500)
        expected = (regions[base] * 2)[:count]
        check_equal("word", await bench.o.receive(count, timeout_cycles=3000 + 6 * count), expected)
        for _ in range(chance.choice((0, 1, 5, 300))):
            await RisingEdge(dut.clk)
        await bench.stop()
        assert not dut.o__valid.value, "a word after stop"


@cocotb.test()
async def speed(dut: Any) -> None:
    """A consumer that never stalls gets 97 % of the SDRAM's peak over passes of a short region, wraps included."""
    bench = Bench(dut)
    await bench.reset(NOMINAL_PS)
    length, passes = 4096, 6
    await bench.write(0, [0])
    await bench.walk(0, length, passes)
    await bench.o.receive(300, timeout_cycles=10_000)
    before = bench.counters()
    count, cycles = 20_000, 0
    taken = 0
    bench.o.ready.value = 1
    while taken < count:
        await RisingEdge(dut.clk)
        taken += int(dut.o__valid.value)
        cycles += 1
    after = {name: value - before[name] for name, value in bench.counters().items()}
    dut._log.info(f"measured {100 * count / cycles:.2f} % of peak at the consumer over {count} words: {after}")
    assert count / cycles >= 0.97
    assert abs(after["sdram_cycles"] - 2 * cycles) <= 40, (after, cycles)
    assert abs(after["stream_words"] - count) <= parameters()["fifo_words"], (after, count)
    assert after["refresh_cycles"] > 0 and after["other_words"] == 0


@cocotb.test()
async def host_speed(dut: Any) -> None:
    """Loading takes less than 20 engine clocks a word: 10 MB/s with a wide margin."""
    bench = Bench(dut)
    await bench.reset(NOMINAL_PS)
    await bench.write(0, [0] * 16)
    cycles = 0
    sender = cocotb.start_soon(bench.write(4000, list(range(1000))))
    while not sender.done():
        await RisingEdge(dut.clk)
        cycles += 1
    dut._log.info(f"measured {cycles / 1000:.2f} engine cycles a host write: {4 * 1000 * 66.5 / cycles:.1f} MB/s")
    assert cycles < 20_000
    check_equal("word", await bench.read(list(range(4000, 4050))), list(range(50)))
