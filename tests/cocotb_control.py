"""Control registers against a register model in Python."""

import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from rtl.csr_map import (
    CONTROL_RESET,
    CONTROL_START,
    CONTROL_STOP,
    CONTROL_VERSION,
    COUNTERS,
    ENGINE_ADDRESS,
    ENGINE_CSRS,
    FLAG_STREAM,
    IDENTITY,
    STATUS_DONE,
    STATUS_FAULT_SHIFT,
    STATUS_RUNNING,
    STATUS_TIMEOUT,
)
from tests.bench import StreamDriver, StreamMonitor, check_equal, parameters, seed, start

ACCESSES = 250
TIMEOUT_CYCLES = 2000
MASK = (1 << 32) - 1


class Bus:
    """The CPU's end of the register bus."""

    def __init__(self, dut: Any, *, clock: str = "clk", prefix: str = "bus") -> None:
        self.clock = getattr(dut, clock)
        self.request = StreamDriver(dut, f"{prefix}__request", clock=clock)
        self.response = StreamMonitor(dut, f"{prefix}__response", clock=clock)

    async def access(self, address: int, write: int, value: int) -> int:
        await self.request.send([value << 6 | write << 5 | address])
        (answer,) = await self.response.receive(1, timeout_cycles=TIMEOUT_CYCLES)
        return answer

    async def write(self, name: str, value: int) -> None:
        """Write, and wait until a pulse that it makes has had its effect."""
        await self.access(ENGINE_ADDRESS[name], 1, value)
        for _ in range(2):
            await RisingEdge(self.clock)

    async def read(self, name: str) -> int:
        return await self.access(ENGINE_ADDRESS[name], 0, 0)


def memory_word(address: int) -> int:
    """What the SDRAM of these tests holds."""
    return address * 0x9E37_79B1 & MASK


class Engine:
    """The other blocks: collects what Control sends, and keeps the model of its registers."""

    def __init__(self, dut: Any, pattern: str) -> None:
        self.dut = dut
        chance = random.Random(seed())
        ends = {"pattern": pattern, "seed": seed() & 0xFFFF}
        self.prompt = StreamMonitor(dut, "prompt", **ends)
        self.load = StreamMonitor(dut, "load", **ends)
        self.requests = StreamMonitor(dut, "host_read__request", **ends)
        self.responses = StreamDriver(dut, "host_read__response", **ends)
        self.tokens = StreamDriver(dut, "tokens", **ends)
        self.prompted: list[int] = []
        self.loaded: list[int] = []
        self.sent = [(chance.getrandbits(32), chance.getrandbits(15), chance.getrandbits(16)) for _ in range(60)]
        self.counters = [chance.getrandbits(32) for _ in COUNTERS]
        for name, value in zip(COUNTERS, self.counters, strict=True):
            getattr(dut, f"counters__{name}").value = value
        dut.run__running.value = 0
        dut.run__fault.value = 0

    async def collect(self, monitor: StreamMonitor, into: list[int]) -> None:
        async for word in monitor.words():
            if word is not None:
                into.append(word)

    async def serve_reads(self) -> None:
        async for address in self.requests.words():
            if address is not None:
                await self.responses.send([memory_word(address)])

    def begin(self) -> None:
        cocotb.start_soon(self.collect(self.prompt, self.prompted))
        cocotb.start_soon(self.collect(self.load, self.loaded))
        cocotb.start_soon(self.serve_reads())
        cocotb.start_soon(self.tokens.send([cycles << 31 | position << 16 | token
                                            for cycles, position, token in self.sent]))


async def power_up(dut: Any) -> tuple[Bus, Engine]:
    print("seed", seed())
    bus, engine = Bus(dut), Engine(dut, parameters()["pattern"])
    await start(dut)
    return bus, engine


