"""Scalar registers: integers from all units are normalised on their way in, scalars are read by all."""

from amaranth import C, Cat, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.isa import HISTORY_SCALAR, MANTISSA_BITS, NO_SCALAR, SCALARS, TEMPERATURE_SCALAR
from rtl.op_layout import RESULT, SCALAR, read_port, result_layout
from sim.fixed import NOTHING, ONE

VALUE_BITS = RESULT["value"].width
NIBBLE_BITS = 4
NIBBLES = VALUE_BITS // NIBBLE_BITS
ALIGNED_BITS = MANTISSA_BITS + NIBBLE_BITS - 1


class Normaliser(wiring.Component):
    """``fixed.normalise`` of a result: a mantissa with its top bit set; zero counts as one.

    Latency: one cycle, one result per cycle.

    Members
    -------
    i : result.
    o : scalar, with the exponent of the result added.
    """

    def __init__(self) -> None:
        super().__init__({"i": In(RESULT), "o": Out(SCALAR)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Coarse: from the leading nibble down.
        aligned, exponent = Signal(ALIGNED_BITS, reset_less=True), Signal.like(self.i.exponent, reset_less=True)
        below = C(0, ALIGNED_BITS - NIBBLE_BITS)
        padded = Cat(below, self.i.value)
        m.d.sync += [
            aligned.eq(C(1 << ALIGNED_BITS - NIBBLE_BITS, ALIGNED_BITS)),
            exponent.eq(self.i.exponent + NIBBLE_BITS - MANTISSA_BITS),
        ]
        for nibble in range(NIBBLES):
            with m.If(self.i.value.word_select(nibble, NIBBLE_BITS).any()):
                m.d.sync += [
                    aligned.eq(padded[nibble * NIBBLE_BITS :][:ALIGNED_BITS]),
                    exponent.eq(self.i.exponent + (nibble + 1) * NIBBLE_BITS - MANTISSA_BITS),
                ]
        # Fine: up to three more bits.
        for zeros in reversed(range(NIBBLE_BITS)):
            with m.If(aligned[-1 - zeros]):
                m.d.comb += [
                    self.o.mantissa.eq(aligned[NIBBLE_BITS - 1 - zeros :]), self.o.exponent.eq(exponent - zeros)]
        return m


class ScalarRegisters(wiring.Component):
    """The registers, with one write and several read ports.

    Registers ``NO_SCALAR`` and ``TEMPERATURE_SCALAR`` read as constants of a run, ``HISTORY_SCALAR`` as one of a token
    if there is a history, whatever is written to them.

    Latency: read data follow the address by one cycle; an address given two cycles after a result was taken sees it.
    One result per cycle: ``results[0]`` first, then ``results[1]`` and so on.

    Parameters
    ----------
    writers : result streams.
    readers : read ports.
    has_history : whether there is ``HISTORY_SCALAR``.
    slot_bits : of the slot's number, which leads a register's: every slot has registers of its own.

    Members
    -------
    results : integers to normalise and store.
    read : read ports.
    temperature : what ``TEMPERATURE_SCALAR`` reads.
    history : whether ``HISTORY_SCALAR`` reads one, else nothing; constant while it is read; only with ``has_history``.

    Raises
    ------
    ValueError: no writer or no reader.
    """

    def __init__(self, *, writers: int, readers: int, has_history: bool = False, slot_bits: int = 0) -> None:
        if writers < 1 or readers < 1:
            raise ValueError(f"writers and readers must be positive, got {writers} and {readers}")
        self._has_history, self._depth = has_history, SCALARS << slot_bits
        self._result = result_layout(slot_bits)
        super().__init__(({"history": In(1)} if has_history else {}) | {
            "results": In(stream.Signature(self._result)).array(writers),
            "read": In(read_port(SCALAR, ceil_log2(self._depth))).array(readers),
            "temperature": In(SCALAR)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        one = SCALAR.const({"mantissa": ONE.mantissa, "exponent": ONE.exponent})
        m.submodules.cells = cells = memory.Memory(
            shape=SCALAR, depth=self._depth, init=[one] * self._depth, attrs={"ram_style": "distributed"})
        m.submodules.normaliser = normaliser = Normaliser()
        write = cells.write_port()

        # Stages: n normalise, w write.
        n_result, n_valid = Signal(self._result, reset_less=True), Signal()
        taken = C(0, 1)
        chosen = C(0, self._result.size)
        for result in self.results:
            m.d.comb += result.ready.eq(~taken)
            chosen = chosen | Mux(result.valid & ~taken, result.payload.as_value(), 0)
            taken = taken | result.valid
        m.d.sync += [n_result.eq(chosen), n_valid.eq(taken)]
        m.d.comb += [normaliser.i.value.eq(n_result.value), normaliser.i.exponent.eq(n_result.exponent),
                     write.data.eq(normaliser.o)]
        m.d.sync += [write.en.eq(n_valid), write.addr.eq(n_result.register)]

        for port in self.read:
            read = cells.read_port(transparent_for=(write,))
            constant, temperature = Signal(), Signal()
            register = port.address[: ceil_log2(SCALARS)]
            m.d.comb += [read.en.eq(port.enable), read.addr.eq(port.address)]
            with m.If(port.enable):
                m.d.sync += [
                    constant.eq(register == NO_SCALAR), temperature.eq(register == TEMPERATURE_SCALAR)]
            value = read.data
            if self._has_history:
                nothing = SCALAR.const({"mantissa": NOTHING.mantissa, "exponent": NOTHING.exponent})
                history = Signal()
                with m.If(port.enable):
                    m.d.sync += history.eq(register == HISTORY_SCALAR)
                value = Mux(history, Mux(self.history, one, nothing), value)
            m.d.comb += port.data.eq(Mux(constant, one, Mux(temperature, self.temperature, value)))
        return m
