"""Multiply-accumulate units of three number formats, to compare what they cost. No part of the accelerator.

One policy for the accumulator: a register that adds one product, or one sum of products, per clock, and that cannot
overflow within ``terms`` products; ``first`` starts a sum. An integer accumulator has the fewest bits for that. A
float32 accumulator cannot overflow either, but rounds.
"""

from amaranth import C, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

ACTIVATION_BITS = 8
ACTIVATION_MAX = (1 << ACTIVATION_BITS - 1) - 1
TERNARY_WEIGHT = data.StructLayout({"nonzero": 1, "negative": 1})
BFLOAT16 = data.StructLayout({"fraction": 7, "exponent": 8, "negative": 1})
FLOAT32 = data.StructLayout({"fraction": 23, "exponent": 8, "negative": 1})
EXPONENT_BIAS = 127
GUARD_BITS = 3             # below a significand while it is added: guard, round and sticky


def accumulator_bits(largest: int, terms: int) -> int:
    """Bits of a signed sum of ``terms`` products of at most ``largest``."""
    return (largest * terms).bit_length() + 1


def add(a: Value, b: Value, carry: Value) -> Value:
    """``a + b + carry`` for signed operands, in one adder: the carry enters at an extra lowest bit."""
    return ((Cat(carry, a).as_signed() + Cat(carry, b).as_signed()) >> 1).as_signed()


def multiply(m: Module, a: Value, b: Value) -> Value:
    """``a * b`` for signed factors: one adder per bit of ``b``, smaller than what yosys makes of the operator."""
    product, high = [], C(0, signed(1))
    for index in range(len(b) - 1):
        row = Signal(signed(len(a) + 1))
        m.d.comb += row.eq(high + Mux(b[index], a, 0).as_signed())
        product.append(row[0])
        high = row[1:].as_signed()
    last = add(high, Mux(b[-1], ~a, 0).as_signed(), b[-1])
    return Cat(product, last)[: len(a) + len(b)]


