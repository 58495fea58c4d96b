"""The host's end of the link against a device in a thread, on good and on bad lines."""

import os
import random
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cobs import cobs

from host.device import Device
from host.errors import TritloomError
from host.link import Deframer, Frame, LinkError, Pace, RefusedError, SerialTransport, decode_frame, encode_frame
from rtl.csr_map import COUNTERS, Code, Message
from tests.fake_device import FakeDevice
from tests.fast_link import connect


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
