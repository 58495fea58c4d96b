"""A device in a thread: speaks docs/protocol.md on a pseudo-terminal, and misbehaves on request.

It shares no code with host/link.py, so a mistake there cannot cancel out.
"""

import os
import select
import struct
import threading
import tty
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

from cobs import cobs

from rtl.csr_map import COUNTERS, PROTOCOL_VERSION, Code, Message

RUN = struct.Struct("<HHHhIIHH")
Step = Callable[[int, int], int]


def count_up(token: int, position: int) -> int:
    """A model whose next token is easy to predict: token plus position plus one."""
    return (token + position + 1) % 512


def unchanged(kind: int, wire: bytes) -> bytes:
    """A good line."""
    return wire


class FakeDevice:
    """Pseudo-terminal with a device behind it; a context manager.

    Parameters
    ----------
    step : the model: (token, position) -> next token.
    geometry, image_id, context, vocab, streams : what HELLO says.
    mangle : changes a frame on its way to the host: (type, wire bytes) -> wire bytes.
    deaf_to : number of requests, from the first, that get lost on their way.
    memory_fault : address of an SDRAM word that reads back wrong.
    fault_after : passes after which a run faults with WATCHDOG.
    token_cycles : cycles that a pass at a position takes.

    Members
    -------
    port : path of the serial port.
    executed : types of requests that were executed, in order; repetitions are not.
    words : loaded image words by 32-bit load address.
    """

    def __init__(self, *, step: Step = count_up, geometry: int = 0x1234, image_id: int = 0, context: int = 256,
                 vocab: int = 512, streams: bool = False, mangle: Callable[[int, bytes], bytes] = unchanged,
                 deaf_to: int = 0, memory_fault: int | None = None, fault_after: int | None = None,
                 token_cycles: Callable[[int], int] = lambda position: 1000 + position) -> None:
        self.step, self.geometry, self.image_id, self.context, self.vocab = step, geometry, image_id, context, vocab
        self.streams, self.mangle, self.deaf_to, self.memory_fault = streams, mangle, deaf_to, memory_fault
        self.fault_after, self.token_cycles = fault_after, token_cycles
        self.executed: list[Message] = []
        self.words: dict[int, int] = {}
        self._last: tuple[bytes, bytes] | None = None
        self._event_sequence = 250
        self._prompt: dict[int, int] = {}
        self._transfer = [0, 0, 0, 0]     # image id, total, loaded, crc
        self._undecodable = 0
        self._run: list[int] | None = None
        self.paused = threading.Event()

    def __enter__(self) -> Self:
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self._slave = slave
        self.port = os.ttyname(slave)
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.vanish()

    def vanish(self) -> None:
        """Unplug the device."""
        if self._thread.is_alive():
            os.write(self._wake, b"x")
            self._thread.join()
            for handle in (self._master, self._slave, self._stop, self._wake):
                os.close(handle)

    def _serve(self) -> None:
        pending = b""
        while True:
            ready, _, _ = select.select([self._master, self._stop], [], [], 0 if self._run else None)
            if self._stop in ready:
                return
            if self._master in ready:
                *wires, pending = (pending + os.read(self._master, 4096)).split(b"\0")
                for wire in filter(None, wires):
                    self._receive(wire)
            if self._run and not self.paused.is_set():
                self._pass()

    def _receive(self, wire: bytes) -> None:
        try:
            frame = cobs.decode(wire)
        except cobs.DecodeError:
            frame = b""
        if len(frame) < 6 or zlib.crc32(frame[:-4]) != int.from_bytes(frame[-4:], "little"):
            self._undecodable += 1
            self._event(Message.NAK, struct.pack("<BI", Code.CRC, self._undecodable))
            return
        if self.deaf_to:
            self.deaf_to -= 1
            return
        kind, sequence, body = Message(frame[0]), frame[1], frame[2:-4]
        if kind != Message.HELLO and self._last is not None and self._last[0] == frame:
            self._send(kind | 0x80, self._last[1])
            return
        self.executed.append(kind)
        status, rest = getattr(self, f"_do_{kind.name.lower()}")(body)
        reply = bytes([kind | 0x80, sequence, status]) + rest
        self._last = (frame, reply)
        self._send(kind | 0x80, reply)

    def _event(self, kind: Message, body: bytes) -> None:
        self._send(kind, bytes([kind, self._event_sequence & 0xFF]) + body)
        self._event_sequence += 1

    def _send(self, kind: int, frame: bytes) -> None:
        wire = cobs.encode(frame + zlib.crc32(frame).to_bytes(4, "little")) + b"\0"
        os.write(self._master, self.mangle(kind, wire))

    def _pass(self) -> None:
        assert self._run is not None
        first, position, passes, prompt_length, token = self._run
        index = position - first
        token = self._prompt[index] if index < prompt_length else token
        if index == self.fault_after:
            self._event(Message.FAULT, struct.pack("<BI", Code.WATCHDOG, index))
            self._finish(Code.WATCHDOG, index)
            return
        token = self.step(token, position)
        self._event(Message.TOKEN, struct.pack("<HHI", token, position, self.token_cycles(position)))
        self._run[1], self._run[4] = position + 1, token
        if index + 1 == passes:
            self._finish(Code.OK, passes)

    def _finish(self, status: Code, passes: int) -> None:
        self._run = None
        self._event(Message.DONE, struct.pack("<BH", status, passes))

    def _do_hello(self, body: bytes) -> tuple[Code, bytes]:
        identity, total, loaded, _ = self._transfer
        return Code.OK, struct.pack(
            "<BHIIIIHHBIIIII", PROTOCOL_VERSION, 0x0100, self.geometry, self.streams, self.image_id, 64_000_000,
            self.context, self.vocab, self._run is not None, identity, total, loaded, self._undecodable, 0)

    def _do_load_begin(self, body: bytes) -> tuple[Code, bytes]:
        geometry, identity, total, _, _, _, resume = struct.unpack("<IIIIIIB", body)
        if geometry != self.geometry:
            return Code.GEOMETRY, struct.pack("<I", self.geometry)
        self.image_id = 0
        if not (resume and self._transfer[:2] == [identity, total]):
            self._transfer = [identity, total, 0, 0]
            self.words.clear()
        return Code.OK, struct.pack("<I", self._transfer[2])

    def _do_load_data(self, body: bytes) -> tuple[Code, bytes]:
        offset, address = struct.unpack_from("<II", body)
        data = body[8:]
        if offset > self._transfer[2]:
            return Code.SEQUENCE, struct.pack("<I", self._transfer[2])
        if offset == self._transfer[2]:
            for index, (word,) in enumerate(struct.iter_unpack("<I", data)):
                self.words[address + index] = word
            self._transfer[2] += len(data) // 4
            self._transfer[3] = zlib.crc32(data, self._transfer[3])
        return Code.OK, struct.pack("<I", self._transfer[2])

    def _do_load_end(self, body: bytes) -> tuple[Code, bytes]:
        if int.from_bytes(body, "little") != self._transfer[3]:
            return Code.CRC, struct.pack("<I", self._transfer[3])
        self.image_id = self._transfer[0]
        return Code.OK, struct.pack("<I", self.image_id)

    def _do_prompt(self, body: bytes) -> tuple[Code, bytes]:
        first, *tokens = struct.unpack(f"<{len(body) // 2}H", body)
        self._prompt |= dict(enumerate(tokens, first))
        return Code.OK, struct.pack("<H", len(self._prompt))

    def _do_run(self, body: bytes) -> tuple[Code, bytes]:
        count, position, self.mantissa, self.exponent, self.seed, self.timeout_us, length, _ = RUN.unpack(body)
        if not self.image_id:
            return Code.NO_IMAGE, bytes(4)
        passes = length + count - 1
        self._run = [position, position, passes, length, 0]
        return Code.OK, struct.pack("<H", passes)

    def _do_stop(self, body: bytes) -> tuple[Code, bytes]:
        if self._run:
            self._finish(Code.STOPPED, self._run[1] - self._run[0])
        return Code.OK, b""

    def _do_reset(self, body: bytes) -> tuple[Code, bytes]:
        self._transfer = [0, 0, 0, 0]
        return self._do_stop(body)

    def _do_counters(self, body: bytes) -> tuple[Code, bytes]:
        return Code.OK, struct.pack(f"<{len(COUNTERS)}I", *range(100, 100 + len(COUNTERS)))

    def _do_memtest(self, body: bytes) -> tuple[Code, bytes]:
        first, words, seed, verify = struct.unpack("<IIIB", body)
        if not self.streams:
            return Code.UNSUPPORTED, bytes(4)
        wrong = self.memory_fault is not None and verify and first <= self.memory_fault < first + words
        report = (1, self.memory_fault, seed, ~seed & 0xFFFFFFFF) if wrong else (0, 0, 0, 0)
        return Code.OK, struct.pack("<IIII", *report)
