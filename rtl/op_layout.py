"""Layouts that cross unit boundaries: operations, scalars, results, and the ports made of them."""

from math import gcd

from amaranth.hdl import Shape, signed, unsigned
from amaranth.lib import data
from amaranth.lib.wiring import In, Out, Signature

from rtl.config import ELEMENT_BITS, EXPONENT_BITS, TILE_ADDRESS_BITS
from rtl.isa import FIELDS, MANTISSA_BITS, SCALAR_EXPONENT_BITS, Opcode

SCALAR = data.StructLayout({"mantissa": MANTISSA_BITS, "exponent": signed(SCALAR_EXPONENT_BITS)})
ROTATION = data.StructLayout({"cosine": signed(16), "sine": signed(16)})
FETCH = data.StructLayout({"address": TILE_ADDRESS_BITS, "tiles": 18})
NEXT_TOKEN = data.StructLayout({"token": 16, "first": 1})       # of a text, for the drafter
DRAFT = data.StructLayout({"token": 16, "known": 1})            # what the drafter guesses
LOAD_ADDRESS_BITS = 28
# Fields that mean a place of the slot at work: its number leads them where there are several.
SLOT_FIELDS = ("src", "src2", "dst", "ra", "rb", "rc", "rd")


def result_layout(slot_bits: int = 0) -> data.StructLayout:
    """An integer that becomes a scalar; the slot's number leads the register."""
    return data.StructLayout({
        "register": 5 + slot_bits, "value": 36, "exponent": signed(SCALAR_EXPONENT_BITS)})


RESULT = result_layout()


def op_layout(opcode: Opcode, slot_bits: int = 0) -> data.StructLayout:
    """Fields of an operation, without opcode and wait mask, as its unit gets them.

    The engine works on all slots at once, so MATVEC has no slot.
    """
    has_slot = opcode != Opcode.MATVEC
    shapes: dict[str, Shape] = {
        name: signed(width) if name == "exponent" else unsigned(width + slot_bits * (has_slot and name in SLOT_FIELDS))
        for name, width in FIELDS[opcode]}
    return data.StructLayout(shapes)


def elements(lanes: int) -> data.ArrayLayout:
    """One beat of vector memory."""
    return data.ArrayLayout(signed(ELEMENT_BITS), lanes)


def int8s(lanes: int) -> data.ArrayLayout:
    """One beat of activations, queries, keys or values."""
    return data.ArrayLayout(signed(8), lanes)


def write_port(layout: data.Layout, address_bits: int) -> Signature:
    """Write port as seen by the writer: enable, address, data."""
    return Signature({"enable": Out(1), "address": Out(address_bits), "data": Out(layout)})


def row_write_port(lanes: int, rows: int, address_bits: int) -> Signature:
    """Write port of the engine as seen by the engine: elements for successive lanes, from one beat into the next.

    ``part`` says, one bit each, which ``gcd(rows, lanes)`` lanes of the beat are the first.
    """
    return Signature({"enable": Out(1), "address": Out(address_bits), "part": Out(lanes // gcd(rows, lanes)),
                      "data": Out(elements(rows))})


def slot_write_port(lanes: int, slots: int) -> Signature:
    """Write port of an engine with slots as seen by the engine: whole beats, each of one slot's vectors."""
    return Signature({"enable": Out(1), "slot": Out(range(slots)), "beat": Out(8), "data": Out(elements(lanes))})


def read_port(layout: data.Layout, address_bits: int) -> Signature:
    """Read port as seen by the reader; the memory says how many cycles after the address the data follow."""
    return Signature({"enable": Out(1), "address": Out(address_bits), "data": In(layout)})


def load_port() -> Signature:
    """Loader write port as seen by the loader."""
    return Signature({"enable": Out(1), "address": Out(LOAD_ADDRESS_BITS), "data": Out(32)})


def query_port(lanes: int) -> Signature:
    """Query write port as seen by the vector unit; ``address`` is the group."""
    return Signature({"enable": Out(1), "address": Out(8), "data": Out(int8s(lanes)), "exponent": Out(EXPONENT_BITS)})


def cache_write_port(lanes: int) -> Signature:
    """KV cache write port as seen by the vector unit; ``value`` selects values, else keys; ``last`` ends a word."""
    return Signature({"enable": Out(1), "value": Out(1), "slot": Out(8), "last": Out(1), "data": Out(int8s(lanes)),
                      "exponent": Out(EXPONENT_BITS)})


def cache_read_port(lanes: int, address_bits: int) -> Signature:
    """KV cache read port as seen by the attention unit; data follow the address by one cycle."""
    return Signature({
        "enable": Out(1), "address": Out(address_bits),
        "key": In(int8s(lanes)), "key_exponent": In(EXPONENT_BITS),
        "value": In(int8s(lanes)), "value_exponent": In(EXPONENT_BITS)})