@cocotb.test()
async def traffic(dut: Any) -> None:
    """Random accesses to all registers; every answer and everything that reached the engine is checked."""
    bus, engine = await power_up(dut)
    engine.begin()
    chance, p = random.Random(seed()), parameters()
    constants = {"ID": IDENTITY, "VERSION": CONTROL_VERSION, "GEOMETRY": p["geometry"], "FLAGS": FLAG_STREAM,
                 "CLOCK_HZ": p["clock_hz"], "CONTEXT": p["context"], "VOCAB": p["vocab"], "SLOTS": p["slots"],
                 "STATUS": 0}
    stored = {csr.name: 0 for csr in ENGINE_CSRS if csr.access == "rw"}
    stored |= {"STREAM_BASE": p["stream_base"], "STREAM_WORDS": p["stream_words"],
               "PROMPT_WORDS": p["prompt_words"]}
    prompted, loaded, popped, cycles = [], [], 0, 0
    for index in range(ACCESSES):
        name, write, value = chance.choice(ENGINE_CSRS).name, chance.getrandbits(1), chance.getrandbits(32)
        if name == "COUNTER_SELECT":
            value %= len(COUNTERS)
        if write and name == "CONTROL":
            continue
        got = await bus.access(ENGINE_ADDRESS[name], write, value)
        address = stored["LOAD_ADDRESS"]
        if write:
            if name in stored:
                stored[name] = value
            elif name == "PROMPT":
                prompted.append(value & 0xFFFF)
            elif name == "LOAD_DATA":
                loaded.append(address << 32 | value)
                stored["LOAD_ADDRESS"] = address + 1 & MASK
            continue
        if name == "TOKEN":
            if got >> 31:
                cycles, position, token = engine.sent[popped]
                popped += 1
                assert got & 0x7FFF_FFFF == position << 16 | token, f"access {index}: TOKEN {popped - 1} reads {got:#x}"
            continue
        expected = (constants | stored | {
            "TOKEN_CYCLES": cycles, "COUNTER_VALUE": engine.counters[stored["COUNTER_SELECT"]],
            "READ_DATA": memory_word(address & 0x0FFF_FFFF)}).get(name, 0)
        if name == "READ_DATA":
            stored["LOAD_ADDRESS"] = address + 1 & MASK
        assert got == expected, f"access {index}: {name} reads {got:#x}, expected {expected:#x}"
    for _ in range(TIMEOUT_CYCLES):
        await RisingEdge(dut.clk)
    check_equal("prompt", engine.prompted, prompted)
    check_equal("load", engine.loaded, loaded)
    outputs = {"RUN_TOKENS": (dut.run__tokens, 16), "RUN_POSITION": (dut.run__position, 16), "SEED": (dut.seed, 32),
               "STREAM_BASE": (dut.stream_base, 32), "STREAM_WORDS": (dut.stream_words, 32),
               "PROMPT_WORDS": (dut.prompt_words, 32), "PROMPT_PASSES": (dut.run__prompt_passes, 16),
               "SPECULATION": (dut.run__speculation, 2)}
    for name, (port, bits) in outputs.items():
        assert port.value == stored[name] & (1 << bits) - 1, f"port of {name} holds {int(port.value):#x}"
    temperature = stored["TEMPERATURE"]
    assert dut.temperature.value == temperature >> 31 << 25 | temperature & 0x1FF_FFFF


@cocotb.test()
async def pulses_and_status(dut: Any) -> None:
    """Each CONTROL bit makes one pulse of one clock; STATUS shows running, faults, and done until the next start."""
    bus, _ = await power_up(dut)
    clocks = {"start": 0, "stop": 0, "soft_reset": 0}

    async def count() -> None:
        while True:
            await RisingEdge(dut.clk)
            for name in clocks:
                clocks[name] += int(getattr(dut, f"run__{name}").value)

    cocotb.start_soon(count())
    await bus.write("CONTROL", CONTROL_START)
    assert clocks == {"start": 1, "stop": 0, "soft_reset": 0}, f"after start: {clocks}"
    assert await bus.read("STATUS") == 0
    dut.run__running.value = 1
    assert await bus.read("STATUS") == STATUS_RUNNING
    dut.run__running.value = 0
    assert await bus.read("STATUS") == STATUS_DONE
    dut.run__fault.value = 0xA5
    assert await bus.read("STATUS") == STATUS_DONE | 0xA5 << STATUS_FAULT_SHIFT
    dut.run__fault.value = 0
    await bus.write("CONTROL", CONTROL_STOP)
    await bus.write("CONTROL", CONTROL_RESET)
    assert await bus.read("STATUS") == STATUS_DONE, "only a start clears done"
    await bus.write("CONTROL", CONTROL_START | CONTROL_STOP | CONTROL_RESET)
    assert await bus.read("STATUS") == 0
    assert clocks == {"start": 2, "stop": 2, "soft_reset": 2}, f"pulses were {clocks} clocks long"


