"""Random chains of vector and scalar operations, and a golden model with random state that they can run on."""

import random
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from rtl.config import Config
from rtl.isa import HISTORY_SCALAR, NO_SCALAR, Op, Opcode, ScalarFn, Target, VectorFn
from sim import fixed
from sim.golden import Golden

UP_PEAK, PEAK, SUM, BLOCK = range(25, 29)      # registers of values whose ranges operations rely on
FREE = range(20)


class Model(Golden):
    """The golden model with random state instead of an image's."""

    def __init__(self, config: Config, rng: random.Random) -> None:
        self._rng = rng
        self._source = np.random.default_rng(rng.getrandbits(32))
        offset = (3**config.embed_planes - 1) // 2
        codes = self._source.integers(0, 2 * offset + 1, (config.embed_rows, config.embed_beats, config.lanes))
        angles = self._source.uniform(-np.pi, np.pi, config.head_dim // 2)
        angles[: rng.randrange(2)] = rng.choice((0, np.pi))
        super().__init__(SimpleNamespace(
            config=config, program=[], matrices=dict, embedding=lambda: codes - offset,
            rotary=lambda: fixed.rotary_table(config.context_log2, config.head_dim, 1e4)))
        self.codes = codes
        self.factors = tuple(np.rint(f(angles) * (1 << fixed.ROTARY_FRACTION)).astype(int) for f in (np.cos, np.sin))
        self.token, self.position = rng.randrange(config.vocab), 3
        if config.has_recurrence:
            self.position = rng.choice((0, 3))
            self.scalars[HISTORY_SCALAR] = fixed.ONE if self.position else fixed.NOTHING
        self.temperature = self.scalars[30] = self.random_scalar()
        for beat in (*range(config.vector_depth), *range(config.attention_beat, len(self.vector))):
            self.vector[beat] = self.random_beat()

    @property
    def constants(self) -> tuple[int, ...]:
        """Registers that read the same whatever is written to them, besides those of every configuration."""
        return (HISTORY_SCALAR,) if self.config.has_recurrence else ()

    def random_scalar(self) -> fixed.Scalar:
        """Any mantissa, and an exponent that lanes can use, or hardly."""
        exponent = self._rng.choice((-15, -20, -28)) + self._rng.randrange(-9, 10)
        return fixed.Scalar(self._rng.randrange(1 << 15, 1 << 16), exponent)

    def random_beat(self) -> np.ndarray:
        """Zero, of a random bit length, or of extreme elements."""
        kind, size = self._rng.randrange(8), self.config.lanes
        if kind == 0:
            return np.zeros(size, int)
        if kind == 1:
            return self._source.choice([-(1 << 17), (1 << 17) - 1], size)
        limit = 1 << self._rng.randrange(18)
        return self._source.integers(-limit, limit, size)


class Chain:
    """Random operations, each possible after those before; the model has executed them when they are yielded."""

    def __init__(self, model: Model, rng: random.Random) -> None:
        self.model, self.rng = model, rng

    def operations(self) -> Iterator[list[Op]]:
        """Groups of operations that belong together."""
        kinds = [self._vector, self._vector, self._gate, self._block, self._embed, self._scalar]
        if self.model.config.has_products:
            kinds += [self._product, self._product]
        if self.model.config.has_silu:
            kinds += [self._silu]
        if self.model.config.has_recurrence:
            kinds += [self._sigmoid]
        while True:
            group = self.rng.choice(kinds)()
            state = (self.model.vector.copy(), list(self.model.scalars))
            try:
                for op in group:
                    self.model._execute(0, op)
            except OverflowError:
                self.model.vector[:], self.model.scalars = state
                continue
            yield group

    def _place(self, beats: int) -> tuple[int, int, int]:
        """Two sources and a destination that is one of them or apart from both."""
        depth = self.model.config.vector_depth
        src, src2, free = self.rng.sample(range(0, depth - 8, 8), 3)
        src, src2, free = (at + self.rng.randrange(9 - beats) for at in (src, src2, free))
        return src, src2, self.rng.choice((src, src2, free))

    def _op(self, fn: VectorFn, target: Target, **fields: int) -> Op:
        src, src2, dst = self._place(fields["beats"])
        if target == Target.ACTIVATION:
            dst = self.rng.randrange(self.model.config.activation_depth - fields["beats"] + 1)
        if target == Target.QUERY:
            dst = self.rng.randrange(self.model.config.query_groups)
        if target in (Target.KEY, Target.VALUE):
            dst = self.rng.randrange(self.model.config.kv_slots)
        if self.rng.randrange(4) == 0:
            # What the attention unit holds.
            held = self.model.config.query_groups * self.model.config.word_beats
            if fields["beats"] <= held:
                src = self.model.config.attention_beat + self.rng.randrange(held + 1 - fields["beats"])
        random_fields = {"src": src, "src2": src2, "dst": dst, "ra": self._register(), "rb": SUM, "rc": 24,
                         "rd": self.rng.choice((*FREE, NO_SCALAR)), "segmented": 0}
        return Op(Opcode.VECTOR, fields={"fn": fn, "target": target, **random_fields, **fields})

    def _register(self) -> int:
        return self.rng.choice((*FREE, *self.model.constants, 30, NO_SCALAR))

    def _vector(self) -> list[Op]:
        fn = self.rng.choice((VectorFn.SCALE, VectorFn.SCALE, VectorFn.ADD, VectorFn.SQUARE, VectorFn.ROTATE))
        target = self.rng.choice((Target.VECTOR, Target.ACTIVATION, Target.NONE))
        beats, segments = self.rng.randrange(1, 7), self.model.config.segments
        if fn == VectorFn.SCALE and self.rng.randrange(2):
            beats = min(beats, len(FREE) // segments)
            ra = self.rng.randrange(len(FREE) - beats * segments + 1)
            return [self._op(fn, target, beats=beats, ra=ra, segmented=1)]
        return [self._op(fn, target, beats=beats)]

    def _gate(self) -> list[Op]:
        """GATE after two operations that leave the peaks of its inputs."""
        target = self.rng.choice((Target.VECTOR, Target.ACTIVATION, Target.NONE))
        gate = self._op(VectorFn.GATE, target, beats=self.rng.randrange(1, 7), ra=PEAK, rb=UP_PEAK)
        peaks = [self._op(fn, Target.NONE, beats=gate.beats, src=src, ra=NO_SCALAR, rd=rd, dst=0)
                 for fn, src, rd in ((VectorFn.SQUARE, gate.src, PEAK), (VectorFn.SCALE, gate.src2, UP_PEAK))]
        return [*self.rng.sample(peaks, 2), gate]

    def _product(self) -> list[Op]:
        """PRODUCT after an operation that leaves the peak of its second input."""
        target = self.rng.choice((Target.VECTOR, Target.ACTIVATION, Target.NONE))
        product = self._op(VectorFn.PRODUCT, target, beats=self.rng.randrange(1, 7), ra=NO_SCALAR, rb=UP_PEAK)
        peak = self._op(VectorFn.SCALE, Target.NONE, beats=product.beats, src=product.src2, ra=NO_SCALAR, rd=UP_PEAK)
        return [peak, product]

    def _silu(self) -> list[Op]:
        target = self.rng.choice((Target.VECTOR, Target.ACTIVATION, Target.NONE))
        return [self._op(VectorFn.SILU, target, beats=self.rng.randrange(1, 7))]

    def _sigmoid(self) -> list[Op]:
        return [replace(op, fields=op.fields | {"fn": VectorFn.SIGMOID}) for op in self._silu()]

    def _block(self) -> list[Op]:
        """A block-scaled write, with the peak and the block scale before it."""
        target = self.rng.choice((Target.QUERY, Target.KEY, Target.VALUE))
        write = self._op(VectorFn.SCALE, target, beats=1, ra=self.rng.choice((BLOCK, *FREE)), rb=BLOCK)
        peak = self._op(VectorFn.SQUARE, Target.NONE, beats=1, src=write.src, rd=PEAK)
        one = {"rb": NO_SCALAR, "mantissa": fixed.ONE.mantissa, "exponent": fixed.ONE.exponent}
        return [peak, Op(Opcode.SCALAR, fields={"fn": ScalarFn.BLOCK, "ra": PEAK, "rd": BLOCK, **one}), write]

    def _embed(self) -> list[Op]:
        config = self.model.config
        beats, row, fixed = self.rng.randrange(1, config.embed_beats + 1), 0, 0
        if config.gain_rows and self.rng.randrange(2):
            # Of some rows in one go, as gains of a wide vector are.
            row, fixed, beats = config.vocab + self.rng.randrange(config.gain_rows - 1), 1, self.rng.randrange(1, 7)
        return [Op(Opcode.EMBED, fields={
            "dst": self._place(beats)[0], "beats": beats, "ra": self._register(),
            "rd": self.rng.choice((*FREE, NO_SCALAR)), "row": row, "fixed": fixed})]

    def _scalar(self) -> list[Op]:
        scalar = self.model.random_scalar()
        return [Op(Opcode.SCALAR, fields={
            "fn": self.rng.choice(tuple(ScalarFn)), "ra": self._register(), "rb": self._register(),
            "rd": self.rng.choice(FREE), "mantissa": scalar.mantissa, "exponent": scalar.exponent})]
