"""cocotb side of test_sdram: the controller and the chip model as one memory."""

import random
from collections import deque
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from rtl.sdram_parts import ADDRESS_BITS
from tests.bench import STALL_PATTERNS, StreamDriver, check_equal, parameters, start

BURST_WORDS = 64
STREAM_READ, OTHER_READ, WRITE = range(3)
WORDS_BITS = BURST_WORDS.bit_length()
MARGIN = 64                # clocks of refresh before the first word that is looked at


def request(access: int, address: int, *, words: int = 1, data: int = 0) -> int:
    """A request as the bits of its layout."""
    return address | words << ADDRESS_BITS | access << ADDRESS_BITS + WORDS_BITS | data << ADDRESS_BITS + WORDS_BITS + 2


class Memory:
    """Collects every word that the controller returns, with the clock it came in."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.cycle = 0
        self.read: deque[tuple[int, int, int]] = deque()
        cocotb.start_soon(self._collect())

    async def _collect(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            self.cycle += 1
            data = int(self.dut.memory__data.value)
            if data & 1:
                self.read.append((data >> 2, data >> 1 & 1, self.cycle))

    async def words(self, count: int, *, timeout_cycles: int) -> None:
        """Wait until ``count`` words are there."""
        for _ in range(timeout_cycles):
            if len(self.read) >= count:
                return
            await RisingEdge(self.dut.clk)
        raise AssertionError(f"{len(self.read)} of {count} words after {timeout_cycles} cycles")

    def counters(self) -> dict[str, int]:
        """The controller's counters by name."""
        value = int(self.dut.memory__counters.value)
        return {name: value >> 32 * n & 0xFFFFFFFF
                for n, name in enumerate(("refresh_cycles", "stream_words", "other_words", "cycles"))}


async def bring_up(dut: Any, pattern: str = "none", seed: int = 0) -> tuple[StreamDriver, Memory]:
    """Reset; requests wait by themselves until the chip is ready."""
    driver = StreamDriver(dut, "memory__request", pattern=pattern, seed=seed)
    await start(dut)
    return driver, Memory(dut)


@cocotb.test()
@cocotb.parametrize(pattern=STALL_PATTERNS, seed=list(range(7)))
async def random_accesses(dut: Any, pattern: str, seed: int) -> None:
    """Reads of any length among writes return what a dictionary holds, in order, with the right account."""
    chance = random.Random(seed)
    driver, memory = await bring_up(dut, pattern, seed)
    page, last = parameters()["page_words"], parameters()["words"] - 1
    # Few rows in the same banks, so that rows conflict, and the ends of the address space.
    bases = [0, page, 4 * page, 8 * page, 5 * page, last & -page, 4 * page * chance.randrange(1000)]
    model: dict[int, int] = {}
    requests, expected = [], []
    for base in bases:
        for offset in range(24):
            model[base + offset] = chance.getrandbits(32)
            requests.append(request(WRITE, base + offset, data=model[base + offset]))
    for _ in range(150):
        address = chance.choice(bases) + chance.randrange(24)
        if chance.random() < 0.4:
            model[address] = chance.getrandbits(32)
            requests.append(request(WRITE, address, data=model[address]))
        else:
            access = chance.choice((STREAM_READ, OTHER_READ))
            words = chance.randint(1, 24 - address % page % BURST_WORDS)
            requests.append(request(access, address, words=words))
            expected += [(model[address + n] << 1) | (access == STREAM_READ) for n in range(words)]
    requests.append(request(OTHER_READ, bases[0]))      # the last to be answered: no write is cut short by a reset
    expected.append(model[bases[0]] << 1)
    await driver.send(requests)
    await memory.words(len(expected), timeout_cycles=4 * len(requests) * 20)
    check_equal(f"seed {seed} word", [word << 1 | is_stream for word, is_stream, _ in memory.read], expected)
    counters = memory.counters()
    streamed = sum(word & 1 for word in expected)
    assert counters["stream_words"] == streamed, (counters, streamed)


@cocotb.test()
async def sequential(dut: Any) -> None:
    """An endless sequential read reaches 97 % of peak with refreshes on, and every lost clock is counted as refresh."""
    refi = parameters()["refi"]
    words = 3 * 8 * refi // 2 // BURST_WORDS * BURST_WORDS
    driver, memory = await bring_up(dut)
    await driver.send([request(STREAM_READ, 0, words=BURST_WORDS)])
    await memory.words(BURST_WORDS, timeout_cycles=3000 + 16 * refi)
    before, cycle = memory.counters(), memory.cycle
    await driver.send([request(STREAM_READ, address, words=BURST_WORDS) for address in range(0, words, BURST_WORDS)])
    await memory.words(words + BURST_WORDS, timeout_cycles=words)
    after = memory.counters()
    clocks = memory.read[-1][2] - memory.read[BURST_WORDS][2] + 2
    lost, efficiency = clocks - 2 * words, 2 * words / clocks
    refresh = after["refresh_cycles"] - before["refresh_cycles"]
    dut._log.info(f"sequential read: {100 * efficiency:.2f} % of peak over {words} words in "
                  f"{memory.cycle - cycle} cycles, {refresh} of them refresh")
    assert 0 < lost <= refresh <= lost + MARGIN, (lost, refresh)
    assert efficiency >= 0.97, efficiency


@cocotb.test()
async def sequential_writes(dut: Any) -> None:
    """Sequential single-word writes take at most 13 clocks each: 40 MB/s at 133 MHz."""
    count = 500
    driver, memory = await bring_up(dut)
    await driver.send([request(WRITE, 0)])
    begin = memory.cycle
    await driver.send([request(WRITE, n, data=n * 0x01030507 & 0xFFFFFFFF) for n in range(count)])
    per_write = (memory.cycle - begin) / count
    dut._log.info(f"sequential writes: {per_write:.2f} cycles each")
    assert per_write <= 13, per_write
    await driver.send([request(OTHER_READ, n & -BURST_WORDS, words=BURST_WORDS) for n in range(0, 448, BURST_WORDS)])
    await memory.words(448, timeout_cycles=4000)
    check_equal("word", [word for word, _, _ in memory.read], [n * 0x01030507 & 0xFFFFFFFF for n in range(448)])
