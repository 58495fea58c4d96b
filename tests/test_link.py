"""The host's end of the link against a device in a thread, on good and on bad lines."""

import os
import random
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cobs import cobs

from host.device import Device, MemoryFault, TokenEvent, watchdog_us
from host.errors import TritloomError
from host.image import Space as ImageSpace
from host.link import Deframer, Frame, Link, LinkError, Pace, RefusedError, SerialTransport, decode_frame, encode_frame
from rtl.csr_map import COUNTERS, Code, Message, Space
from sim.fixed import Scalar
from tests.fake_device import FakeDevice, count_up

FAST = Pace(reply_seconds=0.1, verify_seconds=0.5, word_seconds=1e-4, event_seconds=0.3, attempts=4)


@dataclass(frozen=True)
class SmallImage:
    """As much of an image as loading looks at."""

    image_id: int = 77
    geometry: int = 0x1234
    stream_words: int = 300
    prompt_words: int = 200
    weights: ImageSpace = ImageSpace.SDRAM

    def load_words(self) -> list[tuple[ImageSpace, int, np.ndarray]]:
        return [(ImageSpace.PROGRAM, 0, np.arange(12, dtype=np.uint32)),
                (self.weights, 0, np.arange(1000, 1300, dtype=np.uint32) * 0x9E37),
                (ImageSpace.ROTARY, 64, np.arange(1, dtype=np.uint32))]


def connect(device: FakeDevice, pace: Pace = FAST) -> Link:
    return Link(SerialTransport(device.port), pace=pace)


def expected_run(prompt: list[int], count: int, position: int = 0) -> list[TokenEvent]:
    events, token = [], 0
    for index in range(len(prompt) + count - 1):
        token = count_up(prompt[index] if index < len(prompt) else token, position + index)
        events.append(TokenEvent(token, position + index, 1000 + position + index, index >= len(prompt) - 1))
    return events


class TestFrames:
    def test_layout(self) -> None:
        """Byte for byte what docs/protocol.md says."""
        frame = bytes([0x06, 0xFE, 1, 0, 2])
        wire = b"\0" + cobs.encode(frame + zlib.crc32(frame).to_bytes(4, "little")) + b"\0"
        assert encode_frame(0x06, 0xFE, b"\x01\x00\x02") == wire
        assert decode_frame(wire[1:-1]) == Frame(0x06, 0xFE, b"\x01\x00\x02")

    def test_too_long_a_body_is_refused(self) -> None:
        with pytest.raises(ValueError, match="513"):
            encode_frame(1, 0, bytes(513))

    @pytest.mark.parametrize("seed", range(20))
    def test_resynchronises_after_damage(self, seed: int) -> None:
        """Whatever happens to frames in between, a whole frame between delimiters gets through, once, in order."""
        print(f"seed {seed}")
        source = random.Random(seed)
        wire, wanted = b"", []
        for sequence in range(60):
            body = source.randbytes(source.choice((0, 1, 7, 253, 254, 255, 512)))
            frame = Frame(source.randrange(256), sequence, body)
            encoded = bytearray(encode_frame(frame.kind, frame.sequence, frame.body))
            damage = source.choice(("none", "none", "flip", "cut", "noise", "long"))
            if damage == "flip":
                encoded[source.randrange(1, len(encoded) - 1)] ^= 1 << source.randrange(8)
            elif damage == "cut":
                del encoded[source.randrange(1, len(encoded) - 2):]
            elif damage == "noise":
                encoded[:0] = source.randbytes(source.randrange(1, 40))
            elif damage == "long":
                encoded[:0] = bytes(source.randrange(1, 256) for _ in range(source.randrange(600, 3000)))
            if damage in ("none", "noise", "long"):
                wanted.append(frame)
            wire += encoded
        deframer, received = Deframer(), []
        while wire:
            size = source.randrange(1, 700)
            received += deframer.feed(wire[:size])
            wire = wire[size:]
        assert received == wanted
        assert deframer.damaged > 0

    def test_memory_stays_bounded_without_delimiters(self) -> None:
        deframer = Deframer()
        for _ in range(1000):
            assert deframer.feed(b"\x55" * 1000) == []
        assert len(deframer._pending) <= 1000
        assert deframer.feed(b"\0" + encode_frame(1, 2)) == [Frame(1, 2, b"")]


