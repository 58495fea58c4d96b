"""Runs tokens on the accelerator alone, resets it at every stage of a token, and compares the run that follows."""

import random
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from host.image import Image
from host.predict import predict
from rtl.core import UNITS
from rtl.csr_map import Speculation
from rtl.token_loop import TOKEN_RECORD
from sim.golden import Golden
from sim.token_loop import TokenLoop
from tests.bench import check_equal, parameters, seed, start

PROMPT = (1, 30, 44)
COUNT = 3
TIMEOUT_CYCLES = 60_000


class Bench:
    """The accelerator, with what feeds it: the prompt and, where weights stream, SDRAM that never waits."""

    def __init__(self, dut: Any, image: Image) -> None:
        self.dut, self.image = dut, image
        self.weights = image.sections["stream"].view("<u4").tolist() if image.stream_words else []
        self.writes = [(getattr(dut, f"{port}_enable"), getattr(dut, f"{port}_data"))
                       for port in ("write_rows", "write_beats", "write_bank")]
        dut.reset.value = dut.start.value = dut.stop.value = dut.load_enable.value = dut.prompt__valid.value = 0
        dut.records__ready.value = 1
        dut.sampling.value, dut.speculation.value = 0, Speculation.LOOKUP
        dut.position.value, dut.tokens.value = 0, len(PROMPT) + COUNT - 1
        if self.weights:
            dut.words__valid.value = 0

    async def stream(self) -> None:
        """Offer the weights of one pass after another."""
        dut, at = self.dut, 0
        while True:
            dut.words__valid.value, dut.words__payload.value = 1, self.weights[at]
            await RisingEdge(dut.clk)
            at = (at + bool(dut.words__ready.value)) % len(self.weights)

    async def prompt(self) -> None:
        """Offer each token of the prompt once; after one the queue shows nothing for a clock."""
        dut = self.dut
        for token in PROMPT:
            dut.prompt__valid.value, dut.prompt__payload.value = 1, token
            await RisingEdge(dut.clk)
            while not dut.prompt__ready.value:
                await RisingEdge(dut.clk)
            dut.prompt__valid.value = 0
            await RisingEdge(dut.clk)

    async def run(self, cycles: int, until: int = 0) -> tuple[list[tuple[int, int, int]], list[int]]:
        """Start a run; returns the records (token, position, cycles) and vectors of its first ``cycles``.

        Of fewer, if it is done before, or one of the units ``until`` is busy.
        """
        dut, records, written = self.dut, [], []
        dut.start.value = 1
        feeders = [cocotb.start_soon(self.prompt())]
        if self.weights:
            feeders.append(cocotb.start_soon(self.stream()))
        for _ in range(cycles):
            await RisingEdge(dut.clk)
            dut.start.value = 0
            written += [int(data.value) for enable, data in self.writes if enable.value]
            if dut.records__valid.value:
                record = TOKEN_RECORD.from_bits(int(dut.records__payload.value))
                records.append((int(record["token"]), int(record["position"]), int(record["cycles"])))
            if dut.done.value or int(dut.busy.value) & until:
                break
        for feeder in feeders:
            feeder.cancel()
        return records, written

    async def reset(self) -> int:
        """Pulse the reset, check that nothing is left under way, and return which units it stopped."""
        dut = self.dut
        dut.prompt__valid.value = 0
        if self.weights:
            dut.words__valid.value = 0
        dut.reset.value = 1
        await RisingEdge(dut.clk)
        dut.reset.value = 0
        await RisingEdge(dut.clk)
        stopped = int(dut.busy.value)
        await RisingEdge(dut.clk)
        assert not dut.running.value, "still running two cycles after a reset"
        assert not dut.busy.value, f"still busy two cycles after a reset: {self.units(int(dut.busy.value))}"
        return stopped

    @staticmethod
    def units(busy: int) -> list[str]:
        """Names of the busy units."""
        return [unit for index, unit in enumerate(UNITS) if busy >> index & 1]


def expected(image: Image) -> list[tuple[int, int, int]]:
    """The records of a run; drafts change none of its tokens."""
    config, golden = image.config, Golden(image)
    loop = TokenLoop(slots=config.slots, context=config.context, prompt=list(PROMPT), tokens=len(PROMPT) + COUNT - 1,
                     position=0, drafter=None)
    records = []
    while (taken := loop.begin()) is not None:
        records += loop.end(taken, golden.samples(taken))
    return [(record.token, record.position, predict(config, image.program, record.position).cycles)
            for record in records]


@cocotb.test()
async def resets(dut: Any) -> None:
    """After a reset at any moment the next run is as the first, and that as golden model and compiler say."""
    image = Image.load(Path(parameters()["image"]))
    chance = random.Random(seed())
    bench = Bench(dut, image)
    await start(dut)
    records = expected(image)
    first, vectors = await bench.run(TIMEOUT_CYCLES)
    check_equal("tokens", [token for token, _, _ in first], [token for token, _, _ in records])
    check_equal("positions", [at for _, at, _ in first], [at for _, at, _ in records])
    if not bench.weights:
        check_equal("cycles", [cycles for *_, cycles in first], [cycles for *_, cycles in records])
    whole = max(cycles for *_, cycles in first)
    stopped = 0
    for number in range(parameters()["resets"]):
        await bench.reset()                 # as the firmware does before a run: there may be weights for another pass
        if number < len(UNITS):
            where = f"of {UNITS[number]}"
            await bench.run(TIMEOUT_CYCLES, until=1 << number)
        else:
            cycles = chance.randrange(2, 2 * whole)
            where = f"in cycle {cycles}"
            await bench.run(cycles)
        stopped |= await bench.reset()
        again, written = await bench.run(TIMEOUT_CYCLES)
        assert again == first, f"records {again} after a reset {where}, without it {first}"
        check_equal(f"after a reset {where}: vectors", written, vectors)
    assert bench.units(stopped) == list(UNITS), f"only {bench.units(stopped)} were busy at a reset"
