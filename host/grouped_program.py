"""Emits the token program of a parallel model whose hidden vector is quantised in groups, for one slot."""

from host.parallel_program import ParallelProgram
from host.parallel_program import ParallelScalars as S
from rtl.isa import Opcode
from rtl.timing import attention_cycles, engine_cycles


class GroupedProgram(ParallelProgram):
    """That of `ParallelProgram`, a group of the hidden vector at a time.

    The engine takes gate and up projection of a group together and goes on with the next group, while the vector unit
    makes the group's hidden vector of them. So when it is done with the last it finds the first ready for the down
    projection, and does not wait for the vector unit in between.

    Where a window is so narrow that attention is over before the engine is, what it leaves is prepared between the down
    projections, and it may begin a little later.

    The number of groups may differ from layer to layer; none: attention only.
    """

    def _gate_scales(self, layer: int) -> tuple[float, float, float]:
        gate, up = (self._scale(f"{layer}.{part}", f"{layer}.pair/0") for part in ("gate", "up"))
        return gate, up, self._scale(f"{layer}.down", f"{layer}.down/0")

    def _begin_delta(self, layer: int) -> None:
        """Later: the scalars of queries and keys are more urgent."""

    def _gate(self, layer: int, *, fill: bool = False) -> None:
        self._pair(layer, 0, fill=fill)

    def _feed_forward(self, layer: int) -> None:
        last = self.shape.groups(layer) - 1
        if last < 0:
            super()._feed_forward(layer)
            return
        if not self.shape.window(layer):
            self._feed_forward_alone(layer, last)
            return
        is_early = last > 0 and self._is_early(layer)
        super()._begin_delta(layer)
        if last:
            self._pair(layer, 1)
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
        middle = range(1, last)
        for group in middle[:1]:
            self._down_and_add(layer, group)
        if is_early:
            self._reciprocals(range(self.config.heads_parallel - 1))
        self._hidden(last)
        for group in middle[1:]:
            self._down_and_add(layer, group)
        self._quantise_group(last, self.layout.hidden)
        self._finish(layer, last, is_early)

    def _finish(self, layer: int, last: int, is_early: bool) -> None:
        """From the down projection of the last group on, with what attention leaves."""
        heads = range(self.config.heads_parallel)
        if is_early:
            self._reciprocals(heads[-1:])
            self._collect(self.layout.kv_words - 1)
            self._down(layer, last)
            self._quantise_output()
            self._add_group(last - 1)
            self._scale_group(last)
        else:
            self._reciprocals(heads[:-1])
            self._down(layer, last)
            self._reciprocals(heads[-1:])
            self._collect(self.layout.kv_words - 1)
            self._quantise_output()
            self._scale_group(last)
        left = range(last if is_early else max(0, last - 1), last + 1)
        self._project_output(layer, [(self._delta(group), self._group_scale(group)) for group in left])

    def _feed_forward_alone(self, layer: int, last: int) -> None:
        """Of a layer without attention: a hidden vector is made as soon as the engine has left its gates and ups."""
        ParallelProgram._begin_delta(self, layer)
        steps = [(self._pair, group) for group in range(last + 1)] + [(self._down, group) for group in range(last + 1)]
        ahead = min(2, last + 1)
        if last:
            self._pair(layer, 1)
        for group in range(last + 1):
            self._hidden(group)
            if not group:
                self._end_delta(layer)
            self._quantise_group(group, self.layout.hidden)
            self._scale_group(group)
            begin, part = steps[group + ahead]
            begin(layer, part)
        for group in range(ahead, last + 1):
            self._add_group(group - ahead)
            self._down(layer, group)
        self._add_last([(self._delta(group), self._group_scale(group)) for group in range(last + 1)[-2:]])

    def _down_and_add(self, layer: int, group: int) -> None:
        """The down projection of a group, and while the engine works what that of the group before has left."""
        self._down(layer, group)
        self._add_group(group - 1)

    def _is_early(self, layer: int) -> bool:
        """Whether attention, which has begun, is over wherever the text is before the last down projection."""
        attend = next(op for op in reversed(self.emit.ops) if op.opcode == Opcode.ATTEND)
        pair = next(op for op in reversed(self.emit.ops) if op.opcode == Opcode.MATVEC)
        attends = attention_cycles(self.config, attend, self.config.context - 1)
        return attends <= self.shape.groups(layer) * engine_cycles(self.config, pair)

    def _pair_or_down(self, layer: int, group: int) -> None:
        """What the engine does next: a pair, or after the last of them the first down projection."""
        if group < self.shape.groups(layer):
            self._pair(layer, group)
        elif group == self.shape.groups(layer):
            self._down(layer, 0)

    def _pair(self, layer: int, group: int, *, fill: bool = False) -> None:
        self._matvec(f"{layer}.pair/{group}", self.layout.pairs[group % 2], self._pair_peak(group), fill=fill)

    def _pair_peak(self, group: int) -> int:
        """Register with the largest of gates and ups of a group."""
        return (S.GATE_PEAK, S.UP_PEAK)[group % 2]

    def _hidden(self, group: int) -> None:
        beats, gate, peak = self.layout.group_beats, self.layout.pairs[group % 2], self._pair_peak(group)
        self.emit.gate(gate, gate + beats, beats, peak, peak, S.GATE_SHIFT, S.HIDDEN_PEAK, dst=self.layout.hidden)
