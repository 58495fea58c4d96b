"""A Tritloom device behind a link: what it is, loading an image, running, counters, memory test."""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from fastcrc import crc32

from host.errors import TritloomError
from host.image import Image
from host.link import Frame, Link, LinkError, RefusedError
from rtl.csr_map import (
    COUNTERS,
    FLAG_STREAM,
    LOAD_WORDS,
    MEMTEST_WORDS,
    PROMPT_TOKENS,
    PROTOCOL_VERSION,
    Code,
    Message,
    Space,
    Speculation,
)
from sim.fixed import Scalar

HELLO = struct.Struct("<BHIIIIHHBIIIII")
LOAD_BEGIN = struct.Struct("<IIIIIIB")
RUN = struct.Struct("<HHHhIIHH")
TOKEN = struct.Struct("<HHI")
DONE = struct.Struct("<BH")
FAULT = struct.Struct("<BI")
MEMTEST_REPLY = struct.Struct("<IIII")
WATCHDOG_MARGIN_US = 10_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Hello:
    """What a device says of itself; fields as in docs/protocol.md."""

    protocol: int
    firmware: int
    geometry: int
    flags: int
    image_id: int
    clock_hz: int
    context: int
    vocab: int
    state: int
    loading_id: int
    total_words: int
    loaded_words: int
    undecodable: int
    overruns: int

    @property
    def streams(self) -> bool:
        """Whether weights come from SDRAM."""
        return bool(self.flags & FLAG_STREAM)

    @property
    def firmware_version(self) -> str:
        return f"{self.firmware >> 8}.{self.firmware & 0xFF}"


@dataclass(frozen=True)
class TokenEvent:
    """What follows one token.

    Parameters
    ----------
    token : at the position after ``position``.
    position : of the token that it follows.
    cycles : engine clocks of the pass, if this is the last token that it brought; else 0.
    generated : whether it continues the text; else it lies within the prompt.
    """

    token: int
    position: int
    cycles: int
    generated: bool


@dataclass(frozen=True)
class MemoryFault:
    """First wrong word of a memory test, and how many there were."""

    errors: int
    address: int
    expected: int
    got: int