class TestRequests:
    def test_hello(self) -> None:
        with FakeDevice(geometry=0xABCD, image_id=5, streams=True) as device, connect(device) as link:
            hello = Device(link).hello
        assert (hello.geometry, hello.image_id, hello.streams, hello.context) == (0xABCD, 5, True, 256)
        assert hello.firmware_version == "1.0"

    def test_lost_request_is_repeated(self) -> None:
        with FakeDevice(deaf_to=2) as device, connect(device) as link:
            Device(link)
            assert link.retries == 2

    def test_lost_reply_is_not_executed_twice(self) -> None:
        """STOP's reply gets lost; the repetition must be recognised."""
        lost = iter([True, False])

        def mangle(kind: int, wire: bytes) -> bytes:
            return b"" if kind == Message.STOP | 0x80 and next(lost) else wire

        with FakeDevice(mangle=mangle) as device, connect(device) as link:
            Device(link).stop()
            assert device.executed.count(Message.STOP) == 1
            assert link.retries == 1

    @pytest.mark.parametrize(("change", "retries"), [
        (lambda wire: wire[:4] + bytes([wire[4] ^ 1 or 2]) + wire[5:], 1),
        (lambda wire: wire[:5] + b"\0", 1),
        (lambda wire: wire[:5], 2),
        (lambda wire: b"\x07noise" * 300 + b"\0", 1),
    ], ids=["flipped", "truncated", "undelimited", "oversized"])
    def test_damaged_reply_is_asked_for_again(self, change: Callable[[bytes], bytes], retries: int) -> None:
        """A reply without its delimiter takes the next reply with it, so that case needs two repetitions."""
        first = iter([True])

        def mangle(kind: int, wire: bytes) -> bytes:
            return change(wire) if kind == Message.COUNTERS | 0x80 and next(first, False) else wire

        with FakeDevice(mangle=mangle) as device, connect(device) as link:
            assert Device(link).counters() == dict(zip(COUNTERS, range(100, 114), strict=True))
            assert link.retries == retries
            assert device.executed.count(Message.COUNTERS) == 1

    def test_damaged_request_is_repeated_at_once(self) -> None:
        """A NAK says which way the damage went: no need to wait for the timeout."""
        with FakeDevice() as device, connect(device, Pace(10, 10, 0, 10, 3)) as link:
            link._transport.write(b"\x05trash")
            start = time.monotonic()
            Device(link)
            assert time.monotonic() - start < 5
            assert link.retries == 1

    def test_duplicated_replies_are_ignored(self) -> None:
        with FakeDevice(mangle=lambda kind, wire: wire * 3, image_id=1) as device, connect(device) as link:
            tritloom = Device(link)
            assert tritloom.counters()["cycles"] == 100
            tritloom.stop()
            assert tritloom.greet().image_id == 1
            assert link.retries == 0

    def test_silent_device(self) -> None:
        with FakeDevice(deaf_to=1000) as device, connect(device) as link:
            with pytest.raises(LinkError, match="does not answer HELLO .4 attempts, 0 refused, nothing arrived"):
                Device(link)

    def test_babbling_device(self) -> None:
        """A device with another bitstream may send anything; the host must give up all the same."""
        with FakeDevice(mangle=lambda kind, wire: b"boot 1.0\r\n\0" * 50) as device, connect(device) as link:
            with pytest.raises(LinkError, match="4 attempts, 0 refused, [0-9]+ damaged frames arrived"):
                Device(link)

    def test_device_unplugged(self) -> None:
        with FakeDevice() as device, connect(device) as link:
            tritloom = Device(link)
            device.vanish()
            with pytest.raises(LinkError, match="device went away"):
                tritloom.counters()

    def test_refusal_names_the_reason(self) -> None:
        with FakeDevice(image_id=0) as device, connect(device) as link:
            with pytest.raises(RefusedError, match="no image is loaded") as caught:
                list(Device(link).run([1], 1))
            assert caught.value.code == Code.NO_IMAGE

    def test_other_protocol_version_is_refused(self) -> None:
        def mangle(kind: int, wire: bytes) -> bytes:
            frame = cobs.decode(wire[:-1])[:-4]
            frame = frame[:3] + b"\x09" + frame[4:]
            return cobs.encode(frame + zlib.crc32(frame).to_bytes(4, "little")) + b"\0"

        with FakeDevice(mangle=mangle) as device, connect(device) as link:
            with pytest.raises(TritloomError, match="protocol 9, this program 2"):
                Device(link)


