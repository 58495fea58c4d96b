"""The link protocol of the firmware, over the pins, with the engine played by coroutines."""

import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import cocotb
from cobs import cobs
from cocotb.queue import Queue
from cocotb.triggers import FallingEdge, First, RisingEdge, Timer, with_timeout
from cocotb.utils import get_sim_time

from rtl.csr_map import COUNTERS, FIRMWARE_VERSION, LOAD_WORDS, Code, Message, Space
from tests.bench import check_equal, parameters, seed, start
from tests.cocotb_cpu_uart import receive_byte, send_byte

ENGINE_PS = 21_300
CPU_PS = 15_800             # unrelated to the engine's
BIT_PS = 6 * CPU_PS
REPLY_US = 5_000


class Host:
    """The host's end of the line: builds requests, collects frames."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.sequence = 0
        self.frames: Queue[tuple[int, int, bytes]] = Queue()
        dut.rx.value = 1

    async def listen(self) -> None:
        """Check and queue every frame the device sends."""
        raw = bytearray()
        while True:
            byte = await receive_byte(self.dut.tx, BIT_PS)
            if byte:
                raw.append(byte)
                continue
            frame = cobs.decode(bytes(raw))
            raw.clear()
            crc = int.from_bytes(frame[-4:], "little")
            assert zlib.crc32(frame[:-4]) == crc, f"frame {frame.hex()} has a wrong CRC"
            self.frames.put_nowait((frame[0], frame[1], frame[2:-4]))

    async def send_raw(self, data: bytes) -> None:
        for byte in data:
            await send_byte(self.dut.rx, byte, BIT_PS)

    def encode(self, kind: int, body: bytes = b"") -> bytes:
        """The wire bytes of the next request."""
        self.sequence = (self.sequence + 1) % 256
        frame = bytes((kind, self.sequence)) + body
        return cobs.encode(frame + zlib.crc32(frame).to_bytes(4, "little")) + b"\0"

    async def next_frame(self, kind: int) -> tuple[int, bytes]:
        """Sequence number and body of the next frame, which must be of this kind."""
        got, sequence, body = await with_timeout(self.frames.get(), REPLY_US, "us")
        assert got == kind, f"got frame {got:#x} {body.hex()}, expected {kind:#x}"
        return sequence, body

    async def reply(self, kind: int) -> tuple[Code, bytes]:
        """Status and rest of the reply to the last request."""
        sequence, body = await self.next_frame(kind | 0x80)
        assert sequence == self.sequence, f"reply to {kind:#x} has sequence {sequence}, expected {self.sequence}"
        return Code(body[0]), body[1:]

    async def ask(self, kind: int, body: bytes = b"") -> tuple[Code, bytes]:
        """Send a request and wait for its reply."""
        await self.send_raw(self.encode(kind, body))
        return await self.reply(kind)

    async def expect(self, kind: int, body: bytes, code: Code, rest: bytes) -> None:
        """Send a request; its reply must be exactly this."""
        await self.send_raw(self.encode(kind, body))
        sent_ns = get_sim_time("ns")
        got = await self.reply(kind)
        clocks = (get_sim_time("ns") - sent_ns) * 1000 // CPU_PS
        name = Message(kind).name
        self.dut._log.info("%s: %d CPU clocks from its last bit to the last bit of the answer", name, clocks)
        assert got == (code, rest), f"{name}: got {got[0].name} {got[1].hex()}, expected {code.name} {rest.hex()}"

    async def load(self, words: Sequence[tuple[int, int]], *, image_id: int, base: int = 0) -> None:
        """Load (address, word) pairs, one LOAD_DATA per run of addresses."""
        body = struct.pack("<5IB", parameters()["geometry"], image_id, len(words), base, 77, 0)
        await self.expect(Message.LOAD_BEGIN, body, Code.OK, bytes(4))
        at = 0
        while at < len(words):
            count = 1
            while count < LOAD_WORDS and at + count < len(words) and words[at + count][0] == words[at][0] + count:
                count += 1
            body = struct.pack(f"<2I{count}I", at, words[at][0], *(word for _, word in words[at:at + count]))
            at += count
            await self.expect(Message.LOAD_DATA, body, Code.OK, struct.pack("<I", at))


def image_crc(words: Sequence[tuple[int, int]]) -> int:
    return zlib.crc32(b"".join(struct.pack("<I", word) for _, word in words))


class Engine:
    """Plays the engine: answers runs, stores loaded words, serves SDRAM reads, all after random waits.

    It wakes on events, not on every clock: a run over the UART is long.
    """

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.chance = random.Random(seed())
        self.memory: dict[int, int] = {}
        self.writes: list[tuple[int, int]] = []
        self.passes: list[tuple[int, int]] = []
        self.pass_ns = 1000
        self.passes_until_stuck = 1 << 16
        self.fault_when_stuck = 0
        self.silent = False
        self.stopped = False
        for port in ("run__running", "run__fault", "prompt__ready", "tokens__valid", "load__ready",
                     "host_read__request__ready", "host_read__response__valid"):
            getattr(dut, port).value = 0
        for index, name in enumerate(COUNTERS):
            getattr(dut, f"counters__{name}").value = 0xC0DE_0000 + index

    async def take(self, name: str) -> int:
        """The next word of a stream, accepted after a random wait."""
        valid, ready = getattr(self.dut, f"{name}__valid"), getattr(self.dut, f"{name}__ready")
        if not valid.value:
            await RisingEdge(valid)
        for _ in range(self.chance.randrange(4)):
            await RisingEdge(self.dut.clk)
        ready.value = 1
        await RisingEdge(self.dut.clk)
        word = int(getattr(self.dut, f"{name}__payload").value)
        ready.value = 0
        await FallingEdge(self.dut.clk)
        return word

    async def give(self, name: str, word: int) -> None:
        """Offer a word until it is taken."""
        getattr(self.dut, f"{name}__payload").value = word
        getattr(self.dut, f"{name}__valid").value = 1
        await RisingEdge(self.dut.clk)
        while not getattr(self.dut, f"{name}__ready").value:
            await RisingEdge(self.dut.clk)
        getattr(self.dut, f"{name}__valid").value = 0

    async def store(self) -> None:
        while True:
            word = await self.take("load")
            address, value = word >> 32, word & 0xFFFF_FFFF
            self.writes.append((address, value))
            self.memory[address] = value

    async def serve_reads(self) -> None:
        while True:
            address = await self.take("host_read__request")
            if not self.silent:
                await self.give("host_read__response", self.memory.get(address, 0))

    async def control(self) -> None:
        """React to start, stop and reset."""
        dut = self.dut
        run = None
        while True:
            await First(RisingEdge(dut.run__start), RisingEdge(dut.run__stop), RisingEdge(dut.run__soft_reset))
            if dut.run__stop.value:
                self.stopped = True
            if dut.run__soft_reset.value:
                if run is not None:
                    run.cancel()
                for port in (dut.tokens__valid, dut.prompt__ready, dut.run__running, dut.run__fault):
                    port.value = 0
            if dut.run__start.value:
                self.stopped = False
                run = cocotb.start_soon(self.generate())

    async def generate(self) -> None:
        """One run: a pass takes a prompt token if there is one, and samples token + 1 modulo the vocabulary."""
        dut = self.dut
        dut.run__running.value = 1
        passes, position = int(dut.run__tokens.value), int(dut.run__position.value)
        self.passes.clear()
        token = 0
        for done in range(passes):
            if done == self.passes_until_stuck:
                dut.run__fault.value = self.fault_when_stuck
                await Timer(1, "sec")
            await RisingEdge(dut.clk)
            if dut.prompt__valid.value:
                token = await self.take("prompt")
            token = (token + 1) % parameters()["vocab"]
            cycles = self.chance.getrandbits(32)
            await Timer(self.chance.randrange(self.pass_ns), "ns")
            await RisingEdge(dut.clk)
            await self.give("tokens", cycles << 31 | position + done << 16 | token)
            self.passes.append((token, cycles))
            if self.stopped:
                break
        dut.run__running.value = 0


async def connect(dut: Any) -> tuple[Host, Engine]:
    """Power up, and say hello once the firmware listens."""
    print("seed", seed())
    dut.hang.value = 0
    host, engine = Host(dut), Engine(dut)
    await start(dut, clk=ENGINE_PS, cpu_clk=CPU_PS)
    for task in (host.listen(), engine.store(), engine.serve_reads(), engine.control()):
        cocotb.start_soon(task)
    return host, engine


def run_body(*, count: int, length: int, position: int = 0, mantissa: int = 0, exponent: int = 0, seed: int = 0,
             timeout_us: int = 0) -> bytes:
    return struct.pack("<HHHhIIH", count, position, mantissa, exponent, seed, timeout_us, length)


async def load_something(host: Host) -> None:
    """The smallest image, so that runs are allowed."""
    words = [(Space.PROGRAM << 28, 5)]
    await host.load(words, image_id=9)
    await host.expect(Message.LOAD_END, struct.pack("<I", image_crc(words)), Code.OK, struct.pack("<I", 9))


async def set_prompt(host: Host, tokens: Sequence[int]) -> None:
    await host.expect(Message.PROMPT, struct.pack(f"<H{len(tokens)}H", 0, *tokens), Code.OK,
                      struct.pack("<H", len(tokens)))


async def collect_run(host: Host) -> tuple[list[tuple[int, int, int]], Code, int]:
    """TOKEN records until DONE, its code, its count of passes."""
    records: list[tuple[int, int, int]] = []
    while True:
        kind, _, body = await with_timeout(host.frames.get(), REPLY_US, "us")
        if kind == Message.DONE:
            code, passes = struct.unpack("<BH", body)
            return records, Code(code), passes
        if kind == Message.FAULT:
            continue
        assert kind == Message.TOKEN, f"got frame {kind:#x} during a run"
        records += struct.iter_unpack("<HHI", body)


@cocotb.test()
async def hello(dut: Any) -> None:
    """Every field of HELLO, and the counters in order; unknown types are refused by name."""
    host, _ = await connect(dut)
    p = parameters()
    fields = struct.pack("<BHIIIIHHB5I", 1, FIRMWARE_VERSION, p["geometry"], 1, 0, 100_000_000, p["context"],
                         p["vocab"], 0, 0, 0, 0, 0, 0)
    await host.expect(Message.HELLO, b"", Code.OK, fields)
    counters = struct.pack(f"<{len(COUNTERS)}I", *(0xC0DE_0000 + index for index in range(len(COUNTERS))))
    await host.expect(Message.COUNTERS, b"", Code.OK, counters)
    assert await host.ask(0x33) == (Code.TYPE, struct.pack("<I", 0x33))
    await host.expect(Message.RUN, run_body(count=1, length=1), Code.NO_IMAGE, bytes(4))


@cocotb.test()
async def load(dut: Any) -> None:
    """An image arrives word for word, survives repeats and a resume, and only counts when it verifies."""
    host, engine = await connect(dut)
    chance = random.Random(seed())
    geometry = parameters()["geometry"]
    await host.expect(Message.LOAD_BEGIN, struct.pack("<5IB", geometry ^ 1, 5, 1, 0, 0, 0), Code.GEOMETRY,
                      struct.pack("<I", geometry))
    words = [(Space.PROGRAM << 28 | 8 + at, chance.getrandbits(32)) for at in range(chance.randrange(2, 40))]
    words += [(0x1000 + at, chance.getrandbits(32)) for at in range(LOAD_WORDS + chance.randrange(1, 30))]
    await host.load(words, image_id=0xABCD, base=0x1000)
    check_equal("load addresses", [address for address, _ in engine.writes], [address for address, _ in words])
    check_equal("load words", [word for _, word in engine.writes], [word for _, word in words])

    older = struct.pack("<3I", 0, *words[0])
    again = struct.pack("<2I2I", len(words) - 2, words[-2][0], words[-2][1], words[-1][1])
    loaded = struct.pack("<I", len(words))
    for repeat in (again, older):
        await host.expect(Message.LOAD_DATA, repeat, Code.OK, loaded)
    assert len(engine.writes) == len(words), "a repeated LOAD_DATA wrote again"
    await host.expect(Message.LOAD_DATA, struct.pack("<3I", len(words) + 1, 0, 0), Code.SEQUENCE, loaded)
    await host.expect(Message.LOAD_DATA, struct.pack("<3I", len(words), 0, 0), Code.RANGE, loaded)
    resumed = struct.pack("<5IB", geometry, 0xABCD, len(words), 0x1000, 77, 1)
    await host.expect(Message.LOAD_BEGIN, resumed, Code.OK, loaded)

    crc = image_crc(words)
    if seed() % 2:
        engine.memory[0x1003] ^= 1 << chance.randrange(32)
        code, _ = await host.ask(Message.LOAD_END, struct.pack("<I", crc))
        assert code == Code.MEMORY, f"an SDRAM bit flipped and LOAD_END said {code.name}"
    else:
        await host.expect(Message.LOAD_END, struct.pack("<I", crc ^ 1), Code.CRC, struct.pack("<I", crc))
    await host.expect(Message.RUN, run_body(count=1, length=1), Code.NO_IMAGE, bytes(4))

    await host.expect(Message.LOAD_BEGIN, struct.pack("<5IB", geometry, 1, 2, 0, 0, 1), Code.OK, bytes(4))
    engine.writes.clear()
    for count in (1, 2):
        overlapping = struct.pack(f"<2I{count}I", 0, words[0][0], *(word for _, word in words[:count]))
        await host.expect(Message.LOAD_DATA, overlapping, Code.OK, struct.pack("<I", count))
    assert engine.writes == words[:2], f"overlapping LOAD_DATA wrote {engine.writes}, expected {words[:2]}"
    await host.load(words, image_id=0xABCD, base=0x1000)
    await host.expect(Message.LOAD_END, struct.pack("<I", crc), Code.OK, struct.pack("<I", 0xABCD))
    assert (int(dut.stream_base.value), int(dut.stream_words.value)) == (0x1000, 77)
    _, fields = await host.ask(Message.HELLO)
    assert struct.unpack_from("<I", fields, 11) == (0xABCD,), "HELLO does not name the image"
    assert dut.leds.value == 1


@cocotb.test()
async def run(dut: Any) -> None:
    """Tokens stream in order with positions and clocks; settings reach the engine; a repeat does not run twice."""
    host, engine = await connect(dut)
    chance = random.Random(seed())
    await load_something(host)
    prompt = [chance.randrange(parameters()["vocab"]) for _ in range(chance.randrange(1, 8))]
    await set_prompt(host, prompt)
    context = parameters()["context"]
    await host.expect(Message.RUN, run_body(count=context, length=len(prompt), position=1), Code.RANGE,
                      struct.pack("<I", context))
    await host.expect(Message.PROMPT, struct.pack("<HH", 0, parameters()["vocab"]), Code.RANGE,
                      struct.pack("<I", parameters()["vocab"]))
    count, position = chance.randrange(2, 20), chance.randrange(0, 30)
    passes = len(prompt) + count - 1
    wire = host.encode(Message.RUN, run_body(count=count, length=len(prompt), position=position, mantissa=0x9000,
                                             exponent=-15, seed=1234))
    await host.send_raw(wire)
    assert await host.reply(Message.RUN) == (Code.OK, struct.pack("<H", passes))
    records, code, done = await collect_run(host)
    assert (code, done) == (Code.OK, passes), f"run ended with {code.name} after {done} of {passes} passes"
    temperature = int(dut.temperature.value)
    assert temperature == 1 << 25 | (-15 & 511) << 16 | 0x9000, f"temperature port holds {temperature:#x}"
    assert dut.seed.value == 1234
    expected, token = [], 0
    for at, (_, cycles) in enumerate(engine.passes):
        token = ((prompt[at] if at < len(prompt) else token) + 1) % parameters()["vocab"]
        expected.append((token, position + at, cycles))
    assert records == expected, f"records {records}, expected {expected}"

    await host.send_raw(wire)
    assert await host.reply(Message.RUN) == (Code.OK, struct.pack("<H", passes)), "a repeat is not answered alike"
    await Timer(200, "us")
    assert host.frames.empty() and len(engine.passes) == passes, "a repeated RUN ran again"

    engine.passes_until_stuck = 3
    await host.send_raw(host.encode(Message.RUN, run_body(count=20, length=1, timeout_us=100_000)))
    assert (await host.reply(Message.RUN))[0] == Code.OK
    await Timer(400, "us")
    while not host.frames.empty():
        await host.next_frame(Message.TOKEN)
    await host.expect(Message.PROMPT, struct.pack("<HH", 0, 0), Code.BUSY, bytes(4))
    await host.send_raw(host.encode(Message.RESET))
    assert await host.next_frame(Message.DONE) is not None
    assert (await host.reply(Message.RESET))[0] == Code.OK

    engine.passes_until_stuck, engine.pass_ns = 1 << 16, 50_000
    await set_prompt(host, prompt)
    await host.send_raw(host.encode(Message.RUN, run_body(count=50, length=1)))
    assert (await host.reply(Message.RUN))[0] == Code.OK
    await host.next_frame(Message.TOKEN)
    await host.send_raw(host.encode(Message.STOP))
    kinds = []
    while Message.DONE not in kinds:
        kind, _, body = await with_timeout(host.frames.get(), REPLY_US, "us")
        kinds.append(kind)
    assert Message.STOP | 0x80 in kinds, "STOP was not answered"
    assert body[0] == Code.STOPPED, f"DONE after STOP says {Code(body[0]).name}"


@cocotb.test()
async def broken_frames(dut: Any) -> None:
    """Corrupted, truncated, oversized and unencoded frames are NAKed and counted, and the next good one is served."""
    host, _ = await connect(dut)
    chance = random.Random(seed())
    good = host.encode(Message.STOP)
    at = chance.randrange(1, len(good) - 1)
    flipped = good[at] ^ 1 << chance.randrange(8)
    oversized = cobs.encode(bytes(chance.randrange(1, 256) for _ in range(519))) + b"\0"
    cut = 1 + chance.randrange(len(good) - 2)
    broken = [(good[:at] + bytes((flipped or 255,)) + good[at + 1:], None), (good[:cut] + b"\0", None),
              (oversized, Code.LENGTH), (b"\x05ab\0", Code.ENCODING), (b"\x03ab\0", Code.LENGTH),
              (cobs.encode(bytes(512)) + b"\0", Code.CRC)]
    for count, (raw, expected) in enumerate(broken, start=1):
        await host.send_raw(b"\0" * chance.randrange(3) + raw)
        _, body = await host.next_frame(Message.NAK)
        code, total = struct.unpack("<BI", body)
        assert total == count, f"NAK counts {total}, expected {count}, after {raw.hex()}"
        assert expected in (None, code), f"NAK says {Code(code).name}, expected {expected}, after {raw.hex()}"
        await host.expect(Message.STOP, b"", Code.OK, b"")
    await host.expect(Message.LOAD_BEGIN, bytes(20), Code.LENGTH, struct.pack("<I", 21))
    await host.expect(Message.LOAD_DATA, bytes(11), Code.LENGTH, struct.pack("<I", LOAD_WORDS))
    await host.expect(Message.PROMPT, bytes(512), Code.RANGE, struct.pack("<I", parameters()["context"]))


@cocotb.test()
async def stuck_engine(dut: Any) -> None:
    """An engine that hangs or faults is stopped, named, and works again in the next run."""
    host, engine = await connect(dut)
    await load_something(host)
    await set_prompt(host, [3, 4])
    for fault, code, detail in ((0, Code.WATCHDOG, 2), (0x2A, Code.ENGINE, 0x2A)):
        engine.passes_until_stuck, engine.fault_when_stuck = 2, fault
        await host.expect(Message.RUN, run_body(count=10, length=2, timeout_us=60), Code.OK, struct.pack("<H", 11))
        records = b""
        while len(records) < 16:
            records += (await host.next_frame(Message.TOKEN))[1]
        assert (await host.next_frame(Message.FAULT))[1] == struct.pack("<BI", code, detail)
        assert (await host.next_frame(Message.DONE))[1] == struct.pack("<BH", code, 2)
        engine.passes_until_stuck = 1 << 16
        await host.expect(Message.RUN, run_body(count=3, length=2), Code.OK, struct.pack("<H", 4))
        records, ended, passes = await collect_run(host)
        assert (ended, passes) == (Code.OK, 4), f"the run after {code.name} ended with {ended.name} after {passes}"
        assert [record[0] for record in records] == [4, 5, 6, 7]


@cocotb.test()
async def silent_memory(dut: Any) -> None:
    """MEMTEST finds the first flipped bit; an SDRAM that does not answer is reported, not waited for."""
    host, engine = await connect(dut)
    first, words = random.Random(seed()).randrange(1 << 20), 50
    test = struct.pack("<3I", first, words, seed() & 0xFFFF)
    await host.expect(Message.MEMTEST, test + b"\0", Code.OK, bytes(16))
    await host.expect(Message.MEMTEST, test + b"\1", Code.OK, bytes(16))
    assert len(set(engine.memory.values())) == words, "two words of the test hold the same pattern"
    good = engine.memory[first + 7]
    engine.memory[first + 7] ^= 16
    engine.memory[first + 9] ^= 1
    await host.expect(Message.MEMTEST, test + b"\1", Code.OK, struct.pack("<4I", 2, first + 7, good, good ^ 16))
    engine.silent = True
    await host.expect(Message.MEMTEST, test + b"\1", Code.MEMORY, struct.pack("<I", first))
    await host.expect(Message.MEMTEST, struct.pack("<3IB", 0, 8193, 0, 0), Code.RANGE, struct.pack("<I", 8192))


@cocotb.test()
async def restart(dut: Any) -> None:
    """A firmware that hangs in the middle of a run comes up again, stops the engine, says so, and keeps the image."""
    host, engine = await connect(dut)
    await load_something(host)
    await set_prompt(host, [1])
    engine.passes_until_stuck = 0
    await host.expect(Message.RUN, run_body(count=10, length=1), Code.OK, struct.pack("<H", 10))
    dut.hang.value = 1
    await Timer((1 << parameters()["watchdog_us_log2"]) * 6 * CPU_PS * 5 // 4, "ps")
    dut.hang.value = 0
    assert (await host.next_frame(Message.FAULT))[1] == struct.pack("<BI", Code.RESTART, 0)
    assert dut.run__running.value == 0, "the engine still runs after the restart"
    engine.passes_until_stuck = 1 << 16
    await set_prompt(host, [1])
    await host.expect(Message.RUN, run_body(count=3, length=1), Code.OK, struct.pack("<H", 3))
    records, code, _ = await collect_run(host)
    assert ([record[0] for record in records], code) == ([2, 3, 4], Code.OK)
    assert dut.leds.value == 0x81, f"lamps show {int(dut.leds.value):#x}, expected image and restart"
