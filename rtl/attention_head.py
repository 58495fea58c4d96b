"""The arithmetic of one attention head: products to scores, scores to weights."""

from amaranth import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.config import ACTIVATION_BITS, EXPONENT_BITS, SCORE_BITS, SCORE_FRACTION
from rtl.exp2 import PROBABILITY_BITS, Exp2Negative

PRODUCT_BITS = 2 * ACTIVATION_BITS
FINE_BITS = 3              # the score's shift: 0..7 before rounding, a multiple of eight after it


def delayed(m: Module, value: Value, cycles: int, *, name: str) -> Value:
    """``value`` as it was ``cycles`` cycles ago."""
    for cycle in range(cycles):
        register = Signal(value.shape(), name=f"{name}_{cycle + 1}", reset_less=True)
        m.d.sync += register.eq(value)
        value = register
    return value


class HeadScore(wiring.Component):
    """Sum of products, scaled by a power of two and rounded to a score.

    Latency: ``timing.score_cycles(head_dim)``, one score per cycle.

    Parameters
    ----------
    head_dim : products per score.

    Members
    -------
    products : of query and key elements.
    exponent : the score is ``products.sum() * 2**(exponent - SCORE_FRACTION)``, rounded half up and saturated.
    score : with ``SCORE_FRACTION`` fraction bits.

    Raises
    ------
    ValueError: fewer than two products.
    """

    def __init__(self, *, head_dim: int) -> None:
        if head_dim < 2:
            raise ValueError(f"head_dim must be at least 2, got {head_dim}")
        self._head_dim = head_dim
        super().__init__({
            "products": In(data.ArrayLayout(signed(PRODUCT_BITS), head_dim)),
            "exponent": In(EXPONENT_BITS + 1),
            "score": Out(signed(SCORE_BITS))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        values: list[Value] = [self.products[lane] for lane in range(self._head_dim)]
        for level in range(ceil_log2(self._head_dim)):
            pairs = [values[at : at + 2] for at in range(0, len(values), 2)]
            values = []
            for index, pair in enumerate(pairs):
                combined = sum(pair[1:], pair[0])
                register = Signal(combined.shape(), name=f"level{level}_{index}", reset_less=True)
                m.d.sync += register.eq(combined)
                values.append(register)
        # Narrower than the tree's own last level where head_dim is not a power of two.
        dot = values[0][: (self._head_dim << PRODUCT_BITS - 2).bit_length() + 1].as_signed()

        exponent = delayed(m, self.exponent, ceil_log2(self._head_dim), name="exponent")
        fine, coarse = exponent[:FINE_BITS], exponent[FINE_BITS:]
        f_dot = Signal(signed(len(dot) + (1 << FINE_BITS) - 1), reset_less=True)
        f_coarse = Signal.like(coarse, reset_less=True)
        r_dot = Signal(signed(len(f_dot) + 1), reset_less=True)
        r_coarse = Signal.like(coarse, reset_less=True)
        # What is half a unit of the score at a coarse shift of 0, 8, 16 and 24.
        half = Array([1 << SCORE_FRACTION - 1, 1 << SCORE_FRACTION - 9, 0, 0])[f_coarse]
        m.d.sync += [
            f_dot.eq(dot << fine), f_coarse.eq(coarse),
            r_dot.eq(f_dot + half), r_coarse.eq(f_coarse),
        ]
        shifted, excess = [], []
        for shift in (0, 8, 16, 24):
            score = r_dot << shift >> SCORE_FRACTION
            top = score[SCORE_BITS - 1 :]
            shifted.append(score[:SCORE_BITS])
            excess.append(top.any() & ~top.all())
        limit = Cat((~r_dot[-1]).replicate(SCORE_BITS - 1), r_dot[-1])
        s_score = Signal.like(self.score, reset_less=True)
        m.d.sync += s_score.eq(Mux(Array(excess)[r_coarse], limit, Array(shifted)[r_coarse]))
        m.d.comb += self.score.eq(s_score)
        return m


class HeadWeight(wiring.Component):
    """Softmax numerator of one head: the greatest score, then probabilities, their sum, and weights of values.

    Latency: ``2 + EXP2_CYCLES`` from ``stored`` to its probability, two more to ``weight``; one value per cycle.

    Parameters
    ----------
    context : positions that the sum can hold.

    Members
    -------
    clear : forget the greatest score and the sum.
    score, score_valid : a score that counts towards the greatest.
    stored : a score to be weighted, from the second cycle after the last ``score_valid`` on.
    probability_valid : the probability of the ``stored`` of ``2 + EXP2_CYCLES`` ago counts towards the sum.
    shift : right shift from that probability to its weight.
    weight : rounded half up.
    total : sum of the probabilities.
    """

    def __init__(self, *, context: int) -> None:
        super().__init__({
            "clear": In(1),
            "score": In(signed(SCORE_BITS)), "score_valid": In(1),
            "stored": In(signed(SCORE_BITS)),
            "probability_valid": In(1),
            "shift": In(EXPONENT_BITS),
            "weight": Out(PROBABILITY_BITS),
            "total": Out(PROBABILITY_BITS + ceil_log2(context))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.exp2 = exp2 = Exp2Negative()
        lowest = -1 << SCORE_BITS - 1
        greatest = Signal(signed(SCORE_BITS), init=lowest)
        own = Signal(signed(SCORE_BITS), reset_less=True)
        distance = Signal(SCORE_BITS, reset_less=True)
        # One bit below the weight is kept, so that rounding is one increment.
        shifted = Signal(PROBABILITY_BITS + 1, reset_less=True)
        weight = Signal.like(self.weight, reset_less=True)
        m.d.sync += [
            own.eq(self.stored),
            distance.eq(greatest - own),
            shifted.eq((exp2.probability << 1) >> self.shift),
            weight.eq((shifted + 1) >> 1),
        ]
        m.d.comb += [exp2.distance.eq(distance), self.weight.eq(weight)]
        with m.If(self.clear):
            m.d.sync += [greatest.eq(lowest), self.total.eq(0)]
        with m.Else():
            with m.If(self.score_valid & (self.score > greatest)):
                m.d.sync += greatest.eq(self.score)
            with m.If(self.probability_valid):
                m.d.sync += self.total.eq(self.total + exp2.probability)
        return m
