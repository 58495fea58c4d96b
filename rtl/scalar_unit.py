"""Scalar unit: products, reciprocals and roots of scalars, and the registers that hold them."""

from amaranth import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.isa import MANTISSA_BITS, NO_SCALAR, SCALAR_EXPONENT_BITS, Opcode, ScalarFn
from rtl.op_layout import SCALAR, op_layout, read_port, result_layout
from rtl.scalar_registers import ScalarRegisters
from sim import fixed

FRACTION_BITS = fixed.TABLE_FRACTION_BITS + 1
SLOPE_BITS = 8
POINT = data.StructLayout({"base": MANTISSA_BITS + 1, "drop": SLOPE_BITS})


class Step(enum.Enum, shape=2):
    """What the multiplier's product is."""

    INTERPOLATE = 0
    REGISTER = 1
    IMMEDIATE = 2


def _table() -> list[dict[str, int]]:
    """Points of the reciprocal, then of the reciprocal square root."""
    base = [*fixed.RECIPROCAL_BASE, *fixed.RSQRT_BASE]
    drop = [*fixed.RECIPROCAL_DROP, *fixed.RSQRT_DROP]
    return [{"base": int(b), "drop": int(d)} for b, d in zip(base, drop, strict=True)]


class ScalarUnit(wiring.Component):
    """Executes SCALAR operations as ``sim.golden`` defines them, and stores the scalars of all units.

    Latency: ``busy`` is high for ``timing.scalar_cycles`` after an operation was taken. Its own result goes before
    ``results``, of which one is taken per cycle. A read whose address is given two cycles after a result was taken
    sees it: with ``busy`` low from the cycle between, that suits units which register their operation first.

    Parameters
    ----------
    has_history, slot_bits : see `ScalarRegisters`.

    Members
    -------
    op : operations.
    busy : an operation is under way.
    results : integers that other units leave in registers; the first has precedence.
    read : read ports of other units.
    temperature : what register ``TEMPERATURE_SCALAR`` reads.
    history : see `ScalarRegisters`; only with ``has_history``.
    """

    def __init__(self, *, has_history: bool = False, slot_bits: int = 0) -> None:
        self._has_history, self._slot_bits = has_history, slot_bits
        super().__init__({
            "op": In(stream.Signature(op_layout(Opcode.SCALAR, slot_bits))),
            "busy": Out(1),
            "results": In(stream.Signature(result_layout(slot_bits))).array(3),
            "read": In(read_port(SCALAR, 5 + slot_bits)).array(2),
            "temperature": In(SCALAR)} | ({"history": In(1)} if has_history else {}))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.registers = registers = ScalarRegisters(
            writers=len(self.results) + 1, readers=len(self.read) + 2, has_history=self._has_history,
            slot_bits=self._slot_bits)
        m.submodules.table = table = memory.Memory(shape=POINT, depth=2 * fixed.TABLE_ENTRIES, init=_table())
        for inner, outer in zip(registers.results[1:], self.results, strict=True):
            wiring.connect(m, inner, wiring.flipped(outer))
        for inner, outer in zip(registers.read[2:], self.read, strict=True):
            wiring.connect(m, inner, wiring.flipped(outer))
        m.d.comb += registers.temperature.eq(self.temperature)
        if self._has_history:
            m.d.comb += registers.history.eq(self.history)
        result, (a, b) = registers.results[0], (registers.read[0].data, registers.read[1].data)
        point = table.read_port()

        operation = Signal(self.op.payload.shape(), reset_less=True)
        root = operation.fn == ScalarFn.RSQRT
        offset = a.mantissa[: MANTISSA_BITS - 1]
        m.d.comb += [
            registers.read[0].address.eq(operation.ra), registers.read[1].address.eq(operation.rb),
            point.addr.eq(Mux(root, Cat(offset[FRACTION_BITS:], a.exponent[0], C(1, 1)), offset[FRACTION_BITS - 1 :])),
        ]
        first, second = Signal(MANTISSA_BITS, reset_less=True), Signal(SCALAR, reset_less=True)
        exponent, step = Signal(signed(SCALAR_EXPONENT_BITS), reset_less=True), Signal(Step)
        product = Signal(2 * MANTISSA_BITS, reset_less=True)
        delivers = Signal()     # decoded ahead: all other results wait for this one
        m.d.sync += product.eq(first * second.mantissa)
        # A product of two mantissas has one bit less than both together, or as many.
        wide = product[-1]
        normal = Mux(wide, product[MANTISSA_BITS:], product[MANTISSA_BITS - 1 :])
        # Block RAM is too slow to subtract from in the cycle of its data.
        base = Signal.like(point.data.base, reset_less=True)
        interpolated = base - product[SLOPE_BITS:]
        m.d.comb += [
            result.payload.register.eq(operation.rd), result.payload.value.eq(normal[:MANTISSA_BITS]),
            result.payload.exponent.eq(exponent + second.exponent + (MANTISSA_BITS - 1) + wide),
        ]

        def load_factor() -> None:
            """The next product is with S(rb) if there is one, else with the immediate."""
            with m.If((step == Step.REGISTER) | (operation.rb[: NO_SCALAR.bit_length()] == NO_SCALAR)):
                m.d.sync += [second.mantissa.eq(operation.mantissa), second.exponent.eq(operation.exponent),
                             step.eq(Step.IMMEDIATE)]
            with m.Else():
                m.d.sync += [second.eq(b), step.eq(Step.REGISTER)]

        m.d.comb += [self.busy.eq(1), result.valid.eq(delivers)]
        m.d.sync += delivers.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.busy.eq(0), self.op.ready.eq(1)]
                m.d.sync += [operation.eq(self.op.payload), step.eq(Step.INTERPOLATE)]
                with m.If(self.op.valid):
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.comb += [registers.read[0].enable.eq(1), registers.read[1].enable.eq(1)]
                m.next = "DATA"
            with m.State("DATA"):
                m.next = "MULTIPLY"
                load_factor()
                m.d.sync += [first.eq(a.mantissa), exponent.eq(a.exponent)]
                with m.Switch(operation.fn):
                    with m.Case(ScalarFn.BLOCK):
                        excess = a.exponent + (MANTISSA_BITS - 7)
                        m.d.sync += [first.eq(fixed.HALF), exponent.eq(1 - MANTISSA_BITS - Mux(excess < 0, 0, excess))]
                    with m.Case(ScalarFn.RECIPROCAL):
                        m.d.sync += [exponent.eq(1 - 2 * MANTISSA_BITS - a.exponent), step.eq(Step.INTERPOLATE)]
                        m.next = "TABLE"
                    with m.Case(ScalarFn.RSQRT):
                        m.d.sync += [exponent.eq(-23 - (a.exponent >> 1) - a.exponent[0]), step.eq(Step.INTERPOLATE)]
                        m.next = "TABLE"
            with m.State("TABLE"):
                m.d.sync += [
                    base.eq(point.data.base), first.eq(point.data.drop),
                    second.mantissa.eq(Mux(root, offset[:FRACTION_BITS], offset[: FRACTION_BITS - 1] << 1))]
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += delivers.eq(step == Step.IMMEDIATE)
                m.next = "POST"
            with m.State("POST"):
                with m.If(step == Step.IMMEDIATE):
                    m.next = "IDLE"
                with m.Else():
                    load_factor()
                    m.d.sync += first.eq(normal)
                    with m.If(step == Step.INTERPOLATE):
                        m.d.sync += first.eq(Mux(interpolated >> MANTISSA_BITS, (1 << MANTISSA_BITS) - 1, interpolated))
                    with m.Else():
                        m.d.sync += exponent.eq(result.payload.exponent)
                    m.next = "MULTIPLY"
        return m