class TestPorts:
    def test_missing_port(self) -> None:
        with pytest.raises(LinkError, match="/dev/ttyNONE: no such serial port"):
            SerialTransport("/dev/ttyNONE")

    def test_busy_port(self) -> None:
        with FakeDevice() as device, connect(device):
            with pytest.raises(LinkError, match="busy; close the other program"):
                SerialTransport(device.port)

    def test_file_that_is_no_port(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("")
        with pytest.raises(LinkError, match="cannot be used as a serial port"):
            SerialTransport(str(path))

    def test_permission_denied_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Root may open anything, so the refusal is made by hand."""
        def refuse(*arguments: object, **options: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(LinkError, match="usermod -aG dialout .* udev rule SUBSYSTEM") as caught:
            SerialTransport("/dev/ttyUSB0")
        assert "\n" not in str(caught.value)


class TestLoading:
    def test_words_reach_their_addresses(self) -> None:
        """The image and the device number spaces differently; names decide."""
        image = SmallImage()
        steps: list[tuple[int, int]] = []
        with FakeDevice() as device, connect(device) as link:
            assert Device(link).load(image, progress=lambda done, total: steps.append((done, total)))
            words = device.words
        expected = {Space[space.name] << 28 | address + index: int(word)
                    for space, address, run in image.load_words() for index, word in enumerate(run)}
        assert words == expected
        assert steps[-1] == (313, 313)
        assert steps == sorted(steps)

    def test_matching_image_is_not_sent(self) -> None:
        with FakeDevice(image_id=77) as device, connect(device) as link:
            assert not Device(link).load(SmallImage())
            assert Message.LOAD_BEGIN not in device.executed

    def test_transfer_is_resumed_where_it_stopped(self) -> None:
        """The host dies after some frames; the next one continues, and the CRC still covers every word."""
        sent: list[int] = []

        def mangle(kind: int, wire: bytes) -> bytes:
            return b"" if kind == Message.LOAD_DATA | 0x80 and len(sent) == 2 else wire

        with FakeDevice(mangle=mangle) as device:
            with connect(device) as link, pytest.raises(LinkError, match="does not answer LOAD_DATA"):
                Device(link).load(SmallImage(), progress=lambda done, total: sent.append(done))
            executed = device.executed.count(Message.LOAD_DATA)
            device.mangle = lambda kind, wire: wire
            with connect(device) as link:
                assert Device(link).load(SmallImage())
            assert device.image_id == 77
            assert len(device.words) == 313
            assert device.executed.count(Message.LOAD_DATA) - executed == 2, "only the rest is sent"

    def test_other_geometry_is_refused_before_sending(self) -> None:
        with FakeDevice(geometry=0x9999) as device, connect(device) as link:
            with pytest.raises(TritloomError, match="compiled for geometry 00001234, the device is 00009999"):
                Device(link).load(SmallImage())
            assert Message.LOAD_BEGIN not in device.executed

    @pytest.mark.parametrize("seed", range(5))
    def test_loads_over_a_bad_line(self, seed: int) -> None:
        """One frame in ten is damaged on its way to the host; every word still arrives, once."""
        print(f"seed {seed}")
        source = random.Random(seed)

        def mangle(kind: int, wire: bytes) -> bytes:
            return wire if source.random() > 0.1 else wire[: len(wire) // 2] + b"\x01\0"

        with FakeDevice(mangle=mangle) as device, connect(device) as link:
            assert Device(link).load(SmallImage())
            assert device.image_id == 77

    def test_memory_test_reports_the_first_fault(self) -> None:
        with FakeDevice(streams=True, memory_fault=9000) as device, connect(device) as link:
            tritloom = Device(link)
            assert tritloom.test_memory(8000, seed=3) is None
            assert tritloom.test_memory(20_000, seed=3) == MemoryFault(1, 9000, 3, 0xFFFFFFFC)

    def test_memory_test_without_memory(self) -> None:
        with FakeDevice() as device, connect(device) as link:
            with pytest.raises(RefusedError, match="no SDRAM"):
                Device(link).test_memory(10)


class TestRuns:
    @pytest.mark.parametrize(("prompt", "count", "position"),
                             [([1], 1, 0), ([1, 5, 9], 40, 0), (list(range(250)), 6, 1)])
    def test_every_pass_arrives(self, prompt: list[int], count: int, position: int) -> None:
        with FakeDevice(image_id=1, context=512) as device, connect(device) as link:
            events = list(Device(link).run(prompt, count, position=position))
        assert events == expected_run(prompt, count, position)

    def test_parameters_reach_the_device(self) -> None:
        with FakeDevice(image_id=1) as device, connect(device) as link:
            temperature = Scalar.from_float(1 / 0.8)
            list(Device(link).run([1], 2, temperature=temperature, seed=0xDEADBEEF, timeout_us=123_456))
            assert (device.mantissa, device.exponent) == (temperature.mantissa, temperature.exponent)
            assert (device.seed, device.timeout_us) == (0xDEADBEEF, 123_456)

    def test_run_past_the_context_is_refused(self) -> None:
        with FakeDevice(image_id=1, context=16) as device, connect(device) as link:
            with pytest.raises(TritloomError, match="17 positions do not fit the context of 16"):
                list(Device(link).run([1] * 8, 10))

    def test_lost_token_is_an_error(self) -> None:
        """Sequence numbers of events reveal a frame that vanished; silence about it would print a wrong story."""
        count = iter(range(1000))

        def mangle(kind: int, wire: bytes) -> bytes:
            return b"" if kind == Message.TOKEN and next(count) == 3 else wire

        with FakeDevice(image_id=1, mangle=mangle) as device, connect(device) as link:
            with pytest.raises(LinkError, match="1 frames of the run were lost"):
                list(Device(link).run([1], 10))

    def test_watchdog_is_reported_and_the_device_stays_usable(self) -> None:
        with FakeDevice(image_id=1, fault_after=3) as device, connect(device) as link:
            tritloom = Device(link)
            events = []
            with pytest.raises(RefusedError, match="no progress and was reset .status WATCHDOG, detail 0x3"):
                events.extend(tritloom.run([1], 10))
            device.fault_after = None
            assert list(tritloom.run([1], 4)) == expected_run([1], 4)

    def test_silence_in_a_run_is_an_error(self) -> None:
        with FakeDevice(image_id=1) as device, connect(device) as link:
            device.paused.set()
            with pytest.raises(LinkError, match="fell silent for 0.3 s"):
                list(Device(link).run([1], 10))

    def test_closing_the_iterator_stops_the_run(self) -> None:
        with FakeDevice(image_id=1) as device, connect(device) as link:
            tritloom = Device(link)
            run = tritloom.run([1], 200)
            assert [next(run) for _ in range(3)] == expected_run([1], 3)
            run.close()
            assert not tritloom.greet().state
            assert device.executed.count(Message.STOP) == 1
            assert list(tritloom.run([1], 4)) == expected_run([1], 4)

    def test_run_of_a_vanished_host_is_ended(self) -> None:
        """A host that died in a run leaves a device that talks; the next host must not read the old tokens."""
        with FakeDevice(image_id=1) as device:
            device.paused.set()
            with connect(device) as link:
                tritloom = Device(link)
                link.request(Message.PROMPT, struct.pack("<HH", 0, 7))
                link.request(Message.RUN, struct.pack("<HHHhIIHH", 100, 0, 0, 0, 0, 0, 1, 0))
                assert tritloom.greet().state == 1
            with connect(device) as link:
                tritloom = Device(link)
                device.paused.clear()
                assert list(tritloom.run([1], 4)) == expected_run([1], 4)

    def test_watchdog_timeout_scales_with_the_token(self) -> None:
        assert watchdog_us(64_000, 64_000_000) == 4_000 + 10_000


