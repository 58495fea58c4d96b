"""Frames over a serial port: requests with one reply each, and what the device sends on its own (docs/protocol.md)."""

import errno
import struct
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import serial
from cobs import cobs
from fastcrc import crc32

from host.errors import TritloomError
from rtl.csr_map import BODY_BYTES, REPLY, Code, Message

BAUD = 3_000_000
DELIMITER = b"\0"
HEADER = struct.Struct("<BB")
CRC = struct.Struct("<I")
FRAME_BYTES_MAX = HEADER.size + BODY_BYTES + CRC.size
WIRE_BYTES_MAX = FRAME_BYTES_MAX + FRAME_BYTES_MAX // 254 + 1
NAKS_MAX = 50              # noise before a request may have cost several, so they do not count as attempts
UNSOLICITED = frozenset((Message.TOKEN, Message.DONE, Message.FAULT, Message.NAK))

REASONS = {
    Code.CRC: "the data arrived damaged",
    Code.LENGTH: "a frame had the wrong length",
    Code.ENCODING: "a frame was not COBS",
    Code.TYPE: "the firmware does not know this request; load a matching bitstream",
    Code.RANGE: "a value is out of range",
    Code.BUSY: "a run is going on; stop it first",
    Code.GEOMETRY: "the image was compiled for other hardware; compile it for this configuration",
    Code.NO_IMAGE: "no image is loaded; run `tritloom load` first",
    Code.SEQUENCE: "the transfer has a gap; start it again",
    Code.MEMORY: "the memory reads back differently; run `tritloom selftest`",
    Code.UNSUPPORTED: "this configuration has no SDRAM",
    Code.STOPPED: "the run was stopped",
    Code.WATCHDOG: "the engine made no progress and was reset",
    Code.ENGINE: "the engine reported a fault",
    Code.RESTART: "the firmware hung and restarted",
}


class LinkError(TritloomError):
    """The line itself failed: nothing answers, or what arrives cannot be used."""


class RefusedError(TritloomError):
    """The device answered a request with a status other than OK.

    Parameters
    ----------
    what : the request or the event.
    code : status byte.
    detail : as docs/protocol.md says for the status.
    """

    def __init__(self, what: str, code: int, detail: int) -> None:
        self.code = code
        self.detail = detail
        known = code in Code.__members__.values()
        reason = REASONS.get(Code(code), "no reason") if known else "a code this program does not know"
        name = Code(code).name if known else str(code)
        super().__init__(f"{what}: {reason} (status {name}, detail {detail:#x})")


@dataclass(frozen=True)
class Pace:
    """How long to wait for a device, in seconds of wall time.

    Parameters
    ----------
    reply_seconds : for the reply to most requests.
    verify_seconds : for a reply that reads memory.
    word_seconds : more of that per word of the image.
    event_seconds : between frames of a run.
    attempts : times a request is sent.
    """

    reply_seconds: float
    verify_seconds: float
    word_seconds: float
    event_seconds: float
    attempts: int


BOARD_PACE = Pace(reply_seconds=0.3, verify_seconds=1.5, word_seconds=20e-6, event_seconds=5, attempts=5)
# A simulated chip runs some thousand times slower than a board.
SIMULATION_PACE = Pace(reply_seconds=120, verify_seconds=600, word_seconds=50e-3, event_seconds=600, attempts=2)


@dataclass(frozen=True)
class Frame:
    """A decoded frame."""

    kind: int
    sequence: int
    body: bytes


def encode_frame(kind: int, sequence: int, body: bytes = b"") -> bytes:
    """A frame as it goes over the wire, with a delimiter on both sides so that earlier noise cannot join it."""
    if len(body) > BODY_BYTES:
        raise ValueError(f"body of {len(body)} bytes exceeds {BODY_BYTES}")
    frame = HEADER.pack(kind, sequence) + body
    return DELIMITER + cobs.encode(frame + CRC.pack(crc32.iso_hdlc(frame))) + DELIMITER


def decode_frame(wire: bytes) -> Frame | None:
    """The frame between two delimiters, or None for anything damaged."""
    try:
        data = cobs.decode(wire)
    except cobs.DecodeError:
        return None
    if not HEADER.size + CRC.size <= len(data) <= FRAME_BYTES_MAX:
        return None
    if CRC.unpack(data[-CRC.size:])[0] != crc32.iso_hdlc(data[:-CRC.size]):
        return None
    kind, sequence = HEADER.unpack_from(data)
    return Frame(kind, sequence, data[HEADER.size:-CRC.size])


class Deframer:
    """Cuts a byte stream into frames and counts what it had to drop.

    Members
    -------
    damaged : pieces between delimiters that were no frame.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._pending = bytearray()
        self._oversized = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        frames = []
        *ends, rest = data.split(DELIMITER)
        for end in ends:
            self._append(end)
            frame = None if self._oversized else decode_frame(bytes(self._pending))
            if frame is not None:
                frames.append(frame)
            elif self._pending or self._oversized:
                self.damaged += 1
            self._pending.clear()
            self._oversized = False
        self._append(rest)
        return frames

    def _append(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) > WIRE_BYTES_MAX:
            self._oversized = True
            self._pending.clear()


class Transport(Protocol):
    """Anything that carries bytes both ways."""

    def read(self, timeout_seconds: float) -> bytes:
        """Some bytes, or none after the timeout."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def close(self) -> None:
        """Release the line."""


