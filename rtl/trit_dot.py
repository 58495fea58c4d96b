"""Dot product of activations and trits without tables: gated adders, then a tree."""

from amaranth import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.carry_chain import check_primitives, connect_adder, place_adders
from rtl.config import largest_sum
from rtl.op_layout import int8s
from rtl.tile_layout import trits_layout

CHAIN_LANES = 4            # lanes added one after the other in a clock


def dot_bits(lanes: int) -> int:
    """Bits of a signed sum of ``lanes`` activations, also where one is still to be added to it."""
    return largest_sum(lanes, 1).bit_length() + 1


class TritDot(wiring.Component):
    """Adds activations, each taken as it is, negated or not at all.

    A lane is a gated adder: it adds an activation to the sum of the lanes before, inverts it or leaves it out. The
    negation's one more is the adder's carry. The first lane of a chain has no adder, so its carry waits for a node of
    the tree above; the tree has one adder less than chains, and the carry that is left goes out with the sum.

    Latency: two cycles, one sum per cycle.

    Parameters
    ----------
    lanes : activations per sum.
    primitives : see `GatedAdder`.

    Members
    -------
    activations : of magnitude 127 at most.
    trits : their weights.
    o, carry : the sum is ``o + carry``.

    Raises
    ------
    ValueError: fewer than one lane, or unknown primitives.
    """

    def __init__(self, *, lanes: int, primitives: str) -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be positive, got {lanes}")
        check_primitives(primitives)
        self._lanes, self._primitives = lanes, primitives
        super().__init__({"activations": In(int8s(lanes)), "trits": In(trits_layout(lanes)),
                          "o": Out(signed(dot_bits(lanes))), "carry": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chains = [range(start, min(start + CHAIN_LANES, self._lanes)) for start in range(0, self._lanes, CHAIN_LANES)]
        sums = self._chains(m, chains)
        carries = [self.trits[lanes[0]].negative for lanes in chains]
        nodes = []
        for lanes, value, carry in zip(chains, sums, carries, strict=True):
            held = Signal.like(value, name=f"chain_{lanes[0]}", reset_less=True)
            held_carry = Signal(name=f"chain_carry_{lanes[0]}", reset_less=True)
            m.d.sync += [held.eq(value), held_carry.eq(carry)]
            nodes.append((held, held_carry, len(lanes)))
        level = 0
        while len(nodes) > 1:
            pairs = list(zip(nodes[::2], nodes[1::2], strict=False))
            widths = [dot_bits(left[2] + right[2]) for left, right in pairs]
            adders = place_adders(m, f"tree_{level}", widths, primitives=self._primitives)
            joined = []
            for (left, right), adder in zip(pairs, adders, strict=True):
                m.d.comb += connect_adder(adder, left[0], right[0], carry=right[1])
                joined.append((adder.o.as_signed(), left[1], left[2] + right[2]))
            nodes = joined + nodes[len(pairs) * 2 :]
            level += 1
        value, carry, _ = nodes[0]
        total, total_carry = Signal.like(self.o, reset_less=True), Signal(reset_less=True)
        m.d.sync += [total.eq(value), total_carry.eq(carry)]
        m.d.comb += [self.o.eq(total), self.carry.eq(total_carry)]
        return m

    def _chains(self, m: Module, chains: list[range]) -> list:
        """The sums of the lanes of each chain, each one too small where its first lane is negative."""
        sums = []
        for lanes in chains:
            trit, activation = self.trits[lanes[0]], self.activations[lanes[0]].as_unsigned()
            first = (activation ^ trit.negative.replicate(len(activation))) & trit.nonzero.replicate(len(activation))
            sums.append(first.as_signed())
        for place in range(1, CHAIN_LANES):
            longer = [index for index, lanes in enumerate(chains) if len(lanes) > place]
            adders = place_adders(m, f"lane_{place}", [dot_bits(place + 1)] * len(longer), primitives=self._primitives)
            for index, adder in zip(longer, adders, strict=True):
                trit = self.trits[chains[index][place]]
                m.d.comb += connect_adder(adder, sums[index], self.activations[chains[index][place]],
                                          gate=trit.nonzero, negative=trit.negative, carry=trit.negative)
                sums[index] = adder.o.as_signed()
        return sums