class Device:
    """Commands of a device, in terms of images and tokens.

    Parameters
    ----------
    link : an open link; its first request is made here.

    Members
    -------
    link : as given.
    hello : answer to the last HELLO.

    Raises
    ------
    LinkError: nothing answers.
    TritloomError: the firmware speaks another version of the protocol.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.hello = self.greet()

    def greet(self) -> Hello:
        """Ask the device what it is and what it holds."""
        body = self.link.request(Message.HELLO)
        if not body or body[0] != PROTOCOL_VERSION:
            raise TritloomError(f"the firmware speaks protocol {body[0] if body else 'none'}, this program "
                                f"{PROTOCOL_VERSION}; use versions that match")
        self.hello = Hello(*self._unpack(HELLO, body, "HELLO"))
        return self.hello

    def load(self, image: Image, *, progress: Progress = lambda done, total: None, resume: bool = True) -> bool:
        """Make the device hold an image; False if it already did.

        Parameters
        ----------
        image : compiled for the device's geometry.
        progress : called with words done and words in all.
        resume : whether an unfinished transfer of the same image is continued.

        Raises
        ------
        TritloomError: the image is for other hardware, or the transfer or its verification failed.
        """
        if image.geometry != self.hello.geometry:
            raise TritloomError(f"the image was compiled for geometry {image.geometry:08x}, the device is "
                                f"{self.hello.geometry:08x}; compile the model for it")
        if self.greet().image_id == image.image_id:
            return False
        runs = [(Space[space.name], address, np.ascontiguousarray(words, "<u4"))
                for space, address, words in image.load_words()]
        total = sum(len(words) for _, _, words in runs)
        begin = LOAD_BEGIN.pack(image.geometry, image.image_id, total, 0, image.stream_words,
                                image.prompt_words, resume)
        (loaded,) = self._unpack(struct.Struct("<I"), self.link.request(Message.LOAD_BEGIN, begin), "LOAD_BEGIN")
        check, offset = 0, 0
        for space, address, words in runs:
            check = crc32.iso_hdlc(words.tobytes(), check)
            # A resumed transfer begins in the middle of a run; the device counts words, not frames.
            for first in range(max(0, loaded - offset), len(words), LOAD_WORDS):
                piece = words[first:first + LOAD_WORDS]
                where = struct.pack("<II", offset + first, space << 28 | address + first)
                self.link.request(Message.LOAD_DATA, where + piece.tobytes())
                progress(offset + first + len(piece), total)
            offset += len(words)
        self.link.request(Message.LOAD_END, struct.pack("<I", check), timeout_seconds=self._verify_seconds(total))
        self.greet()
        return True

    def run(self, prompt: Sequence[int], count: int, *, temperature: Scalar | None = None, seed: int = 0,
            position: int = 0, timeout_us: int = 0, speculation: Speculation = Speculation.OFF
            ) -> Iterator[TokenEvent]:
        """Run a prompt and generate tokens; yields what follows every token that the device takes.

        Closing the iterator early stops the run.

        Parameters
        ----------
        prompt : at least one token.
        count : tokens to generate, at least one.
        temperature : inverse temperature; None is greedy.
        seed : of the sampler.
        position : of the first prompt token.
        timeout_us : longest time without a token, in the device's microseconds; 0 is one second.
        speculation : who fills slots with drafts.

        Raises
        ------
        TritloomError: the run does not fit the context, failed, or frames of it were lost.
        """
        inputs = len(prompt) + count - 1
        if not prompt or count < 1:
            raise ValueError(f"a run needs a prompt and a count, got {len(prompt)} tokens and {count}")
        if position + inputs > self.hello.context:
            raise TritloomError(f"{position + inputs} positions do not fit the context of {self.hello.context}")
        self._ready()
        for first in range(0, len(prompt), PROMPT_TOKENS):
            tokens = prompt[first:first + PROMPT_TOKENS]
            self.link.request(Message.PROMPT, struct.pack(f"<H{len(tokens)}H", first, *tokens))
        mantissa, exponent = (temperature.mantissa, temperature.exponent) if temperature else (0, 0)
        lost_before = self.link.lost
        self.link.request(Message.RUN, RUN.pack(count, position, mantissa, exponent, seed, timeout_us, len(prompt),
                                                 speculation))
        running = True
        try:
            for event in self._tokens(position, inputs, lost_before):
                yield TokenEvent(*event, generated=event[1] >= position + len(prompt) - 1)
            running = False
        except RefusedError:
            running = False
            raise
        finally:
            if running:
                self._abandon()

    def stop(self) -> None:
        """Stop a run, if there is one."""
        self.link.request(Message.STOP)

    def reset(self) -> None:
        """Stop any run and reset the engine; the image stays."""
        self.link.request(Message.RESET)
        self.link.forget_events()

    def counters(self) -> dict[str, int]:
        """Hardware counters of the last run, by name."""
        body = self.link.request(Message.COUNTERS)
        return dict(zip(COUNTERS, self._unpack(struct.Struct(f"<{len(COUNTERS)}I"), body, "COUNTERS"), strict=True))

    def test_memory(self, words: int, *, seed: int = 0, progress: Progress = lambda done, total: None
                    ) -> MemoryFault | None:
        """Fill the first ``words`` SDRAM words, then verify all of them; the device forgets its image.

        Raises
        ------
        TritloomError: the device has no SDRAM.
        """
        fault: MemoryFault | None = None
        for verify in (0, 1):
            for first in range(0, words, MEMTEST_WORDS):
                part = min(MEMTEST_WORDS, words - first)
                body = self.link.request(Message.MEMTEST, struct.pack("<IIIB", first, part, seed, verify),
                                         timeout_seconds=self._verify_seconds(part))
                errors, address, expected, got = self._unpack(MEMTEST_REPLY, body, "MEMTEST")
                if errors:
                    seen = fault or MemoryFault(0, address, expected, got)
                    fault = MemoryFault(seen.errors + errors, seen.address, seen.expected, seen.got)
                progress(verify * words + first + part, 2 * words)
        return fault

    def _ready(self) -> None:
        """End what an earlier host may have left running."""
        if self.greet().state:
            self.reset()
        self.link.forget_events()

    def _tokens(self, position: int, inputs: int, lost_before: int) -> Iterator[tuple[int, int, int]]:
        """(token, position, cycles) of each record up to DONE."""
        fault: RefusedError | None = None
        seen = 0
        while True:
            frame = self.link.event()
            if self.link.lost > lost_before:
                raise LinkError(f"{self.link.lost - lost_before} frames of the run were lost; run again")
            match frame.kind:
                case Message.TOKEN:
                    for record in self._records(frame):
                        if record[1] != position + seen:
                            raise LinkError(f"position {record[1]} came instead of {position + seen}; run again")
                        seen += 1
                        yield record
                case Message.FAULT:
                    fault = RefusedError("run", *self._unpack(FAULT, frame.body, "FAULT"))
                case Message.DONE:
                    status, done = self._unpack(DONE, frame.body, "DONE")
                    if status != Code.OK:
                        raise fault or RefusedError("run", status, done)
                    if not seen == done == inputs:
                        raise LinkError(f"{seen} tokens came of {inputs}, the device did {done}; run again")
                    return

    def _abandon(self) -> None:
        """Stop a run whose tokens nobody wants any more, and swallow what is still coming."""
        try:
            self.stop()
            while self.link.event(timeout_seconds=self.link.pace.reply_seconds).kind != Message.DONE:
                pass
        except TritloomError:
            # The run's own error, or the user's interrupt, is what must be seen.
            return

    def _verify_seconds(self, words: int) -> float:
        return self.link.pace.verify_seconds + words * self.link.pace.word_seconds

    @staticmethod
    def _records(frame: Frame) -> Iterator[tuple[int, int, int]]:
        if not frame.body or len(frame.body) % TOKEN.size:
            raise LinkError(f"a TOKEN frame has {len(frame.body)} bytes; use a matching bitstream")
        yield from TOKEN.iter_unpack(frame.body)

    @staticmethod
    def _unpack(layout: struct.Struct, body: bytes, what: str) -> tuple[int, ...]:
        if len(body) != layout.size:
            raise LinkError(f"{what} has {len(body)} bytes instead of {layout.size}; use a matching bitstream")
        return layout.unpack(body)


def watchdog_us(cycles: int, clock_hz: int) -> int:
    """Timeout for a run whose longest token takes ``cycles``: four times that, and a margin for the firmware."""
    return 4 * cycles * 1_000_000 // clock_hz + WATCHDOG_MARGIN_US
