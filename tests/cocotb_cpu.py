"""The link protocol of the firmware, over the pins, with the engine played by coroutines."""

import random
import struct
from typing import Any

import cocotb
from cobs import cobs
from cocotb.triggers import Timer, with_timeout

from rtl.csr_map import COUNTERS, FIRMWARE_VERSION, LOAD_WORDS, PROTOCOL_VERSION, Code, Message, Space, Speculation
from tests.bench import check_equal, parameters, seed
from tests.link_bench import CPU_PS, REPLY_US, collect_run, connect, image_crc, load_something, run_body, set_prompt


@cocotb.test()
async def hello(dut: Any) -> None:
    """Every field of HELLO, and the counters in order; unknown types are refused by name."""
    host, _ = await connect(dut)
    p = parameters()
    fields = struct.pack("<BHIIIIHHB5I", PROTOCOL_VERSION, FIRMWARE_VERSION, p["geometry"], 1, 0, 100_000_000,
                         p["context"], p["vocab"], 0, 0, 0, 0, 0, 0)
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
    await host.expect(Message.LOAD_BEGIN, struct.pack("<6IB", geometry ^ 1, 5, 1, 0, 0, 0, 0), Code.GEOMETRY,
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
    resumed = struct.pack("<6IB", geometry, 0xABCD, len(words), 0x1000, 77, 55, 1)
    await host.expect(Message.LOAD_BEGIN, resumed, Code.OK, loaded)

    crc = image_crc(words)
    if seed() % 2:
        engine.memory[0x1003] ^= 1 << chance.randrange(32)
        code, _ = await host.ask(Message.LOAD_END, struct.pack("<I", crc))
        assert code == Code.MEMORY, f"an SDRAM bit flipped and LOAD_END said {code.name}"
    else:
        await host.expect(Message.LOAD_END, struct.pack("<I", crc ^ 1), Code.CRC, struct.pack("<I", crc))
    await host.expect(Message.RUN, run_body(count=1, length=1), Code.NO_IMAGE, bytes(4))

    await host.expect(Message.LOAD_BEGIN, struct.pack("<6IB", geometry, 1, 2, 0, 0, 0, 1), Code.OK, bytes(4))
    engine.writes.clear()
    for count in (1, 2):
        overlapping = struct.pack(f"<2I{count}I", 0, words[0][0], *(word for _, word in words[:count]))
        await host.expect(Message.LOAD_DATA, overlapping, Code.OK, struct.pack("<I", count))
    assert engine.writes == words[:2], f"overlapping LOAD_DATA wrote {engine.writes}, expected {words[:2]}"
    await host.load(words, image_id=0xABCD, base=0x1000)
    await host.expect(Message.LOAD_END, struct.pack("<I", crc), Code.OK, struct.pack("<I", 0xABCD))
    assert (int(dut.stream_base.value), int(dut.stream_words.value), int(dut.prompt_words.value)) == (0x1000, 77, 55)
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
    await host.expect(Message.RUN, run_body(count=1, length=len(prompt), speculation=max(Speculation) + 1), Code.RANGE,
                      struct.pack("<I", max(Speculation)))
    await host.expect(Message.PROMPT, struct.pack("<HH", 0, parameters()["vocab"]), Code.RANGE,
                      struct.pack("<I", parameters()["vocab"]))
    count, position = chance.randrange(2, 20), chance.randrange(0, 30)
    passes = len(prompt) + count - 1
    wire = host.encode(Message.RUN, run_body(count=count, length=len(prompt), position=position, mantissa=0x9000,
                                             exponent=-15, seed=1234, speculation=Speculation.DRAFT))
    await host.send_raw(wire)
    assert await host.reply(Message.RUN) == (Code.OK, struct.pack("<H", passes))
    records, code, done = await collect_run(host)
    assert (code, done) == (Code.OK, passes), f"run ended with {code.name} after {done} of {passes} passes"
    temperature = int(dut.temperature.value)
    assert temperature == 1 << 25 | (-15 & 511) << 16 | 0x9000, f"temperature port holds {temperature:#x}"
    assert dut.seed.value == 1234
    assert dut.run__speculation.value == Speculation.DRAFT
    assert dut.run__prompt_passes.value == (len(prompt) - 1) // parameters()["slots"]
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
    await host.expect(Message.LOAD_BEGIN, bytes(24), Code.LENGTH, struct.pack("<I", 25))
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
