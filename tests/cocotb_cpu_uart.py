"""UART receiver and transmitter against a line of exact picoseconds."""

import random
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge, Timer

from tests.bench import StreamDriver, StreamMonitor, check_equal, parameters, seed, start


async def send_byte(rx: Any, byte: int, bit_ps: int, *, stop: int = 1) -> None:
    """Put one byte on a line."""
    for level in (0, *(byte >> bit & 1 for bit in range(8)), stop):
        rx.value = level
        await Timer(bit_ps, "ps")


async def receive_byte(tx: Any, bit_ps: int) -> int:
    """Take one byte off a line, sampling the middle of each bit."""
    await FallingEdge(tx)
    await Timer(bit_ps // 2, "ps")
    assert not tx.value, "start bit shorter than half a bit"
    byte = 0
    for bit in range(8):
        await Timer(bit_ps, "ps")
        byte |= int(tx.value) << bit
    await Timer(bit_ps, "ps")
    assert tx.value, f"no stop bit after byte {byte:#x}"
    return byte


@cocotb.test()
async def receive(dut: Any) -> None:
    """Bytes sent 2 % too slow or too fast, back to back or apart, all arrive; a glitch starts no byte."""
    bit_ps, chance = parameters()["bit_ps"], random.Random(seed())
    dut.rx.value = 1
    StreamDriver(dut, "i")
    monitor = StreamMonitor(dut, "o", pattern="random", seed=seed())
    await start(dut)
    sent = [chance.randrange(256) for _ in range(60)]
    taking = cocotb.start_soon(monitor.receive(len(sent), timeout_cycles=bit_ps * 20 * len(sent) // 10_000))
    for byte in sent:
        await send_byte(dut.rx, byte, round(bit_ps * chance.choice((0.98, 1, 1.02))))
        if chance.random() < 0.3:
            await Timer(chance.randrange(1, 3 * bit_ps), "ps")
        if chance.random() < 0.3:
            await Timer(bit_ps, "ps")
            dut.rx.value = 0
            await Timer(10_000, "ps")
            dut.rx.value = 1
            await Timer(2 * bit_ps, "ps")
    check_equal("received bytes", await taking, sent)
    assert dut.overruns.value == 0, f"{int(dut.overruns.value)} overruns"


@cocotb.test()
async def receive_overrun(dut: Any) -> None:
    """A full queue drops the newest bytes and counts them; a byte without stop bit is dropped silently."""
    bit_ps = parameters()["bit_ps"]
    dut.rx.value = 1
    StreamDriver(dut, "i")
    monitor = StreamMonitor(dut, "o")
    await start(dut)
    for byte in range(16):
        await send_byte(dut.rx, byte, bit_ps, stop=int(byte != 7))
        dut.rx.value = 1
        await Timer(2 * bit_ps, "ps")
    for byte in range(0x80, 0x84):
        await send_byte(dut.rx, byte, bit_ps)
    await Timer(bit_ps, "ps")
    got = await monitor.receive(16, timeout_cycles=100)
    check_equal("received bytes", got, [byte for byte in range(16) if byte != 7] + [0x80])
    assert dut.overruns.value == 3, f"{int(dut.overruns.value)} overruns, expected 3"


@cocotb.test()
async def transmit(dut: Any) -> None:
    """Bytes leave in order, ten bit times each when none waits; the mean bit is right to a sixteenth of a clock."""
    bit_ps, chance = parameters()["bit_ps"], random.Random(seed())
    dut.rx.value = 1
    driver = StreamDriver(dut, "i")
    StreamMonitor(dut, "o")
    await start(dut)
    sent = [chance.randrange(256) for _ in range(40)]
    cocotb.start_soon(driver.send(sent))
    check_equal("sent bytes", [await receive_byte(dut.tx, bit_ps) for _ in sent], sent)
    for _ in range(3 * bit_ps // 10_000):
        await RisingEdge(dut.clk)
        assert dut.tx.value, "the line is not idle after the last byte"
