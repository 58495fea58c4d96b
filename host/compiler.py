"""Compiles a checkpoint for an accelerator: the token program, the packed weights, and their image."""

from dataclasses import asdict

import numpy as np

from host.checkpoint import Checkpoint, Shape
from host.errors import TritloomError
from host.image import PROGRAM_PIECES, Image
from host.packing import codes_to_words, relative_signs, to_base3, to_codes
from host.program import LOG2_E, Layout, ProgramBuilder, Scalars
from host.tiler import Tiler
from rtl.config import QKV_FRACTION, Config
from rtl.isa import NO_SCALAR, SQUARE_SHIFT, TEMPERATURE_SCALAR, Unit
from sim.fixed import GUMBEL_FRACTION, rotary_table

S = Scalars
ALL_UNITS = Unit.ENGINE | Unit.VECTOR | Unit.SCALAR | Unit.ATTENTION | Unit.SAMPLER | Unit.ROTARY


def compile_checkpoint(checkpoint: Checkpoint, config: Config) -> Image:
    """The image of a checkpoint for one configuration.

    Raises
    ------
    TritloomError: the model does not fit; the message names the limit.
    """
    shape = checkpoint.shape
    layout = Layout(shape, config)
    tiler = Tiler(checkpoint, config)
    program = _Compiler(checkpoint, config, layout, tiler).program()
    if len(program) > config.program_depth:
        raise TritloomError(f"the program has {len(program)} operations, {config.name} holds {config.program_depth}")
    words = [op.encode() for op in program]
    sections = {
        "program": np.array([[w >> 32 * i & 0xFFFFFFFF for i in range(PROGRAM_PIECES)] for w in words], np.uint32),
        "embedding": _embedding(checkpoint, config),
        "rotary": rotary_table(config.context_log2, config.head_dim, shape.rope_theta),
        "tokenizer": np.frombuffer(checkpoint.tokenizer, np.uint8),
    }
    tiles = tiler.tiles()
    if config.weight_source == "ebr":
        if len(tiles) > config.weight_depth:
            raise TritloomError(f"{checkpoint.name} needs {len(tiles)} weight tiles, {config.name} holds "
                                f"{config.weight_depth}; use the stream configuration or a smaller model")
        sections["weights"] = codes_to_words(relative_signs(to_codes(tiles))).reshape(len(tiles), -1)
    else:
        stream = to_base3(tiles)
        sections["stream"] = np.pad(stream, (0, -len(stream) % 4), constant_values=121)
    model = {"name": checkpoint.name, **asdict(shape), "ternary_parameters": checkpoint.ternary_parameters}
    return Image(config, model, sections)


def _embedding(checkpoint: Checkpoint, config: Config) -> np.ndarray:
    """Offset-binary rows, padded to whole beats and to the embedding memory's row."""
    integers = checkpoint.tensors["embed"].integers
    width = config.embed_beats * config.lanes
    offset = (3**config.embed_planes - 1) // 2
    padded = np.pad(integers.astype(np.int16), ((0, config.vocab - len(integers)), (0, width - integers.shape[1])))
    return (padded + offset).astype(np.uint8)


