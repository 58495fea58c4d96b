"""The simulator process: building, the serial pins, waveforms, and every way to end."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import serial
from amaranth.back import rtlil
from amaranth.hdl import ClockSignal, DomainRenamer, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from host.device import Device, TokenEvent
from host.errors import TritloomError
from host.generated_verilog import split_memories, start_constants
from host.image import Space
from host.link import SIMULATION_PACE, Link, RefusedError, SerialTransport
from host.shared_modules import share_modules
from host.verilated import Model, SimulatedProcess
from rtl.csr_map import COUNTERS
from tests.small_image import SmallImage
from tests.stub_soc import BIT_CYCLES, CONTEXT, GEOMETRY, IMAGE_ID, PASS_CYCLES, VOCAB, StubSoc

STUCK_AT = 40
BUILD = Path(__file__).resolve().parent.parent / "build" / "tests" / "simulator"
GUARD = """\
module guard(input clk, input level);
    always @(posedge clk)
        if (!level && $test$plusargs("guard")) $fatal(1, "guard: the line went low");
endmodule
"""


class Delay(wiring.Component):
    """Two registers on an idle-high line."""

    i: In(1, init=1)
    o: Out(1, init=1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first = Signal(init=1)
        m.d.sync += [first.eq(self.i), self.o.eq(first)]
        return m


class Echo(wiring.Component):
    """Returns the serial line to the host, register by register; a guard watches it when ``+guard`` asks for it."""

    uart_rx: In(1, init=1)
    uart_tx: Out(1, init=1)
    leds: Out(8)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=8, depth=16, init=range(100, 116))
        lamps = memory.read_port()
        m.d.comb += [lamps.addr.eq(self.leds), self.leds.eq(lamps.data)]
        line = self.uart_rx
        for index in range(3):
            delay = DomainRenamer("cpu")(Delay())
            m.submodules[f"delay_{index}"] = delay
            m.d.comb += delay.i.eq(line)
            line = delay.o
        m.d.comb += self.uart_tx.eq(line)
        m.submodules.guard = Instance("guard", i_clk=ClockSignal("cpu"), i_level=line)
        return m


def build(*, trace: bool = False) -> Path:
    BUILD.mkdir(parents=True, exist_ok=True)
    guard = BUILD / "guard.v"
    guard.write_text(GUARD)
    return Model(name="echo", top=Echo(), sources=[guard], trace=trace).build(folder=BUILD)


def exchange(process: SimulatedProcess, data: bytes) -> bytes:
    with serial.Serial(process.port, 3_000_000, timeout=10) as port:
        port.write(data)
        return port.read(len(data))


@pytest.mark.parametrize(("bit_cycles", "cpu_divider"), [(2, 1), (8, 2), (13, 3)])
def test_bytes_pass_both_ways(bit_cycles: int, cpu_divider: int) -> None:
    """Each value of a byte, so that no bit is swapped or lost; more than the terminal's buffer in one go."""
    data = bytes(range(256)) * 20
    with SimulatedProcess(build(), bit_cycles=bit_cycles, cpu_divider=cpu_divider) as process:
        received = exchange(process, data)
    assert len(received) == len(data), f"{len(received)} of {len(data)} bytes came back"
    wrong = [(index, sent, back) for index, (sent, back) in enumerate(zip(data, received, strict=True)) if sent != back]
    assert not wrong, f"byte {wrong[0][0]}: sent {wrong[0][1]:#04x}, received {wrong[0][2]:#04x}"


def test_equal_blocks_are_compiled_once() -> None:
    """Two of three delays share a module (the first has a port of another name), and bytes passed through all three."""
    text = rtlil.convert(Echo(), name="top", emit_src=False)
    assert text.count("\nmodule \\top.delay") == 3
    shared = share_modules(text)
    assert shared.count("\nmodule \\top.delay") == 2
    assert shared.count("cell \\top.delay_1 ") == 2


def test_memory_contents_move_to_files() -> None:
    verilog = "  initial begin\n    m[0] = 8'h1f;\n    m[3] = 8'h02;\n  end\n  initial begin\n    r = 1'h0;\n  end\n"
    text, files = split_memories(verilog)
    assert text == '  initial $readmemh("memory_0.hex", m);\n  initial begin\n    r = 1\'h0;\n  end\n'
    assert files == {"memory_0.hex": "@0 1f\n@3 02\n"}


def test_constant_bits_get_their_value() -> None:
    """The simulator never runs a process that reads nothing, so such bits would be zero whatever their value."""
    assert start_constants("  always @*\n    x[4:3] = 2'h2;\n") == "  initial\n    x[4:3] = 2'h2;\n"
    reading = "  always @*\n    x = y;\n"
    assert start_constants(reading) == reading


def test_build_is_reused() -> None:
    first = build()
    modified = first.stat().st_mtime_ns
    assert build() == first
    assert first.stat().st_mtime_ns == modified


def test_process_ends_when_the_peer_closes() -> None:
    with SimulatedProcess(build(), bit_cycles=8, cpu_divider=1) as process:
        assert exchange(process, b"x") == b"x"
        child = process.process
        child.wait(5)
        assert child.returncode == 0


def test_leaving_ends_the_process() -> None:
    with SimulatedProcess(build(), bit_cycles=8, cpu_divider=1) as process:
        child = process.process
        assert child.poll() is None
    assert child.returncode == 0, "SIGTERM is an orderly end"


