"""Registers, memory spaces and link constants that gateware, firmware and host share. Pure Python.

The tables are the only definition: ``c_header`` turns them into the header that the firmware includes.
"""

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True)
class Csr:
    """One 32-bit control register.

    Parameters
    ----------
    name : of the register; ``CSR_<name>`` in C.
    access : ``"r"`` read only, ``"rw"`` reads back what was written, ``"w"`` a write acts, ``"pop"`` a read acts.
    description : one line.
    """

    name: str
    access: str
    description: str


IDENTITY = int.from_bytes(b"TRIT", "big")
CONTROL_VERSION = 2

# Position in the table is the word address on the register bus.
ENGINE_CSRS: tuple[Csr, ...] = (
    Csr("ID", "r", "the letters TRIT"),
    Csr("VERSION", "r", "version of this register map"),
    Csr("GEOMETRY", "r", "fingerprint of the configuration"),
    Csr("FLAGS", "r", "bit 0: weights stream from SDRAM"),
    Csr("CLOCK_HZ", "r", "engine clock"),
    Csr("CONTEXT", "r", "positions of the context"),
    Csr("VOCAB", "r", "tokens of the vocabulary"),
    Csr("CONTROL", "w", "write ones: bit 0 start, bit 1 stop, bit 2 reset engine and queues"),
    Csr("STATUS", "r", "bit 0 running, bit 1 done, bit 2 an access timed out, bits 15:8 fault code"),
    Csr("RUN_TOKENS", "rw", "tokens to take, those of the prompt among them"),
    Csr("RUN_POSITION", "rw", "position of the first token"),
    Csr("PROMPT", "w", "appends a token to the prompt queue"),
    Csr("TOKEN", "pop", "bit 31 valid, bits 30:16 position, bits 15:0 token; reading takes it from the queue"),
    Csr("TOKEN_CYCLES", "r", "engine clocks of the pass that the token taken last ended, 0 if it ended none"),
    Csr("TEMPERATURE", "rw", "inverse temperature: bits 15:0 mantissa, bits 24:16 signed exponent, bit 31 enable"),
    Csr("SEED", "rw", "seed of the sampler"),
    Csr("LOAD_ADDRESS", "rw", "space << 28 | word address; LOAD_DATA and READ_DATA advance it"),
    Csr("LOAD_DATA", "w", "writes a word at LOAD_ADDRESS"),
    Csr("READ_DATA", "pop", "reads the SDRAM word at LOAD_ADDRESS"),
    Csr("IMAGE_ID", "rw", "identity of the loaded image, 0 for none"),
    Csr("STREAM_BASE", "rw", "SDRAM word where the weights of a pass begin"),
    Csr("STREAM_WORDS", "rw", "SDRAM words of a pass"),
    Csr("PROMPT_WORDS", "rw", "SDRAM words of a pass that only reads the prompt"),
    Csr("PROMPT_PASSES", "rw", "passes of the run that only read the prompt; they come first"),
    Csr("SLOTS", "r", "tokens that share a pass"),
    Csr("SPECULATION", "rw", "who fills slots with drafts: 0 nobody, 1 the context, 2 the context and the model"),
    Csr("COUNTER_SELECT", "rw", "index into the counters"),
    Csr("COUNTER_VALUE", "r", "the selected counter"),
)
ENGINE_ADDRESS = {csr.name: address for address, csr in enumerate(ENGINE_CSRS)}
ENGINE_ADDRESS_BITS = 5

COUNTERS: tuple[str, ...] = (
    "cycles", "tokens", "engine_busy", "vector_busy", "scalar_busy", "attention_busy", "sampler_busy", "rotary_busy",
    "issue_stall", "weight_stall", "stream_words", "other_words", "refresh_cycles", "sdram_cycles",
)

# Registers of the CPU's own peripherals, in word addresses from PERIPHERAL_BASE.
PERIPHERAL_CSRS: tuple[Csr, ...] = (
    Csr("UART_RX", "pop", "bit 31 valid, bits 7:0 the byte; reading takes it from the queue"),
    Csr("UART_TX", "w", "sends a byte; waits while the queue is full"),
    Csr("UART_STATUS", "r", "bits 15:0 receive overruns, bit 16 transmit queue empty and line idle"),
    Csr("TIMER", "r", "microseconds, wraps"),
    Csr("WATCHDOG", "rw", "a write restarts the watchdog; bit 0 reads 1 if it caused the last reset"),
    Csr("LEDS", "rw", "eight status lamps"),
    Csr("CRC", "rw", "state of the CRC-32 unit, without inversions"),
    Csr("CRC_BYTE", "w", "feeds a byte into the CRC"),
    Csr("CRC_WORD", "w", "feeds four bytes into the CRC, low byte first"),
)
PERIPHERAL_ADDRESS = {csr.name: address for address, csr in enumerate(PERIPHERAL_CSRS)}
PERIPHERAL_ADDRESS_BITS = 4