class SerialTransport:
    """A serial port, or the pseudo-terminal of a simulator.

    Parameters
    ----------
    path : of the port.

    Raises
    ------
    LinkError: the port is missing, busy, not permitted, or not a serial port; later, that it went away.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._port = serial.Serial(path, BAUD, exclusive=True, write_timeout=30)
        except (serial.SerialException, OSError, ValueError) as error:
            raise LinkError(_open_failure(path, error)) from error

    def read(self, timeout_seconds: float) -> bytes:
        try:
            self._port.timeout = timeout_seconds
            return self._port.read(max(1, self._port.in_waiting))
        except (serial.SerialException, OSError, TypeError) as error:
            raise LinkError(f"{self._path}: the device went away; check cable and power") from error

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except serial.SerialTimeoutException as error:
            raise LinkError(f"{self._path}: the device takes no data; reset it and try again") from error
        except (serial.SerialException, OSError) as error:
            raise LinkError(f"{self._path}: the device went away; check cable and power") from error

    def close(self) -> None:
        self._port.close()


def _open_failure(path: str, error: Exception) -> str:
    code = getattr(error, "errno", None)
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"{path}: no such serial port; plug the board in, or name another with --port"
    if code in (errno.EACCES, errno.EPERM):
        return (f"{path}: permission denied; run `sudo usermod -aG dialout $USER` and log in again, or add the udev "
                'rule SUBSYSTEM=="tty", ATTRS{idVendor}=="0403", MODE="0666"')
    if code in (errno.EBUSY, errno.EAGAIN):
        return f"{path}: the serial port is busy; close the other program that uses it"
    return f"{path}: cannot be used as a serial port ({getattr(error, 'strerror', None) or error})"


class Link:
    """The host's end of the protocol; a context manager that closes the transport.

    One request waits for its reply before the next is sent. A request whose reply does not come, or that the device
    says arrived damaged, is repeated as it was: the device recognises it and does not execute it twice.

    Parameters
    ----------
    transport : carries the bytes.
    pace : how long to wait.

    Members
    -------
    pace : as given.
    retries : requests sent again so far.
    lost : unsolicited frames that are known to be missing.
    """

    def __init__(self, transport: Transport, *, pace: Pace = BOARD_PACE) -> None:
        self.pace = pace
        self.retries = 0
        self.lost = 0
        self._transport = transport
        self._deframer = Deframer()
        self._frames: deque[Frame] = deque()
        self._events: deque[Frame] = deque()
        self._sequence = -1
        self._event_sequence: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._transport.close()

    @property
    def damaged(self) -> int:
        """Received pieces that were no frame."""
        return self._deframer.damaged

    def request(self, message: Message, body: bytes = b"", *, timeout_seconds: float | None = None) -> bytes:
        """Send a request; the body of its reply after the status byte.

        Raises
        ------
        LinkError: no reply after the last attempt.
        RefusedError: the device answered with another status than OK.
        """
        self._sequence = (self._sequence + 1) & 0xFF
        wire = encode_frame(message, self._sequence, body)
        attempts, refused = 0, 0
        while attempts < self.pace.attempts and refused < NAKS_MAX:
            self.retries += attempts + refused > 0
            self._transport.write(wire)
            reply = self._wait_reply(message, timeout_seconds or self.pace.reply_seconds)
            if reply is None:
                attempts += 1
            elif reply.kind == Message.NAK:
                refused += 1
            else:
                return _checked(message, reply)
        seen = f"{self.damaged} damaged frames arrived" if self.damaged else "nothing arrived"
        raise LinkError(f"the device does not answer {message.name} ({attempts} attempts, {refused} "
                        f"refused, {seen}); check that it is powered and holds a Tritloom bitstream")

    def _wait_reply(self, message: Message, timeout_seconds: float) -> Frame | None:
        """The reply to the pending request, or a NAK, or None after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while (frame := self._next_frame(deadline)) is not None:
            if frame.kind == Message.NAK:
                return frame
            if frame.kind in UNSOLICITED:
                self._events.append(frame)
            elif frame.kind == message | REPLY and frame.sequence == self._sequence and frame.body:
                return frame
        return None

    def event(self, *, timeout_seconds: float | None = None) -> Frame:
        """The next unsolicited frame other than NAK.

        Raises
        ------
        LinkError: none came in time.
        """
        if self._events:
            return self._events.popleft()
        seconds = timeout_seconds or self.pace.event_seconds
        deadline = time.monotonic() + seconds
        while (frame := self._next_frame(deadline)) is not None:
            if frame.kind in UNSOLICITED and frame.kind != Message.NAK:
                return frame
        raise LinkError(f"the device fell silent for {seconds:g} s; reset it and try again")

    def forget_events(self) -> None:
        """Drop what the device sent on its own so far: it belongs to an earlier run."""
        self._events.clear()

    def _next_frame(self, deadline: float) -> Frame | None:
        """The next frame of any kind, or None when the deadline passed."""
        while not self._frames:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._frames.extend(self._deframer.feed(self._transport.read(left)))
        frame = self._frames.popleft()
        if frame.kind in UNSOLICITED:
            if self._event_sequence is not None:
                self.lost += (frame.sequence - self._event_sequence - 1) & 0xFF
            self._event_sequence = frame.sequence
        return frame


def _checked(message: Message, reply: Frame) -> bytes:
    status, rest = reply.body[0], reply.body[1:]
    if status != Code.OK:
        raise RefusedError(message.name, status, int.from_bytes(rest[:4], "little"))
    return rest
