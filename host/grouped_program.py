"""Emits the token program of a parallel model whose hidden vector is quantised in groups, for one slot."""

from host.parallel_program import ParallelProgram
from host.parallel_program import ParallelScalars as S


class GroupedProgram(ParallelProgram):
    """That of `ParallelProgram`, a group of the hidden vector at a time.

    The engine takes gate and up projection of a group together and goes on with the next group, while the vector unit
    makes the group's hidden vector of them. So when it is done with the last it finds the first ready for the down
    projection, and does not wait for the vector unit in between. The number of groups may differ from layer to layer.
    """

    def _gate_scales(self, layer: int) -> tuple[float, float, float]:
        gate, up = (self._scale(f"{layer}.{part}", f"{layer}.pair/0") for part in ("gate", "up"))
        return gate, up, self._scale(f"{layer}.down", f"{layer}.down/0")

    def _begin_delta(self, layer: int) -> None:
        """Later: the scalars of queries and keys are more urgent."""

    def _gate(self, layer: int, *, fill: bool = False) -> None:
        self._pair(layer, 0, fill=fill)

    def _feed_forward(self, layer: int) -> None:
        groups = self.shape.groups(layer)
        if groups == 0:
            super()._feed_forward(layer)
            return
        super()._begin_delta(layer)
        if groups > 1:
            self._pair(layer, 1)
        if self.shape.window(layer):
            self._beside_attention(layer, groups)
        else:
            self._alone(layer, groups)

    def _beside_attention(self, layer: int, groups: int) -> None:
        """The last hidden vector is made before what attention leaves, and its down projection is done meanwhile."""
        last = groups - 1
        for group in range(last):
            self._hidden(group)
            if group:
                self._pair_or_down(layer, group + 2)
            else:
                self._end_delta(layer)
            self._quantise_group(group, self.layout.hidden)
            if not group:       # the engine is at work on the second pair until now
                self._pair_or_down(layer, 2)
            self._scale_group(group)
        if not last:
            self._end_delta(layer)
        for group in range(1, min(2, last)):
            self._down_and_add(layer, group)
        self._hidden(last)
        for group in range(2, last):
            self._down_and_add(layer, group)
        self._quantise_group(last, self.layout.hidden)
        heads = range(self.config.heads_parallel)
        self._reciprocals(heads[:-1])
        self._down(layer, last)
        self._reciprocals(heads[-1:])
        self._collect(self.layout.kv_words - 1)
        self._quantise_output()
        self._scale_group(last)
        self._project_output(layer, [(self._delta(group), self._group_scale(group)) for group in range(groups)[-2:]])

    def _alone(self, layer: int, groups: int) -> None:
        """Of a layer without attention: a hidden vector is made as soon as the engine has left its gates and ups."""
        for group in range(groups):
            self._hidden(group)
            if not group:
                self._end_delta(layer)
            following = group + min(2, groups)
            if group >= 2:
                self._pair_or_down(layer, following)
            self._quantise_group(group, self.layout.hidden)
            if group < 2:
                self._pair_or_down(layer, following)
            self._scale_group(group)
        for group in range(2, groups):
            self._add_group(group - 2)
            self._down(layer, group)
        self._add_last([(self._delta(group), self._group_scale(group)) for group in range(groups)[-2:]])

    def _down_and_add(self, layer: int, group: int) -> None:
        """The down projection of a group, and while the engine works what that of the group before has left."""
        self._down(layer, group)
        self._add_group(group - 1)

    def _pair_or_down(self, layer: int, group: int) -> None:
        """What the engine does next: a pair, or after the last of them a down projection."""
        groups = self.shape.groups(layer)
        if group < groups:
            self._pair(layer, group)
        else:
            self._down(layer, group - groups)

    def _pair(self, layer: int, group: int, *, fill: bool = False) -> None:
        self._matvec(f"{layer}.pair/{group}", self.layout.pairs[group % 2], self._pair_peak(group), fill=fill)

    def _pair_peak(self, group: int) -> int:
        """Register with the largest of gates and ups of a group."""
        return (S.GATE_PEAK, S.UP_PEAK)[group % 2]

    def _hidden(self, group: int) -> None:
        beats, gate, peak = self.layout.group_beats, self.layout.pairs[group % 2], self._pair_peak(group)
        self.emit.gate(gate, gate + beats, beats, peak, peak, S.GATE_SHIFT, S.HIDDEN_PEAK, dst=self.layout.hidden)