class TernaryDot(wiring.Component):
    """``o += sum(activation[i] * weight[i])`` for weights -1, 0 and +1.

    Latency: one cycle; one accumulation per cycle.

    Parameters
    ----------
    inputs : products per clock; more than one are added before they are accumulated.
    terms : products of a sum.

    Members
    -------
    activations : signed, ``ACTIVATION_BITS`` each.
    weights : TERNARY_WEIGHT each.
    first : the sum starts with these products.
    o : sum.
    """

    def __init__(self, *, inputs: int = 1, terms: int) -> None:
        self._inputs = inputs
        super().__init__({
            "activations": In(data.ArrayLayout(signed(ACTIVATION_BITS), inputs)),
            "weights": In(data.ArrayLayout(TERNARY_WEIGHT, inputs)), "first": In(1),
            "o": Out(signed(accumulator_bits(ACTIVATION_MAX, terms)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums, carries = [], []
        for index in range(self._inputs):
            weight, activation = self.weights[index], self.activations[index]
            inverted = activation.as_unsigned() ^ weight.negative.replicate(ACTIVATION_BITS)
            sums.append(Mux(weight.nonzero, inverted, 0).as_signed())
            carries.append(weight.nonzero & weight.negative)
        while len(sums) > 1:
            pairs = list(zip(sums[::2], sums[1::2], strict=False))
            sums = [add(a, b, carries.pop()) for a, b in pairs] + sums[2 * len(pairs) :]
        result = Signal.like(self.o, reset_less=True)
        m.d.sync += result.eq(add(Mux(self.first, 0, result).as_signed(), sums[0], carries.pop()))
        m.d.comb += self.o.eq(result)
        return m


class Int8Mac(wiring.Component):
    """``o += activation * weight`` for a signed 8-bit weight.

    Latency: one cycle; one accumulation per cycle.

    Parameters
    ----------
    terms : see `TernaryDot`.

    Members
    -------
    activation, weight : signed, ``ACTIVATION_BITS`` each.
    first, o : see `TernaryDot`.
    """

    def __init__(self, *, terms: int) -> None:
        super().__init__({"activation": In(signed(ACTIVATION_BITS)), "weight": In(signed(ACTIVATION_BITS)),
                          "first": In(1), "o": Out(signed(accumulator_bits(ACTIVATION_MAX**2, terms)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        result = Signal.like(self.o, reset_less=True)
        product = Signal(signed(2 * ACTIVATION_BITS))
        m.d.comb += product.eq(multiply(m, self.activation, self.weight))
        m.d.sync += result.eq(Mux(self.first, 0, result) + product)
        m.d.comb += self.o.eq(result)
        return m


def shift_right_sticky(m: Module, value: Value, amount: Value) -> Value:
    """``value >> amount`` whose lowest bit is also set if a set bit was shifted out."""
    steps = (len(value) - 1).bit_length()
    for step in range(steps):
        shifted = Signal(len(value))
        m.d.comb += shifted.eq(value >> (1 << step) | value[: (1 << step) + 1].any())
        value = Mux(amount[step], shifted, value)
    return Mux(amount[steps:].any(), value.any(), value)


def normalise(m: Module, value: Value) -> tuple[Value, Value]:
    """``value`` shifted left until its top bit is set, and the shift."""
    amount = []
    for step in reversed(range((len(value) - 1).bit_length())):
        places = 1 << step
        empty = ~value[len(value) - places :].any()
        shifted = Signal(len(value))
        m.d.comb += shifted.eq(Mux(empty, value << places, value))
        value = shifted
        amount.insert(0, empty)
    return value, Cat(amount)


class Bf16Mac(wiring.Component):
    """``o += a * b`` for bfloat16 factors and a float32 sum, rounded once to nearest even.

    Left out: denormals (read and written as zero), infinities, not-a-number, and the detection of overflow.

    Latency: one cycle; one accumulation per cycle.

    Members
    -------
    a, b : BFLOAT16.
    first : see `TernaryDot`.
    o : FLOAT32.
    """

    a: In(BFLOAT16)
    b: In(BFLOAT16)
    first: In(1)
    o: Out(FLOAT32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        result, start = Signal(FLOAT32, reset_less=True), Signal(FLOAT32)
        m.d.comb += [start.eq(Mux(self.first, 0, result.as_value())), self.o.eq(result)]
        m.d.sync += result.eq(self._add(m, self._product(m), start))
        return m

    def _product(self, m: Module) -> data.View:
        """The exact product, as float32."""
        a, b, product = self.a, self.b, Signal(FLOAT32)
        significand, exponent = Signal(16), Signal(signed(11))
        carry = significand[-1]
        m.d.comb += [
            significand.eq(Cat(a.fraction, 1) * Cat(b.fraction, 1)),
            exponent.eq(a.exponent + b.exponent - EXPONENT_BIAS + carry),
            product.negative.eq(a.negative ^ b.negative),
        ]
        with m.If((a.exponent != 0) & (b.exponent != 0) & (exponent > 0)):
            m.d.comb += [product.exponent.eq(exponent), product.fraction[8:].eq(
                Mux(carry, significand[:15], Cat(0, significand[:14])))]
        return product

    def _add(self, m: Module, x: data.View, y: data.View) -> Value:
        """``x + y``."""
        swap = Signal()
        magnitude = len(x.fraction) + len(x.exponent)
        m.d.comb += swap.eq(x.as_value()[:magnitude] < y.as_value()[:magnitude])
        large, small = Signal(FLOAT32), Signal(FLOAT32)
        m.d.comb += [large.eq(Mux(swap, y.as_value(), x.as_value())), small.eq(Mux(swap, x.as_value(), y.as_value()))]
        big, little = (Signal(unsigned(GUARD_BITS + len(x.fraction) + 1)) for _ in range(2))
        distance = Signal(len(x.exponent))
        m.d.comb += [
            big.eq(Cat(C(0, GUARD_BITS), large.fraction, large.exponent != 0)),
            little.eq(Cat(C(0, GUARD_BITS), small.fraction, small.exponent != 0)),
            distance.eq(large.exponent - small.exponent),
        ]
        aligned = shift_right_sticky(m, little, distance)
        subtract = large.negative ^ small.negative
        raw = Signal(len(big) + 1)
        inverted = aligned ^ subtract.replicate(len(big))
        m.d.comb += raw.eq((Cat(subtract, big) + Cat(subtract, inverted, subtract))[1:])
        shifted, places = normalise(m, raw)
        kept, guard, rest = shifted[GUARD_BITS + 1 :], shifted[GUARD_BITS], shifted[:GUARD_BITS]
        rounded = Signal(len(kept) + 1)
        m.d.comb += rounded.eq(kept + (guard & (rest.any() | kept[0])))
        exponent = Signal(signed(len(x.exponent) + 2))
        m.d.comb += exponent.eq(large.exponent + 1 - places + rounded[-1])
        normal = raw.any() & (exponent > 0)
        return Mux(normal, Cat(rounded[: len(x.fraction)], exponent[: len(x.exponent)], large.negative), 0)