def test_max_cycles_ends_the_process() -> None:
    with pytest.raises(TritloomError, match="stopped after 10[0-9]{3} cycles"):
        with SimulatedProcess(build(), bit_cycles=8, cpu_divider=1, max_cycles=10_000) as process:
            process.process.wait(10)


def test_killed_process_is_reported() -> None:
    with pytest.raises(TritloomError, match="the simulated chip stopped"):
        with SimulatedProcess(build(), bit_cycles=8, cpu_divider=1) as process:
            os.kill(process.process.pid, signal.SIGKILL)
            process.process.wait(5)


def test_stop_by_the_design_reaches_the_user(tmp_path: Path) -> None:
    """A rule of a chip model that breaks must not look like a silent line, and must not cost the waveform's end."""
    waveform = tmp_path / "wave.vcd"
    with pytest.raises(TritloomError, match="the simulated chip stopped: .*guard: the line went low"):
        with SimulatedProcess(build(trace=True), bit_cycles=8, cpu_divider=1, plusargs=["+guard"],
                              trace=waveform) as process:
            exchange(process, b"x")
    text = waveform.read_text()
    assert "uart_rx" in text
    times = [int(line[1:]) for line in text.splitlines() if line.startswith("#")]
    assert len(times) > 64, f"only {len(times)} time steps were written"


def test_bad_option_is_refused() -> None:
    result = subprocess.run([build(), "--bit-cycles", "1"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "--bit-cycles must be at least 2\n")


def test_design_that_does_not_build_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.v"
    broken.write_text("module guard(input clk, input level); syntax error\n")
    model = Model(name="broken", top=Echo(), sources=[broken])
    with pytest.raises(TritloomError, match="building the simulator failed: .*syntax error") as caught:
        model.build(folder=tmp_path)
    assert "\n" not in str(caught.value)


def test_simulator_runs_freely() -> None:
    """The process must not wait for the host: a design of a few gates passes a million cycles in a second or so."""
    start = time.monotonic()
    with pytest.raises(TritloomError, match="stopped after"):
        with SimulatedProcess(build(), bit_cycles=8, cpu_divider=1, max_cycles=1_000_000) as process:
            process.process.wait(30)
    assert time.monotonic() - start < 30


@pytest.fixture(scope="module")
def stub() -> Path:
    """CPU, firmware and registers with a core of a few gates that sticks at position 40."""
    return Model(name="stub", top=StubSoc(stuck_at=STUCK_AT), sources=StubSoc.sources).build(folder=BUILD)


@contextmanager
def connected(executable: Path) -> Iterator[Device]:
    with SimulatedProcess(executable, bit_cycles=BIT_CYCLES, cpu_divider=2) as process:
        with Link(SerialTransport(process.port), pace=SIMULATION_PACE) as link:
            yield Device(link)


def expected_run(prompt: list[int], count: int) -> list[TokenEvent]:
    events, token = [], 0
    for position in range(len(prompt) + count - 1):
        token = ((prompt[position] if position < len(prompt) else token) + position + 1) % VOCAB
        events.append(TokenEvent(token, position, PASS_CYCLES + position, position >= len(prompt) - 1))
    return events


class TestFirmware:
    """The host's tools against the real firmware on the real CPU, pin by pin."""

    def test_device_introduces_itself(self, stub: Path) -> None:
        with connected(stub) as device:
            hello = device.hello
            assert (hello.geometry, hello.image_id, hello.context, hello.vocab) == (GEOMETRY, IMAGE_ID, CONTEXT, VOCAB)
            assert not hello.streams
            assert device.counters() == {name: 100 + index for index, name in enumerate(COUNTERS)}

    @pytest.mark.parametrize(("prompt", "count"), [([1], 1), ([1, 5, 9], 30), (list(range(10, 40)), 8)])
    def test_run(self, stub: Path, prompt: list[int], count: int) -> None:
        with connected(stub) as device:
            assert list(device.run(prompt, count)) == expected_run(prompt, count)
            assert (device.link.retries, device.link.damaged, device.link.lost) == (0, 0, 0)

    def test_stuck_engine_is_reset_and_works_again(self, stub: Path) -> None:
        with connected(stub) as device:
            events = []
            with pytest.raises(RefusedError, match=f"made no progress .*detail {STUCK_AT:#x}"):
                events.extend(device.run([1], 60, timeout_us=2000))
            assert list(device.run([7], 20)) == expected_run([7], 20)

    def test_closing_a_run_stops_it(self, stub: Path) -> None:
        with connected(stub) as device:
            run = device.run([3], 39)
            assert next(run) == expected_run([3], 1)[0]
            run.close()
            assert not device.greet().state
            assert list(device.run([7], 20)) == expected_run([7], 20)

    def test_image_is_loaded_and_verified(self, stub: Path) -> None:
        with connected(stub) as device:
            image = SmallImage(image_id=88, geometry=GEOMETRY, stream_words=0, prompt_words=0, weights=Space.WEIGHTS)
            assert device.load(image)
            assert device.hello.image_id == 88
            assert not device.load(image)

    def test_noise_on_the_line_is_survived(self, stub: Path) -> None:
        """Damaged bytes before a request cost a NAK and a repetition, nothing else."""
        seed = 5
        print(f"seed {seed}")
        source = random.Random(seed)
        with connected(stub) as device:
            for _ in range(20):
                device.link._transport.write(source.randbytes(source.randrange(1, 50)) + b"\0")
                assert device.counters()["cycles"] == 100
            assert device.greet().undecodable >= 20
            assert list(device.run([7], 20)) == expected_run([7], 20)
