"""What the tests of the firmware stand on: a host at the end of the line, and an engine played by coroutines."""

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

from rtl.csr_map import COUNTERS, LOAD_WORDS, Code, Message, Space
from tests.bench import parameters, seed, start
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
        body = struct.pack("<6IB", parameters()["geometry"], image_id, len(words), base, 77, 55, 0)
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
             timeout_us: int = 0, speculation: int = 0) -> bytes:
    return struct.pack("<HHHhIIHH", count, position, mantissa, exponent, seed, timeout_us, length, speculation)


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
