"""Largest absolute value of all elements that the rows of an engine put out."""

from amaranth import C, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.carry_chain import check_primitives, connect_adder, place_adders
from rtl.config import ELEMENT_BITS
from rtl.op_layout import elements
from rtl.timing import peak_steps

MAGNITUDE_BITS = ELEMENT_BITS - 1
SIGNED_MAGNITUDE = data.StructLayout({"magnitude": MAGNITUDE_BITS, "negative": 1})


class Peak(wiring.Component):
    """Keeps the peak of each row; when asked, halves the rows until one is left.

    A peak is kept as ``magnitude ^ -negative``, so its absolute value is ``magnitude + negative``.

    Latency: ``value`` is valid with ``done``, ``1 + peak_steps(rows)`` cycles after ``finish``.

    Parameters
    ----------
    rows : elements per clock.
    primitives : see `GatedAdder`.

    Members
    -------
    clear : forget; not while elements are valid.
    valid : elements are present.
    finish : the elements are the last; together with ``valid``.
    elements : one per row.
    value : peak.
    done : high for one cycle.

    Raises
    ------
    ValueError: fewer than one row, or unknown primitives.
    """

    def __init__(self, *, rows: int, primitives: str) -> None:
        if rows < 1:
            raise ValueError(f"rows must be positive, got {rows}")
        check_primitives(primitives)
        self._rows, self._primitives = rows, primitives
        super().__init__({
            "clear": In(1), "valid": In(1), "finish": In(1), "elements": In(elements(rows)),
            "value": Out(MAGNITUDE_BITS + 1), "done": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        steps = peak_steps(self._rows)
        peaks = [Signal(SIGNED_MAGNITUDE, name=f"peak_{row}") for row in range(self._rows)]
        step = Signal(steps + 1)
        m.d.sync += step.eq(self.finish | step << 1)
        m.d.comb += [self.done.eq(step[steps]), self.value.eq(peaks[0].magnitude + peaks[0].negative)]
        differences = place_adders(m, "difference", [MAGNITUDE_BITS + 1] * self._rows, primitives=self._primitives)
        for row, (peak, difference) in enumerate(zip(peaks, differences, strict=True)):
            candidate = Signal(SIGNED_MAGNITUDE, name=f"candidate_{row}")
            present = self.valid
            negative = self.elements[row][-1]
            m.d.comb += [candidate.negative.eq(negative),
                         candidate.magnitude.eq(self.elements[row] ^ negative.replicate(MAGNITUDE_BITS))]
            remaining = self._rows
            for index in range(steps):
                half = (remaining + 1) // 2
                if row + half < remaining:
                    with m.If(step[index]):
                        m.d.comb += candidate.eq(peaks[row + half])
                    present |= step[index]
                remaining = half
            better = Signal(name=f"better_{row}")
            compare_peaks(m, difference, candidate, peak, better)
            with m.If(self.clear):
                m.d.sync += peak.eq(0)
            with m.Elif(present & better):
                m.d.sync += peak.eq(candidate)
        return m


def compare_peaks(m: Module, difference: object, candidate: data.View, peak: data.View, better: Signal) -> None:
    """``better`` if the candidate is larger; if they are equal, it may be either. The adder ``difference`` compares."""
    # candidate - peak counts the two signs, but for one case: both ones are in it if only the candidate is
    # negative, where the result is one too small, which matters only between equal values.
    m.d.comb += [*connect_adder(difference, candidate.magnitude, peak.magnitude, negative=C(1),
                                carry=Mux(candidate.negative, 1, ~peak.negative)),
                 better.eq(~difference.o[-1])]
