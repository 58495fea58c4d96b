"""Runs tokens on the whole SoC through its serial port and compares every architectural value with the golden model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from amaranth.utils import ceil_log2
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge

from host.device import RUN
from host.image import Image
from host.link import Deframer, encode_frame
from host.predict import predict, run_cycles
from rtl.config import ADDRESS_BITS, Config
from rtl.csr_map import REPLY, Message, Speculation
from rtl.isa import JOINT, Op, Opcode, Target
from rtl.timing import SDRAM_CLOCKS
from sim.drafter import drafter_of
from sim.fixed import Scalar
from sim.golden import Golden
from sim.soc.top import BIT_CYCLES, CPU_DIVIDER
from sim.token_loop import Pass, TokenLoop
from tests.bench import parameters

ENGINE_PS = 15_000
STREAM_MARGIN = 16         # cycles of a run that the level of the prefetch queue, a fraction, is off


def lanes_of(value: int, bits: int, count: int) -> list[int]:
    """Signed elements of a packed value, first element lowest."""
    sign, mask = 1 << bits - 1, (1 << bits) - 1
    return [((value >> bits * i & mask) ^ sign) - sign for i in range(count)]


@dataclass
class Seen:
    """What one operation was seen to write; ``slot`` that it was issued for, 0 where it serves all."""

    index: int
    op: Op
    slot: int
    accepted: int
    values: dict[int, list[int]] = field(default_factory=dict)
    last_busy: int = 0


class Watch:
    """Follows one unit: which operation it works on and what it writes.

    Parameters
    ----------
    dut : handle of the top.
    unit : its name.
    streams : its operation streams by opcode.
    ports : (name, bits, elements, address of the first) of the ports the unit writes.
    """

    def __init__(self, dut: Any, unit: str, streams: dict[Opcode, str], ports: list[tuple[str, int, int, int]]) -> None:
        self.taken = {opcode: getattr(dut, f"{unit}_{name}_taken") for opcode, name in streams.items()}
        self.busy = getattr(dut, f"{unit}_busy")
        self.ports = [(getattr(dut, f"{unit}_{name}_enable"), getattr(dut, f"{unit}_{name}_data"),
                       getattr(dut, f"{unit}_{name}_address", None), getattr(dut, f"{unit}_{name}_part", None), bits,
                       count, first) for name, bits, count, first in ports]
        self.done: list[Seen] = []
        self.current: Seen | None = None

    def sample(self, cycle: int, next_op: Iterator[tuple[int, Op, int]]) -> None:
        """Look at this cycle's signals."""
        if self.current and self.busy.value:
            self.current.last_busy = cycle
            for enable, data, address, part, bits, count, first in self.ports:
                if enable.value:
                    at = first + int(address.value) if address is not None else len(self.current.values)
                    if part is not None:
                        at = at * len(part) + int(part.value).bit_length() - 1
                    self.current.values[at] = lanes_of(int(data.value), bits, count)
        for opcode, taken in self.taken.items():
            if taken.value:
                index, op, slot = next(next_op, (None, None, 0))
                assert op, f"{opcode.name} was issued after the end of the pass"
                assert op.opcode == opcode, f"operation {index} is {op}, the {opcode.name} stream took it"
                self.current = Seen(index, op, slot, cycle)
                self.done.append(self.current)