class _Compiler:
    """Emits the operations of one token, in program order."""

    def __init__(self, checkpoint: Checkpoint, config: Config, layout: Layout, tiler: Tiler) -> None:
        self.checkpoint, self.config, self.layout, self.tiler = checkpoint, config, layout, tiler
        self.shape: Shape = checkpoint.shape
        self.one = 2.0**self.shape.residual_fraction
        self.emit = ProgramBuilder()

    def program(self) -> list:
        emit, at = self.emit, self.layout
        emit.rotary()
        emit.scalar(S.SCALE, NO_SCALAR, constant=self.checkpoint.tensors["embed"].scale * self.one)
        emit.embed(at.x, at.hidden_beats, S.SCALE, S.PEAK, wait=Unit.SCALAR)
        for layer in range(self.shape.layers):
            self._queries_keys_values(layer)
            self._attention(layer)
            self._feed_forward(layer)
        self._head()
        emit.end(ALL_UNITS)
        return emit.ops

    def _scale(self, name: str, block: str = "") -> float:
        """What one unit of the engine's output stands for; its rounding shift is that of ``block``."""
        return self.checkpoint.tensors[name].scale * 2.0 ** self.tiler.block(block or name).shift

    def _normed_matvec(self, name: str, destination: int, peak: int) -> None:
        """A matrix times x / rms(x), quantised.

        The int8 values need only the peak, which the operation that wrote x has left. The root mean square is computed
        while the engine works, and survives in S.ACT.
        """
        emit, at, hidden = self.emit, self.layout, self.shape.hidden
        self._quantise(at.x, at.hidden_beats, S.PEAK)
        self._matvec(name, destination, peak)
        squares_per_unit = self.one**2 / (1 << SQUARE_SHIFT)
        epsilon = round(self.shape.norm_epsilon * hidden * squares_per_unit)
        emit.square(at.x, at.hidden_beats, S.SQUARES, S.SCRATCH, epsilon)
        to_real = (hidden * squares_per_unit) ** 0.5 / (127 * self.one)
        emit.rsqrt(S.ACT, S.SQUARES, S.PEAK, constant=to_real, wait=Unit.VECTOR)

    def _quantise(self, source: int, beats: int, peak: int) -> None:
        """Absmax int8 into the activation buffer; waits until the engine has read the previous vector."""
        self.emit.reciprocal(S.QUANTISE, peak, constant=127.0, wait=Unit.VECTOR)
        self.emit.to_activation(source, beats, S.QUANTISE, S.SCRATCH, wait=Unit.SCALAR | Unit.ENGINE)

    def _matvec(self, name: str, destination: int, peak: int, *, source: int = 0, fill: bool = True) -> None:
        block = self.tiler.block(name)
        self.emit.matvec(block, source=source, destination=destination, fill=fill, peak=peak, wait=Unit.VECTOR)

    def _queries_keys_values(self, layer: int) -> None:
        emit, at, shape = self.emit, self.layout, self.shape
        self._normed_matvec(f"{layer}.qkv", at.q, S.SCRATCH)
        query_scale = LOG2_E / shape.head_dim**0.5 * 2.0**QKV_FRACTION
        emit.scalar(S.Q, S.ACT, constant=self._scale(f"{layer}.q", f"{layer}.qkv") * query_scale)
        emit.scalar(S.K, S.ACT, constant=self._scale(f"{layer}.k", f"{layer}.qkv") * 2.0**QKV_FRACTION)
        emit.scalar(S.V, S.ACT, constant=self._scale(f"{layer}.v", f"{layer}.qkv") * 2.0**QKV_FRACTION)
        emit.scale(at.q, at.q_beats, S.Q, S.SCRATCH, wait=Unit.ENGINE | Unit.SCALAR)
        emit.rotate(at.q, at.q_beats, S.PEAK, wait=Unit.ROTARY)
        emit.block(S.Q, S.PEAK)
        emit.scale(at.k, at.kv_beats, S.K, S.SCRATCH)
        beats = self.config.word_beats
        for word in range(at.kv_words):
            slot, k, v = layer * at.kv_words + word, at.k + word * beats, at.v + word * beats
            emit.rotate(k, beats, S.K_PEAK)
            emit.block(S.K_PEAK, S.K_PEAK)
            emit.scale(v, beats, S.V, S.V_PEAK)
            emit.to_cache(k, beats, slot, S.K_PEAK, S.SCRATCH, value=False, wait=Unit.SCALAR)
            emit.block(S.V_PEAK, S.V_PEAK)
            emit.to_cache(v, beats, slot, S.V_PEAK, S.SCRATCH, value=True, wait=Unit.SCALAR)

    def _attention(self, layer: int) -> None:
        emit, at, config = self.emit, self.layout, self.config
        beats = config.query_groups * config.word_beats
        for word in range(at.kv_words):
            emit.to_query(at.q + word * beats, beats, S.Q, S.SCRATCH, wait=Unit.ATTENTION)
            out = at.o + word * beats
            emit.attend(layer * at.kv_words + word, out, S.HEADS, wait=Unit.VECTOR)
            for head in range(config.heads_parallel):
                emit.reciprocal(S.HEADS + head, S.HEADS + head, constant=2.0 ** (config.context_log2 + 2),
                                wait=Unit.ATTENTION)
            emit.scale(out, beats, S.HEADS, S.PEAK, segmented=True, wait=Unit.SCALAR)
        if at.kv_words > 1:
            emit.peak(at.o, at.q_beats, S.PEAK)
        self._quantise(at.o, at.q_beats, S.PEAK)
        scale = self._scale(f"{layer}.o", f"{layer}.o/0")
        emit.scalar(S.DELTA, S.PEAK, constant=scale / 127 * self.one / 2.0**QKV_FRACTION)
        self._project(f"{layer}.o")

    def _project(self, name: str) -> None:
        """x += matrix @ activations * S.DELTA, one table load of column blocks at a time."""
        emit, at = self.emit, self.layout
        for part in range(self.tiler.parts(name)):
            source = part * self.config.table_blocks * self.config.block_beats
            self._matvec(f"{name}/{part}", at.delta, S.SCRATCH, source=source)
            emit.add(at.delta, at.x, at.hidden_beats, S.DELTA, S.PEAK, wait=Unit.ENGINE | Unit.SCALAR)

    def _feed_forward(self, layer: int) -> None:
        emit, at = self.emit, self.layout
        gate, up, down = (self._scale(f"{layer}.{name}", f"{layer}.{block}")
                          for name, block in (("gate", "gate"), ("up", "up"), ("down", "down/0")))
        self._normed_matvec(f"{layer}.gate", at.gate, S.GATE_PEAK)
        emit.scalar(S.DELTA, S.ACT, S.ACT, constant=gate * gate)
        emit.scalar(S.DELTA, S.DELTA, S.ACT, constant=up * down * self.one / 127)
        self._matvec(f"{layer}.up", at.up, S.UP_PEAK, fill=False)
        emit.gate(at.gate, at.up, at.feed_beats, S.GATE_PEAK, S.UP_PEAK, S.GATE_SHIFT, S.PEAK, wait=Unit.ENGINE)
        self._quantise(at.gate, at.feed_beats, S.PEAK)
        emit.scalar(S.DELTA, S.DELTA, S.PEAK)
        emit.scalar(S.DELTA, S.DELTA, S.GATE_SHIFT)
        self._project(f"{layer}.down")

    def _head(self) -> None:
        emit, at = self.emit, self.layout
        self._normed_matvec("head", at.logits, S.SCRATCH)
        emit.scalar(S.SCALE, S.ACT, TEMPERATURE_SCALAR, constant=self._scale("head") * 2.0**GUMBEL_FRACTION)
        emit.sample(at.logits, self.shape.vocab, S.SCALE, wait=Unit.ENGINE | Unit.SCALAR)
