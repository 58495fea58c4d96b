"""Emits the token program of a MatMul-free language model: a recurrence in the place of attention."""

from host.gains import GAIN_PEAK
from host.program import Scalars
from host.token_program import TokenProgram
from rtl.isa import HISTORY_SCALAR, NO_SCALAR, SQUARE_SHIFT, Unit
from sim.fixed import SIGMOID_ONE, SILU_FRACTION

# A state is a mean of SiLUs and so no larger than the largest of them: 16 at most, and steps that inputs, which vary
# far more than half a unit, dither.
STATE_FRACTION = 13
OUTER_NORM = {"gate": "feed", "head": "final"}


class HgrnScalars(Scalars):
    """Register numbers besides those of all programs, which use none of the heads'."""

    TO_STATE, FROM_STATE, OWN_PEAK = range(Scalars.HEADS, Scalars.HEADS + 3)


S = HgrnScalars


class HgrnProgram(TokenProgram):
    """The operations of one token of HGRN-bit.

    Vector memory keeps the state h of each layer from token to token, negated. With SIGMOID, which is one less than the
    sigmoid, the recurrence then is a sum, a product and a sum, and SiLU of the state is a product:

        -h += (f - 1) * (silu(i) - h),    silu(h) = -h * (sigmoid(-h) - 1)

    The norm of a projection cancels the scale of what it reads. Of the norm of a layer, which comes before it, only the
    gains are left, and of neither the epsilon.
    """

    def _prepare(self) -> None:
        """Factors between the formats of states and of SiLU; no position enters."""
        one_step = 2.0 ** (STATE_FRACTION - SILU_FRACTION)
        self.emit.scalar(S.TO_STATE, NO_SCALAR, constant=one_step)
        self.emit.scalar(S.FROM_STATE, NO_SCALAR, constant=1 / one_step)

    def _normed_matvec(self, name: str, destination: int, peak: int) -> None:
        """A matrix times the residual stream, normed for the layer and once more for this matrix."""
        layer, _, part = name.rpartition(".")
        outer = f"{layer}.{OUTER_NORM[part]}" if layer else OUTER_NORM[part]
        self._own_normed_matvec(name, self._outer_normed(outer), destination, peak, is_first=True)

    def _outer_normed(self, norm: str) -> int:
        """The residual stream times the gains of a layer's norm; returns its place. Its peak is in S.PEAK."""
        at = self.layout
        return self._gained(norm, at.x, at.hidden_beats, place=at.normed)

    def _own_normed_matvec(self, name: str, source: int, destination: int, peak: int, *, is_first: bool) -> None:
        """A matrix times what its own norm makes of a vector; S.ACT is the scale, as for attention.

        Parameters
        ----------
        is_first : whether the sum of squares of the vector is not known yet.
        """
        own_peak = self._quantise_own(name, source)
        self._matvec(name, destination, peak)
        if is_first:
            self.emit.square(source, self.layout.hidden_beats, S.SQUARES, S.SCRATCH, 0)
        self._squares_to_scale(name, S.ACT, own_peak, (self.shape.hidden / (1 << SQUARE_SHIFT)) ** 0.5 / 127)

    def _quantise_own(self, name: str, source: int) -> int:
        """What a projection's own norm makes of a vector, into the activation buffer; returns its peak's register."""
        place = self._gained(name, source, self.layout.hidden_beats, peak=S.OWN_PEAK)
        peak = S.PEAK if place == source else S.OWN_PEAK
        self._quantise(place, self.layout.hidden_beats, peak)
        return peak

    def _mixer(self, layer: int) -> None:
        emit, at, to_fixed = self.emit, self.layout, 2.0**SILU_FRACTION
        source = self._outer_normed(f"{layer}.mixer")
        self._own_normed_matvec(f"{layer}.i", source, at.i, S.SCRATCH, is_first=True)
        emit.scalar(S.Q, S.ACT, constant=self._scale(f"{layer}.i") * to_fixed)
        self._own_normed_matvec(f"{layer}.f", source, at.f, S.SCRATCH, is_first=False)
        emit.scalar(S.K, S.ACT, constant=self._scale(f"{layer}.f") * to_fixed)
        # The scale of the output gate cancels in the norm behind it.
        self._quantise_own(f"{layer}.g", source)
        self._matvec(f"{layer}.g", at.g, S.V_PEAK)
        state = at.states + layer * at.hidden_beats
        self._recur(layer, state)
        self._output(layer, state)

    def _recur(self, layer: int, state: int) -> None:
        """-h += (f - 1) * (silu(i) - h), where h is nothing at position 0."""
        emit, at, beats, norm = self.emit, self.layout, self.layout.hidden_beats, f"{layer}.forget"
        emit.scale(state, beats, HISTORY_SCALAR, NO_SCALAR, wait=Unit.ENGINE)
        emit.scale(at.i, beats, S.Q, NO_SCALAR, wait=Unit.SCALAR)
        emit.silu(at.i, beats, NO_SCALAR)
        emit.add(at.i, state, beats, S.TO_STATE, NO_SCALAR, wait=Unit(0), dst=at.i)
        emit.scale(at.f, beats, S.K, NO_SCALAR)
        emit.sigmoid(at.f, beats, S.UP_PEAK)
        # f - 1 with a lower bound is f - 1 times one less the bound.
        loss = self._gained(norm, at.f, beats, peak=S.UP_PEAK)
        emit.product(at.i, loss, beats, S.UP_PEAK, S.GATE_SHIFT, NO_SCALAR)
        gain, unit = self.gains.get(norm), 1 / SIGMOID_ONE
        if gain is not None:
            unit *= gain.largest / GAIN_PEAK if gain.rows else gain.largest
        emit.scalar(S.DELTA, S.GATE_SHIFT, constant=unit, wait=Unit.VECTOR)
        if gain is not None and gain.rows:
            emit.scalar(S.DELTA, S.DELTA, S.GAIN_SHIFT)
        emit.add(loss, state, beats, S.DELTA, NO_SCALAR, wait=Unit.SCALAR)

    def _output(self, layer: int, state: int) -> None:
        """x += matrix @ normed(gated(g) * silu(h))."""
        emit, at, beats, name = self.emit, self.layout, self.layout.hidden_beats, f"{layer}.o"
        emit.scale(state, beats, S.FROM_STATE, NO_SCALAR, wait=Unit(0), dst=at.f)
        emit.sigmoid(at.f, beats, S.UP_PEAK)
        emit.product(state, at.f, beats, S.UP_PEAK, S.GATE_SHIFT, NO_SCALAR)
        gated = self._gained(f"{layer}.gated", at.g, beats, peak=S.V_PEAK, place=at.i)
        emit.product(at.f, gated, beats, S.V_PEAK, S.GATE_SHIFT, S.PEAK)
        self._quantise(self._gained(name, gated, beats), beats, S.PEAK)
        scale = self._scale(name, f"{name}/0") * self.one
        self._project(name, lambda: self._norm_scale(
            name, S.DELTA, gated, beats, self.shape.hidden, one=None, constant=scale))