class Uart:
    """The host's end of the serial line, in CPU cycles."""

    def __init__(self, dut: Any) -> None:
        self.dut, self.deframer, self.frames = dut, Deframer(), []

    async def send(self, data: bytes) -> None:
        """Shift bytes out, 8N1."""
        for byte in data:
            for bit in [0, *(byte >> i & 1 for i in range(8)), 1]:
                self.dut.uart_rx.value = bit
                for _ in range(BIT_CYCLES):
                    await RisingEdge(self.dut.cpu_clk)

    async def receive(self) -> None:
        """Collect frames for ever."""
        while True:
            await RisingEdge(self.dut.cpu_clk)
            if self.dut.uart_tx.value:
                continue
            byte = 0
            for bit in range(8):
                for _ in range(BIT_CYCLES if bit else BIT_CYCLES + BIT_CYCLES // 2):
                    await RisingEdge(self.dut.cpu_clk)
                byte |= int(self.dut.uart_tx.value) << bit
            for _ in range(BIT_CYCLES):
                await RisingEdge(self.dut.cpu_clk)
            self.frames += self.deframer.feed(bytes([byte]))


def expected_writes(config: Config, op: Op, slot: int, written: np.ndarray) -> dict[int, list[int]]:
    """The writes by port address that the golden model's values stand for."""
    beats = slot << ADDRESS_BITS        # the slot's number leads the addresses of its beats
    if op.opcode == Opcode.MATVEC and config.slots == 1:
        first, step = op.dst * config.lanes // config.part, config.rows // config.part
        rows = written.reshape(-1, config.rows)
        return {first + step * group: row.tolist() for group, row in enumerate(rows)}
    if op.opcode == Opcode.MATVEC:
        return {beats + op.dst + beat: row.tolist() for beat, row in enumerate(written.reshape(-1, config.lanes))}
    if op.opcode == Opcode.VECTOR and op.target in (Target.KEY, Target.VALUE):
        return {beat: row.tolist() for beat, row in enumerate(written)}
    if op.opcode == Opcode.VECTOR and op.target == Target.NONE:
        return {}
    if op.opcode == Opcode.VECTOR and op.target == Target.ACTIVATION:
        beats = slot << ceil_log2(config.activation_depth)
    if op.opcode == Opcode.VECTOR and op.target == Target.QUERY:
        beats = 0                       # one slot after the other uses these registers
    return {beats + op.dst + beat: row.tolist() for beat, row in enumerate(written)}


def compare(token: str, seen: Seen, got: dict[int, list[int]], expected: dict[int, list[int]]) -> None:
    """Fails with token, operation, address, lane and both values."""
    where = f"{token} operation {seen.index} {seen.op}"
    assert set(got) == set(expected), f"{where}: wrote {sorted(got)}, golden {sorted(expected)}"
    for address, row in expected.items():
        for lane, (value, want) in enumerate(zip(got[address], row, strict=True)):
            assert value == want, f"{where}: address {address} lane {lane}: got {value}, golden {want}"


def compare_pass(golden: Golden, taken: Pass, watches: list[Watch]) -> tuple[list[int], list[list[int]]]:
    """Compare everything that a pass wrote, slot after slot.

    Returns the golden samples, 0 where there is none, and the states of the noise before each.
    """
    seen = {(item.index, item.slot): item for watch in watches for item in watch.done}
    ops = (Opcode.MATVEC, Opcode.VECTOR, Opcode.EMBED)
    samples, states = [], []
    for slot, token in enumerate(taken.tokens):
        where = f"token {taken.position + slot} slot {slot}"
        states.append(list(golden.noise))
        for index, op, written in golden.trace(token, taken.position + slot, reads=taken.reads,
                                               samples=taken.samples(slot)):
            joint = op.opcode in JOINT
            if op.opcode in ops or op.opcode == Opcode.SAMPLE and taken.samples(slot):
                item = seen.get((index, 0 if joint else slot))
                assert item, f"{where} operation {index} {op} was never issued"
            if op.opcode not in ops:
                continue
            got = item.values
            if joint and golden.config.slots > 1:
                got = {at: row for at, row in got.items() if at >> ADDRESS_BITS == slot}
            compare(where, item, got, expected_writes(golden.config, op, slot, written))
        samples.append(golden.sampled if taken.samples(slot) else 0)
    return samples, states


def check_writers(dut: Any, config: Config, cycle: int) -> None:
    """The first bank of vector memory has one writer at a time, and none writes beyond it."""
    writers = [port for port in ("engine_write", "vector_memory_write") if getattr(dut, f"{port}_enable").value]
    assert len(writers) < 2, f"cycle {cycle}: engine and vector unit write the same bank"
    for port in writers:
        address = int(getattr(dut, f"{port}_address").value) & (1 << ADDRESS_BITS) - 1
        assert address < config.engine_beats, f"cycle {cycle}: {port} of beat {address}, which is in the second bank"


async def power_up(dut: Any) -> Uart:
    """Start clocks, reset, and wait until the firmware listens."""
    dut.uart_rx.value = 1
    for name, period in (("", ENGINE_PS), ("cpu_", CPU_DIVIDER * ENGINE_PS), ("sdram_", int(ENGINE_PS / SDRAM_CLOCKS))):
        if hasattr(dut, f"{name}clk"):
            getattr(dut, f"{name}rst").value = 1
            Clock(getattr(dut, f"{name}clk"), period, unit="ps").start()
    for _ in range(20):
        await RisingEdge(dut.cpu_clk)
    for name in ("", "cpu_", "sdram_"):
        if hasattr(dut, f"{name}rst"):
            getattr(dut, f"{name}rst").value = 0
    uart = Uart(dut)
    cocotb.start_soon(uart.receive())
    for _ in range(4000):
        await RisingEdge(dut.cpu_clk)
    return uart


def watches_of(dut: Any, config: Config) -> list[Watch]:
    """One for each unit."""
    vector_ports = [("memory_write", 18, config.lanes, 0), ("bank_write", 18, config.lanes, config.engine_beats),
                    *((name, 8, config.lanes, 0) for name in ("activation", "query", "cache"))]
    return [
        Watch(dut, "engine", {Opcode.MATVEC: "op"},
              [("write", 18, config.rows if config.slots == 1 else config.lanes, 0)]),
        Watch(dut, "vector", {Opcode.VECTOR: "op", Opcode.EMBED: "embed"}, vector_ports),
        Watch(dut, "scalar", {Opcode.SCALAR: "op"}, []),
        Watch(dut, "attention", {Opcode.ATTEND: "op"}, []),     # its beats show in the operation that reads them
        Watch(dut, "sampler", {Opcode.SAMPLE: "op"}, []),
        Watch(dut, "rotary", {Opcode.ROTARY: "op"}, []),
    ]


async def run_requests(dut: Any, uart: Uart, temperature: Scalar | None) -> None:
    """Ask for every run of the test as soon as the one before is done."""
    p = parameters()
    for done in range(p["runs"]):
        while sum(frame.kind == Message.DONE for frame in uart.frames) < done:
            await RisingEdge(dut.cpu_clk)
        sequence = 2 * done + 1
        tokens = np.array(p["prompt"], "<u2")
        await uart.send(b"\0" + encode_frame(Message.PROMPT, sequence, b"\0\0" + tokens.tobytes()))
        replies = []
        for _ in range(20000):
            await RisingEdge(dut.cpu_clk)
            replies = [frame for frame in uart.frames
                       if (frame.kind, frame.sequence) == (Message.PROMPT | REPLY, sequence)]
            if replies:
                break
        assert replies and replies[0].body[0] == 0, f"PROMPT: {uart.frames}"
        scale = (temperature.mantissa, temperature.exponent) if temperature else (0, 0)
        body = RUN.pack(p["count"], p["position"], *scale, p["seed"], 0, len(tokens), p["speculation"])
        await uart.send(encode_frame(Message.RUN, sequence + 1, body))


@cocotb.test()
async def tokens_equal_golden(dut: Any) -> None:
    """Any value anywhere that differs from the golden model, and any cycle that the compiler did not predict."""
    p = parameters()
    image = Image.load(Path(p["image"]))
    config, prompt, count, first = image.config, p["prompt"], p["count"], p["position"]
    temperature = Scalar.from_float(p["temperature"]) if p["temperature"] else None
    golden = Golden(image)
    golden.reset(seed=p["seed"], temperature=temperature)

    uart = await power_up(dut)
    watches = watches_of(dut, config)
    cocotb.start_soon(run_requests(dut, uart, temperature))
    length = len(prompt) + count - 1
    drafter = drafter_of(image, Speculation(p["speculation"]))
    loop: TokenLoop | None = None
    cycle, waited = 0, 0
    tokens: list[int] = []
    measured: list[int] = []
    passes: list[tuple[Pass, int]] = []
    while len(tokens) < p["runs"] * length:
        await RisingEdge(dut.clk)
        await ReadOnly()
        cycle += 1
        if not dut.running.value:
            waited += 1
            assert waited < 200_000, f"the run did not start or ended early: frames {uart.frames}"
            continue
        waited = 0
        if loop is None:
            loop = TokenLoop(slots=config.slots, context=config.context, prompt=prompt, tokens=length, position=first,
                             drafter=drafter)
            taken, records = loop.begin(), None
            expected = issued(image.program, taken)
        for watch in watches:
            watch.sample(cycle, expected)
        check_writers(dut, config, cycle)
        if not dut.finished.value:
            continue
        if records is None:
            samples, states = compare_pass(golden, taken, watches)
            records = loop.end(taken, samples)
            kept = len(records)
            golden.noise = [*states, golden.noise][kept]
        record, = records[:1]
        got = int(dut.record_token.value), int(dut.record_position.value)
        assert got == (record.token, record.position), f"record {got}, golden {record}"
        tokens.append(record.token)
        records.pop(0)
        if records:
            continue
        measured.append(int(dut.cycles.value))
        passes.append((taken, kept))
        if config.weight_source == "ebr":
            prediction = predict(config, image.program, taken.position, greedy=temperature is None)
            timeline = [(item.index, item.op.opcode.name, item.last_busy - item.accepted,
                         prediction.done[item.index] - prediction.issue[item.index] - 1)
                        for watch in watches for item in watch.done]
            wrong = [entry for entry in timeline if entry[2] != entry[3]]
            assert not wrong, f"position {taken.position}: (operation, name, busy, predicted) {wrong[:5]}"
            assert measured[-1] == prediction.cycles, f"position {taken.position}: {measured[-1]}, {prediction.cycles}"
        for watch in watches:
            watch.done.clear()
            watch.current = None
        taken, records = loop.begin(), None
        if taken is None:
            loop = None
        else:
            expected = issued(image.program, taken)
    if config.weight_source == "sdram":
        # The first pass finds the prefetch queue empty.
        predicted = run_cycles(config, image.program, passes, greedy=temperature is None, speculates=bool(drafter))
        lost = sum(measured[1:]) - sum(predicted[1:])
        refresh = float(int(dut.refresh_cycles.value) / SDRAM_CLOCKS)
        assert 0 <= lost <= refresh + STREAM_MARGIN, f"{lost} cycles above the prediction, {refresh} of refresh"
    if drafter:
        assert len(passes) < len(tokens), "no draft was what the model said"
    cocotb.log.info(f"{len(tokens)} tokens equal golden: {tokens}; cycles {measured}")


def issued(program: list[Op], taken: Pass) -> Iterator[tuple[int, Op, int]]:
    """The operations of a pass that units see, in the order of issue."""
    return ((index, op, slot) for index, op, slot in taken.operations(program)
            if op.opcode not in (Opcode.END, Opcode.SECTION) and (op.opcode != Opcode.SAMPLE or taken.samples(slot)))
