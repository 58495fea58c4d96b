"""Sum of a row's table values, each with its sign."""

from dataclasses import dataclass

from amaranth import Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.carry_chain import check_primitives, connect_adder, place_adders
from rtl.config import ACTIVATION_BITS, CODE_TERMS, GROUP_CODES
from rtl.timing import tree_levels

ACTIVATION_MAX = (1 << ACTIVATION_BITS - 1) - 1


def sum_bits(codes: int) -> int:
    """Bits of a signed sum of ``codes`` table values."""
    return (CODE_TERMS * ACTIVATION_MAX * codes).bit_length() + 1


@dataclass
class Branch:
    """A subtree: its value, how many codes it sums, and the first of them, whose sign it leaves to its parent."""

    value: Value
    codes: int
    first: int


class AdderTree(wiring.Component):
    """Adds signed values without ever negating one: a node is ``left +- right``, the sign of ``left`` moves up.

    Levels inside a group of seven codes use the relative signs as they come (`rtl.tile_layout`), the levels above
    them combine the groups' signs.

    Latency: ``(levels + 1) // 2`` cycles, one sum per cycle; registers follow the odd levels.

    Parameters
    ----------
    codes : values per sum.
    primitives : see `GatedAdder`.

    Members
    -------
    values : table values.
    signs : relative signs of the values.
    o : magnitude; the sum is ``-o`` if ``negative``, else ``o``.
    negative : sign of the sum.

    Raises
    ------
    ValueError: fewer than two codes, or unknown primitives.
    """

    def __init__(self, *, codes: int, primitives: str) -> None:
        if codes < 2:
            raise ValueError(f"codes must be at least 2, got {codes}")
        check_primitives(primitives)
        self._codes = codes
        self._primitives = primitives
        super().__init__({
            "values": In(data.ArrayLayout(signed(sum_bits(1)), codes)), "signs": In(codes),
            "o": Out(signed(sum_bits(codes))), "negative": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        signs: dict[int, Value] = {code: self.signs[code] for code in range(self._codes)}
        leaves = [Branch(self.values[code], 1, code) for code in range(self._codes)]
        groups = [leaves[group : group + GROUP_CODES] for group in range(0, self._codes, GROUP_CODES)]
        for level in range(tree_levels(self._codes)):
            inside = any(len(group) > 1 for group in groups)
            if not inside:
                groups = [[branch for group in groups for branch in group]]
            groups = self._level(m, f"level_{level}", groups, signs, inside)
            if not inside:
                groups = [[branch] for branch in groups[0]]
            if level % 2 == 0:
                self._register(m, level, groups, signs)
        root = groups[0][0]
        m.d.comb += [self.o.eq(root.value), self.negative.eq(signs[root.first])]
        return m

    def _level(self, m: Module, name: str, groups: list[list[Branch]], signs: dict[int, Value],
               relative: bool) -> list[list[Branch]]:
        """Join neighbours in each group; an odd one out passes."""
        pairs = [(left, right) for group in groups for left, right in zip(group[::2], group[1::2], strict=False)]
        widths = [sum_bits(left.codes + right.codes) for left, right in pairs]
        joined = []
        for (left, right), adder in zip(pairs, place_adders(m, name, widths, primitives=self._primitives),
                                        strict=True):
            subtract = signs[right.first] if relative else signs[left.first] ^ signs[right.first]
            m.d.comb += connect_adder(adder, left.value, right.value, negative=subtract, carry=subtract)
            joined.append(Branch(adder.o.as_signed(), left.codes + right.codes, left.first))
        done = iter(joined)
        return [[next(done) for _ in range(len(group) // 2)] + group[len(group) // 2 * 2 :] for group in groups]

    def _register(self, m: Module, level: int, groups: list[list[Branch]], signs: dict[int, Value]) -> None:
        """Put a register behind every branch and the signs that are still needed."""
        for branch in (branch for group in groups for branch in group):
            value = Signal.like(branch.value, name=f"value_{level}_{branch.first}", reset_less=True)
            sign = Signal(name=f"sign_{level}_{branch.first}", reset_less=True)
            m.d.sync += [value.eq(branch.value), sign.eq(signs[branch.first])]
            branch.value, signs[branch.first] = value, sign
