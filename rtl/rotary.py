"""Rotary unit: sine and cosine of the current position, from a table of coarse and fine rotations."""

import numpy as np
from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.isa import Opcode
from rtl.op_layout import ROTATION, load_port, op_layout
from sim.fixed import ROTARY_FRACTION

FACTOR_BITS = 16


class Rotary(wiring.Component):
    """Computes the rotation of each pair as the product of its coarse and fine rotations.

    Latency: ``busy`` is high for ``timing.rotary_cycles`` after an operation was taken; five cycles per pair.

    Parameters
    ----------
    context_log2 : position bits.
    head_dim : elements per head; two per pair.
    init : int16 [2, 2**index_bits, pairs, 2], coarse and fine factors the table holds at power-up; None for zeros.

    Members
    -------
    op : operations.
    busy : an operation is under way, and ``factors`` are changing.
    position : current position, constant while busy.
    factors : cosine and sine per pair; those of position 0 at power-up.
    load : writes the table; address ``fine | index | pair | sine``, 16 bits of data.

    Raises
    ------
    ValueError: ``head_dim`` odd or below two, no position bits, or ``init`` of another shape.
    """

    def __init__(self, *, context_log2: int, head_dim: int, init: np.ndarray | None = None) -> None:
        if head_dim < 2 or head_dim % 2:
            raise ValueError(f"head_dim {head_dim} must be even and at least 2")
        if context_log2 < 1:
            raise ValueError(f"context_log2 must be positive, got {context_log2}")
        self._pairs = head_dim // 2
        self._index_bits = (context_log2 + 1) // 2
        shape = (2, 1 << self._index_bits, self._pairs, 2)
        if init is not None and init.shape != shape:
            raise ValueError(f"init must have shape {shape}, got {init.shape}")
        self._pair_bits = ceil_log2(self._pairs)
        padding = ((0, 0), (0, 0), (0, (1 << self._pair_bits) - self._pairs), (0, 0))
        self._words = [] if init is None else np.pad(init, padding).reshape(-1, 2).tolist()
        super().__init__({
            "op": In(stream.Signature(op_layout(Opcode.ROTARY))),
            "busy": Out(1),
            "position": In(context_log2),
            "factors": Out(data.ArrayLayout(ROTATION, self._pairs)),
            "load": In(load_port())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Block RAM even where it is short: that is what `host.swap` can change in a routed bitstream.
        m.submodules.table = table = memory.Memory(
            shape=data.ArrayLayout(signed(FACTOR_BITS), 2), depth=1 << 1 + self._index_bits + self._pair_bits,
            init=self._words, attrs={"ram_style": "block"})
        write, read = table.write_port(granularity=1), table.read_port()
        m.d.comb += [
            write.en.eq(Mux(self.load.enable, Mux(self.load.address[0], 0b10, 0b01), 0)),
            write.addr.eq(self.load.address[1:]),
            write.data[0].eq(self.load.data), write.data[1].eq(self.load.data),
        ]

        phase, pair = Signal(range(5)), Signal(range(self._pairs + 1))
        coarse, fine = (Signal(ROTATION, name=name, reset_less=True) for name in ("coarse", "fine"))
        step = 1 << self._index_bits
        address = Mux(phase == 0, self.position >> self._index_bits, self.position & (step - 1) | step)
        m.d.comb += read.addr.eq(Cat(pair[: self._pair_bits], address[: self._index_bits + 1]))
        with m.If(phase == 1):
            m.d.sync += coarse.eq(Cat(read.data[0], read.data[1]))
        with m.If(phase == 2):
            m.d.sync += fine.eq(Cat(read.data[0], read.data[1]))

        with m.If(self.op.ready & self.op.valid):
            m.d.sync += [self.busy.eq(1), phase.eq(0), pair.eq(0)]
        with m.Elif(self.busy):
            m.d.sync += phase.eq(phase + 1)
            with m.If(phase == 4):
                m.d.sync += [phase.eq(0), pair.eq(pair + 1), self.busy.eq(pair != self._pairs)]
        m.d.comb += self.op.ready.eq(~self.busy)
        self._multiply(m, phase, pair, coarse, fine)
        return m

    def _multiply(self, m: Module, phase: Signal, pair: Signal, coarse: data.View, fine: data.View) -> None:
        """The four products of a pair follow its reads and overlap those of the next pair."""
        first, second = (Signal(signed(FACTOR_BITS), reset_less=True) for _ in range(2))
        product, total = (Signal(signed(2 * FACTOR_BITS), reset_less=True) for _ in range(2))
        cosine = Signal(signed(FACTOR_BITS), reset_less=True)
        take = Signal(self._pairs)     # which pair the results of phase 4 are of: decoded ahead, it has many loads
        rounded = (total + (1 << ROTARY_FRACTION - 1)) >> ROTARY_FRACTION
        m.d.sync += product.eq(first * second)
        m.d.sync += take.eq(Mux(self.busy & (phase == 3), Cat(pair == index + 1 for index in range(self._pairs)), 0))
        factors = Signal(self.factors.shape(), reset_less=True,
                         init=[{"cosine": 1 << ROTARY_FRACTION, "sine": 0}] * self._pairs)
        m.d.comb += self.factors.eq(factors)
        for index, factor in enumerate(factors):
            with m.If(take[index]):
                m.d.sync += [factor.cosine.eq(cosine), factor.sine.eq(rounded)]
        with m.Switch(phase):
            with m.Case(3):
                m.d.sync += [first.eq(coarse.cosine), second.eq(fine.cosine), total.eq(total + product)]
            with m.Case(4):
                m.d.sync += [first.eq(coarse.sine), second.eq(fine.sine)]
            with m.Case(0):
                m.d.sync += [first.eq(coarse.sine), second.eq(fine.cosine), total.eq(product)]
            with m.Case(1):
                m.d.sync += [first.eq(coarse.cosine), second.eq(fine.sine), total.eq(total - product)]
            with m.Case(2):
                m.d.sync += [cosine.eq(rounded), total.eq(product)]