RAM_BASE = 0x0000_0000
RAM_BYTES = 10240          # five block RAMs
PERIPHERAL_BASE = 0x4000_0000
ENGINE_BASE = 0x8000_0000


class Space(IntEnum):
    """Memories that an image fills; the top four bits of a load address."""

    SDRAM = 0
    PROGRAM = 1
    WEIGHTS = 2
    EMBEDDING = 3
    ROTARY = 4
    DRAFTS = 5


class Message(IntEnum):
    """Frame types; a reply is the request's type with ``REPLY`` set."""

    HELLO = 0x01
    LOAD_BEGIN = 0x02
    LOAD_DATA = 0x03
    LOAD_END = 0x04
    PROMPT = 0x05
    RUN = 0x06
    STOP = 0x07
    COUNTERS = 0x08
    MEMTEST = 0x09
    RESET = 0x0A
    TOKEN = 0x41
    DONE = 0x42
    FAULT = 0x43
    NAK = 0x44


class Code(IntEnum):
    """First byte of a reply, and the code in DONE, FAULT and NAK."""

    OK = 0
    CRC = 1
    LENGTH = 2
    ENCODING = 3
    TYPE = 4
    RANGE = 5
    BUSY = 6
    GEOMETRY = 7
    NO_IMAGE = 8
    SEQUENCE = 9
    MEMORY = 10
    UNSUPPORTED = 11
    STOPPED = 12
    WATCHDOG = 13
    ENGINE = 14
    RESTART = 15


REPLY = 0x80
PROTOCOL_VERSION = 2
FIRMWARE_VERSION = 0x0100
BODY_BYTES = 512
LOAD_WORDS = 126           # words in one LOAD_DATA
PROMPT_TOKENS = 255        # tokens in one PROMPT
TOKEN_RECORDS = 32         # records in one TOKEN
MEMTEST_WORDS = 8192
FLAG_STREAM = 1
CONTROL_START, CONTROL_STOP, CONTROL_RESET = 1, 2, 4
STATUS_RUNNING, STATUS_DONE, STATUS_TIMEOUT, STATUS_FAULT_SHIFT = 1, 2, 4, 8
TOKEN_VALID = UART_VALID = 1 << 31


class Speculation(IntEnum):
    """Who fills slots with drafts."""

    OFF = 0
    LOOKUP = 1    # the context: what followed the last tokens before
    DRAFT = 2     # the context, and where it has nothing, the draft model of the image


def c_header() -> str:
    """Every constant above as C preprocessor definitions."""
    lines = ["#pragma once"]
    for base, csrs in ((PERIPHERAL_BASE, PERIPHERAL_CSRS), (ENGINE_BASE, ENGINE_CSRS)):
        lines += [f"#define CSR_{csr.name} (*(volatile uint32_t *){base + 4 * address:#x}u)"
                  for address, csr in enumerate(csrs)]
    for enum in (Space, Message, Code, Speculation):
        lines += [f"#define {enum.__name__.upper()}_{member.name} {member.value:#x}u" for member in enum]
    names = ("IDENTITY", "REPLY", "PROTOCOL_VERSION", "FIRMWARE_VERSION", "BODY_BYTES", "LOAD_WORDS", "PROMPT_TOKENS",
             "TOKEN_RECORDS", "MEMTEST_WORDS", "FLAG_STREAM", "CONTROL_START", "CONTROL_STOP", "CONTROL_RESET",
             "STATUS_RUNNING", "STATUS_DONE", "STATUS_TIMEOUT", "STATUS_FAULT_SHIFT", "TOKEN_VALID", "UART_VALID")
    lines += [f"#define {name} {globals()[name]:#x}u" for name in names]
    lines += [f"#define COUNTER_COUNT {len(COUNTERS)}u", f"#define SPACE_COUNT {len(Space)}u",
              f"#define SPECULATION_MAX {max(Speculation)}u"]
    return "\n".join(lines) + "\n"
