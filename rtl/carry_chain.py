"""Adders that use everything an ECP5 carry chain offers, with a portable twin."""

from amaranth import C, Instance, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

PRIMITIVES = ("ecp5", "portable")

# Lookup contents of one half of a CCU2C; bits 3:0 are also its carry generator, a function of A and B alone.
INJECT = 0x000A            # with B = C = D = 1: stops the carry from below and generates A
GATED_ADD = 0x9A6A         # A ^ (C & (B ^ D)), generating A


def check_primitives(primitives: str) -> None:
    """Raise ValueError unless ``primitives`` names a kind of cells."""
    if primitives not in PRIMITIVES:
        raise ValueError(f"primitives must be one of {PRIMITIVES}, got {primitives!r}")


class GatedAdder(wiring.Component):
    """``o = a + (gate ? b ^ negative : 0) + carry`` modulo ``2**width``.

    On an ECP5 it is one chain of ``width + 1`` half cells, whatever is gated or negated: the first half takes the
    carry, so that the chain needs no cells to enter it.

    Latency: none, combinational.

    Parameters
    ----------
    width : bits of each operand and of the sum.
    primitives : ``"ecp5"`` instantiates CCU2C, ``"portable"`` leaves the choice to synthesis.

    Members
    -------
    a, b : operands.
    gate : adds ``b``, else zero.
    negative : inverts ``b`` before the gate; with ``carry`` set too, ``b`` is subtracted.
    carry : one more at the lowest bit.
    o : sum.

    Raises
    ------
    ValueError: width below one, or unknown primitives.
    """

    def __init__(self, *, width: int, primitives: str) -> None:
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        check_primitives(primitives)
        self._width = width
        self._primitives = primitives
        super().__init__({"a": In(width), "b": In(width), "gate": In(1), "negative": In(1), "carry": In(1),
                          "o": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self._primitives == "ecp5":
            self._chain(m)
        else:
            operand = (self.b ^ self.negative.replicate(self._width)) & self.gate.replicate(self._width)
            m.d.comb += self.o.eq(self.a + operand + self.carry)
        return m

    def _chain(self, m: Module) -> None:
        """Chain the half cells, two per CCU2C, leaving the ends of the chain open."""
        one = C(1)
        halves: list[tuple[int, Value, Value, Value, Value]] = [(INJECT, self.carry, one, one, one)]
        halves += [(GATED_ADD, a, b, self.gate, self.negative) for a, b in zip(self.a, self.b, strict=True)]
        if len(halves) % 2:
            halves.append((0, C(0), C(0), C(0), C(0)))
        sums = Signal(len(halves))
        carries = Signal(len(halves) // 2 - 1)
        for index in range(0, len(halves), 2):
            pins: dict[str, object] = {}
            for half, (table, a, b, c, d) in enumerate(halves[index : index + 2]):
                pins |= {f"p_INIT{half}": C(table, 16), f"p_INJECT1_{half}": "NO", f"i_A{half}": a, f"i_B{half}": b,
                         f"i_C{half}": c, f"i_D{half}": d, f"o_S{half}": sums[index + half]}
            if index:
                pins["i_CIN"] = carries[index // 2 - 1]
            if index + 2 < len(halves):
                pins["o_COUT"] = carries[index // 2]
            m.submodules[f"halves_{index}"] = Instance("CCU2C", **pins)
        m.d.comb += self.o.eq(sums[1:])


def connect_adder(adder: GatedAdder, a: Value, b: Value, *, gate: Value | int = 1, negative: Value | int = 0,
                  carry: Value | int = 0) -> list:
    """Assignments of every input of an adder; signed operands are extended."""
    return [adder.a.eq(a), adder.b.eq(b), adder.gate.eq(gate), adder.negative.eq(negative), adder.carry.eq(carry)]
