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


def adder_signature(width: int) -> wiring.Signature:
    """Ports of one adder as seen by itself, see `GatedAdder`."""
    return wiring.Signature({"a": In(width), "b": In(width), "gate": In(1), "negative": In(1), "carry": In(1),
                             "o": Out(width)})


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
        self._primitives = primitives
        super().__init__(adder_signature(width))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        add(m, [self], self._primitives)
        return m


class AdderPair(wiring.Component):
    """Two gated adders in one chain, which is a half cell shorter than two chains for each even width.

    Latency: none, combinational.

    Parameters
    ----------
    widths : bits of the first and of the second adder.
    primitives : see `GatedAdder`.

    Members
    -------
    first, second : the adders, each with the ports of a `GatedAdder`.

    Raises
    ------
    ValueError: a width below one, or unknown primitives.
    """

    def __init__(self, *, widths: tuple[int, int], primitives: str) -> None:
        if min(widths) < 1:
            raise ValueError(f"widths must be positive, got {widths}")
        check_primitives(primitives)
        self._primitives = primitives
        first, second = widths
        super().__init__({"first": Out(adder_signature(first)), "second": Out(adder_signature(second))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        add(m, [self.first, self.second], self._primitives)
        return m


def add(m: Module, adders: list, primitives: str) -> None:
    """Drive the sums of adders that lie in one chain."""
    if primitives == "portable":
        for adder in adders:
            operand = (adder.b ^ adder.negative.replicate(len(adder.b))) & adder.gate.replicate(len(adder.b))
            m.d.comb += adder.o.eq(adder.a + operand + adder.carry)
        return
    one = C(1)
    halves: list[tuple[int, Value, Value, Value, Value]] = []
    for adder in adders:
        halves.append((INJECT, adder.carry, one, one, one))
        halves += [(GATED_ADD, a, b, adder.gate, adder.negative) for a, b in zip(adder.a, adder.b, strict=True)]
    sums = chain(m, halves)
    start = 1
    for adder in adders:
        m.d.comb += adder.o.eq(sums[start : start + len(adder.o)])
        start += len(adder.o) + 1


def chain(m: Module, halves: list[tuple[int, Value, Value, Value, Value]]) -> Signal:
    """Chain half cells (contents, A, B, C, D), two per CCU2C, leaving the ends open; returns the sum of each."""
    halves = halves + [(0, C(0), C(0), C(0), C(0))] * (len(halves) % 2)
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
    return sums


def place_adders(m: Module, name: str, widths: list[int], *, primitives: str) -> list:
    """Adders of these widths as submodules of ``m``; each two of even width share a chain."""
    adders: dict[int, object] = {}
    waiting: int | None = None
    for index, width in enumerate(widths):
        if width % 2 == 0 and waiting is None:
            waiting = index
        elif width % 2 == 0:
            m.submodules[f"{name}_{waiting}_{index}"] = pair = AdderPair(
                widths=(widths[waiting], width), primitives=primitives)
            adders[waiting], adders[index], waiting = pair.first, pair.second, None
        else:
            m.submodules[f"{name}_{index}"] = adders[index] = GatedAdder(width=width, primitives=primitives)
    if waiting is not None:
        m.submodules[f"{name}_{waiting}"] = adders[waiting] = GatedAdder(width=widths[waiting], primitives=primitives)
    return [adders[index] for index in range(len(widths))]


def connect_adder(adder: object, a: Value, b: Value, *, gate: Value | int = 1, negative: Value | int = 0,
                  carry: Value | int = 0) -> list:
    """Assignments of every input of an adder; signed operands are extended."""
    return [adder.a.eq(a), adder.b.eq(b), adder.gate.eq(gate), adder.negative.eq(negative), adder.carry.eq(carry)]