@cocotb.test()
async def reset(dut: Any) -> None:
    """Reset empties both queues and keeps settings; a run after a stuck one must not see its leftovers."""
    bus, engine = await power_up(dut)
    for token in range(5):
        await bus.write("PROMPT", token)
    await engine.tokens.send([7, 8, 9])
    await bus.write("SEED", 99)
    await bus.write("CONTROL", CONTROL_RESET)
    assert dut.prompt__valid.value == 0, "prompt tokens survived a reset"
    assert await bus.read("TOKEN") >> 31 == 0, "sampled tokens survived a reset"
    assert await bus.read("SEED") == 99
    await bus.write("PROMPT", 42)
    check_equal("prompt", await engine.prompt.receive(1, timeout_cycles=50), [42])


@cocotb.test()
async def timeouts(dut: Any) -> None:
    """Accesses that nobody serves end after the timeout, read zero, set the flag, and leave the bus usable."""
    bus, _ = await power_up(dut)
    limit = parameters()["timeout_cycles"]
    await bus.write("LOAD_ADDRESS", 5)
    for name, write in (("LOAD_DATA", 1), ("READ_DATA", 0), ("PROMPT", 1)):
        await bus.write("CONTROL", CONTROL_RESET)
        assert await bus.read("STATUS") == 0, "a reset did not clear the timeout flag"
        for _ in range(parameters()["context"] + 2 if name == "PROMPT" else 0):
            await bus.write("PROMPT", 1)
            if await bus.read("STATUS"):
                break
        clocks = 0
        task = cocotb.start_soon(bus.access(ENGINE_ADDRESS[name], write, 0))
        while not task.done():
            await RisingEdge(dut.clk)
            clocks += 1
        assert task.result() == 0
        assert limit <= clocks <= limit + 8, f"{name} was given up after {clocks} clocks, limit {limit}"
        assert await bus.read("STATUS") == STATUS_TIMEOUT, f"{name} timed out silently"
    assert await bus.read("LOAD_ADDRESS") == 5, "an access that failed advanced the address"


@cocotb.test()
async def latency(dut: Any) -> None:
    """A response is offered three clocks after its request is taken."""
    await power_up(dut)
    for index in range(4):
        dut.bus__request__payload.value = ENGINE_ADDRESS["ID"]
        dut.bus__request__valid.value = 1
        await RisingEdge(dut.clk)
        assert dut.bus__request__ready.value, f"access {index} had to wait"
        dut.bus__request__valid.value = 0
        for clock in range(4):
            await RisingEdge(dut.clk)
            assert dut.bus__response__valid.value == (clock == 2 or (clock == 3 and index % 2)), f"clock {clock}"
            dut.bus__response__ready.value = clock == 2 or index % 2 == 0
        dut.bus__response__ready.value = 1
        await RisingEdge(dut.clk)
        dut.bus__response__ready.value = 0


@cocotb.test()
async def crossing(dut: Any) -> None:
    """The far end echoes the inverse of each request; both directions are checked word for word."""
    chance = random.Random(seed())
    print("seed", seed())
    near = Bus(dut, clock="cpu_clk", prefix="i")
    requests = StreamMonitor(dut, "o__request", pattern="random", seed=1)
    responses = StreamDriver(dut, "o__response", pattern="random", seed=2)
    await start(dut, clk=10_000, cpu_clk=parameters()["cpu_ps"])
    sent = [(chance.randrange(32), chance.getrandbits(1), chance.getrandbits(32)) for _ in range(100)]
    crossed: list[int] = []

    async def echo() -> None:
        async for word in requests.words():
            if word is not None:
                crossed.append(word)
                await responses.send([~word & MASK])

    cocotb.start_soon(echo())
    for index, (address, write, value) in enumerate(sent):
        got = await near.access(address, write, value)
        expected = ~(value << 6 | write << 5 | address) & MASK
        assert got == expected, f"access {index}: got {got:#x}, expected {expected:#x}"
    check_equal("requests", crossed, [value << 6 | write << 5 | address for address, write, value in sent])
