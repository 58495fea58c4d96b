"""Builds token programs: named scalars, one method per kind of operation."""

from math import e, log2

from host.tiler import Block
from rtl.isa import NO_SCALAR, Op, Opcode, ScalarFn, Target, Unit, VectorFn
from sim.fixed import Scalar

LOG2_E = log2(e)
NO_WAIT = Unit(0)


class Scalars:
    """Register numbers."""

    PEAK, SQUARES, QUANTISE, ACT, SCALE, Q, K, V = range(8)
    DELTA, GATE_PEAK, UP_PEAK, GATE_SHIFT, K_PEAK, V_PEAK, SCRATCH, GAIN_SHIFT = range(8, 16)
    HEADS = 16


class ProgramBuilder:
    """Appends operations; every method takes vector addresses in beats and scalar register numbers."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def _append(self, opcode: Opcode, wait: Unit, **fields: int) -> None:
        self.ops.append(Op(opcode, wait, fields))

    def rotary(self) -> None:
        self._append(Opcode.ROTARY, Unit.VECTOR)

    def section(self, wait: Unit = NO_WAIT, *, reads: bool = False) -> None:
        self._append(Opcode.SECTION, wait, reads=int(reads))

    def end(self, wait: Unit) -> None:
        self._append(Opcode.END, wait)

    def embed(self, dst: int, beats: int, scale: int, peak: int, wait: Unit, *, row: int | None = None) -> None:
        self._append(Opcode.EMBED, wait, dst=dst, beats=beats, ra=scale, rd=peak, row=row or 0,
                     fixed=int(row is not None))

    def matvec(self, block: Block, *, source: int, destination: int, fill: bool, peak: int, wait: Unit) -> None:
        self._append(Opcode.MATVEC, wait, src=source, blocks=block.blocks, fill=int(fill), groups=block.groups,
                     planes=block.planes, dst=destination, shift=block.shift, rd=peak, address=block.address,
                     unfilled=block.unfilled)

    def attend(self, slot: int, heads: int, window: int, wait: Unit) -> None:
        self._append(Opcode.ATTEND, wait, slot=slot, rd=heads, reach=window - 1)

    def sample(self, src: int, count: int, scale: int, wait: Unit) -> None:
        self._append(Opcode.SAMPLE, wait, src=src, count=count, ra=scale)

    def _scalar(self, fn: ScalarFn, rd: int, ra: int, rb: int, constant: float, wait: Unit) -> None:
        immediate = Scalar.from_float(constant)
        self._append(Opcode.SCALAR, wait, fn=fn, ra=ra, rb=rb, rd=rd, mantissa=immediate.mantissa,
                     exponent=immediate.exponent)

    def scalar(self, rd: int, ra: int, rb: int = NO_SCALAR, *, constant: float = 1.0, wait: Unit = NO_WAIT) -> None:
        self._scalar(ScalarFn.MUL, rd, ra, rb, constant, wait)

    def reciprocal(self, rd: int, ra: int, *, constant: float, wait: Unit) -> None:
        self._scalar(ScalarFn.RECIPROCAL, rd, ra, NO_SCALAR, constant, wait)

    def rsqrt(self, rd: int, ra: int, rb: int, *, constant: float, wait: Unit) -> None:
        self._scalar(ScalarFn.RSQRT, rd, ra, rb, constant, wait)

    def block(self, rd: int, peak: int, rb: int = NO_SCALAR, *, constant: float = 1.0) -> None:
        self._scalar(ScalarFn.BLOCK, rd, peak, rb, constant, Unit.VECTOR)

    def _vector(self, fn: VectorFn, src: int, beats: int, rd: int, wait: Unit, *, target: Target = Target.VECTOR,
                src2: int = 0, dst: int = 0, ra: int = 0, rb: int = 0, rc: int = 0, segmented: bool = False) -> None:
        self._append(Opcode.VECTOR, wait, fn=fn, target=target, src=src, src2=src2, dst=dst, beats=beats, ra=ra,
                     rb=rb, rc=rc, rd=rd, segmented=int(segmented))

    def scale(self, at: int, beats: int, scale: int, peak: int, *, segmented: bool = False, wait: Unit = NO_WAIT,
              dst: int | None = None) -> None:
        self._vector(VectorFn.SCALE, at, beats, peak, wait, dst=at if dst is None else dst, ra=scale,
                     segmented=segmented)

    def peak(self, src: int, beats: int, peak: int) -> None:
        self._vector(VectorFn.SCALE, src, beats, peak, NO_WAIT, target=Target.NONE, ra=NO_SCALAR)

    def to_activation(self, src: int, beats: int, scale: int, peak: int, wait: Unit, *, dst: int = 0) -> None:
        self._vector(VectorFn.SCALE, src, beats, peak, wait, target=Target.ACTIVATION, ra=scale, dst=dst)

    def to_query(self, src: int, beats: int, scale: int, block: int, peak: int, wait: Unit) -> None:
        self._vector(VectorFn.SCALE, src, beats, peak, wait, target=Target.QUERY, ra=scale, rb=block)

    def to_cache(self, src: int, beats: int, slot: int, scale: int, block: int, peak: int, *, value: bool,
                 wait: Unit) -> None:
        target = Target.VALUE if value else Target.KEY
        self._vector(VectorFn.SCALE, src, beats, peak, wait, target=target, dst=slot, ra=scale, rb=block)

    def square(self, src: int, beats: int, squares: int, peak: int, epsilon: int) -> None:
        self._vector(VectorFn.SQUARE, src, beats, peak, NO_WAIT, target=Target.NONE, rb=squares,
                     src2=epsilon & 255, dst=epsilon >> 8)

    def rotate(self, at: int, beats: int, peak: int, wait: Unit = NO_WAIT, *, dst: int | None = None) -> None:
        self._vector(VectorFn.ROTATE, at, beats, peak, wait, dst=at if dst is None else dst)

    def add(self, src: int, x: int, beats: int, scale: int, peak: int, wait: Unit, *, dst: int | None = None) -> None:
        self._vector(VectorFn.ADD, src, beats, peak, wait, src2=x, dst=x if dst is None else dst, ra=scale)

    def product(self, src: int, by: int, beats: int, by_peak: int, shift: int, peak: int) -> None:
        """Vector times vector, in the place of the second."""
        self._vector(VectorFn.PRODUCT, src, beats, peak, NO_WAIT, src2=by, dst=by, ra=NO_SCALAR, rb=by_peak, rc=shift)

    def silu(self, at: int, beats: int, peak: int) -> None:
        self._vector(VectorFn.SILU, at, beats, peak, NO_WAIT, dst=at)

    def sigmoid(self, at: int, beats: int, peak: int) -> None:
        self._vector(VectorFn.SIGMOID, at, beats, peak, NO_WAIT, dst=at)

    def gate(self, gate: int, up: int, beats: int, gate_peak: int, up_peak: int, shift: int, peak: int, *,
             wait: Unit = NO_WAIT, dst: int | None = None) -> None:
        self._vector(VectorFn.GATE, gate, beats, peak, wait, src2=up, dst=gate if dst is None else dst, ra=gate_peak,
                     rb=up_peak, rc=shift)
