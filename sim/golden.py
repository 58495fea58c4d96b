"""The golden model: executes an image in numpy integers, exactly as the hardware does.

It is the specification. `Golden.step` runs the token program once; `Golden.trace` additionally returns every
architectural value an operation wrote, which is what the tests of the gateware compare against.
"""

from collections.abc import Iterator

import numpy as np

from host.image import Image
from rtl.config import ADDRESS_BITS, ELEMENT_BITS, SCORE_BITS, SCORE_FRACTION, Config
from rtl.isa import (
    HISTORY_SCALAR,
    NO_SCALAR,
    SCALARS,
    SQUARE_SHIFT,
    TEMPERATURE_SCALAR,
    Op,
    Opcode,
    ScalarFn,
    Target,
    VectorFn,
)
from sim import fixed
from sim.fixed import Scalar
from sim.token_loop import Pass


def matvec(weights: np.ndarray, activations: np.ndarray, shift: int) -> np.ndarray:
    """Engine: int64 [rows] = round(weights [rows, columns] @ activations [columns] / 2**shift), 18 bits.

    Weights are integers (planes already combined by Horner's rule) in the type that `exact_floats` chose.
    """
    total = (weights @ activations.astype(weights.dtype)).astype(np.int64)
    return fixed.saturate(fixed.shift_round(total, shift), ELEMENT_BITS)


def exact_floats(weights: np.ndarray) -> np.ndarray:
    """The same integers [rows, columns]: float32 if no sum with int8 activations can be rounded, else float64.

    Floats, because numpy multiplies integer matrices without BLAS; the smaller type halves what a token reads.
    """
    largest_sum = 127 * np.abs(weights).sum(axis=1).max()
    return weights.astype(np.float32 if largest_sum < 1 << 24 else np.float64)


def rotate(a: np.ndarray, cosine: np.ndarray, sine: np.ndarray) -> np.ndarray:
    """Vector unit: rotate the pairs (2k, 2k+1) of each head; a [..., head_dim], factors [head_dim/2]."""
    even, odd = a[..., 0::2], a[..., 1::2]
    out = np.empty_like(a)
    out[..., 0::2] = fixed.shift_round(even * cosine - odd * sine, fixed.ROTARY_FRACTION)
    out[..., 1::2] = fixed.shift_round(odd * cosine + even * sine, fixed.ROTARY_FRACTION)
    return fixed.saturate(out, ELEMENT_BITS)


def gate(g: np.ndarray, u: np.ndarray, gate_peak: Scalar, up_peak: Scalar) -> tuple[np.ndarray, Scalar]:
    """Vector unit: block-scaled relu(g)**2 * u, and the power of two it was divided by."""
    first, second = fixed.gate_shifts(gate_peak, up_peak)
    squared = np.maximum(g, 0) ** 2 >> first
    out = fixed.saturate(fixed.shift_round(squared * u, second), ELEMENT_BITS)
    return out, Scalar(fixed.HALF, first + second - 15)


def product(a: np.ndarray, b: np.ndarray, peak: Scalar) -> tuple[np.ndarray, Scalar]:
    """Vector unit: block-scaled a * b, where b has this peak, and the power of two it was divided by."""
    _, shift = fixed.gate_shifts(fixed.ONE, peak)
    return fixed.saturate(fixed.shift_round(a * b, shift), ELEMENT_BITS), Scalar(fixed.HALF, shift - 15)


def attend(query: np.ndarray, query_exponent: int, keys: np.ndarray, key_exponents: np.ndarray,
           values: np.ndarray, value_exponents: np.ndarray, config: Config) -> tuple[np.ndarray, list[Scalar]]:
    """Attention unit over T positions.

    query int8 [groups, word_lanes], keys and values int8 [T, word_lanes], exponents [T].
    Returns int64 [groups, word_lanes] and, per head ``g * word_heads + s``, the scalar sum(p) / 2**max(value exponent).
    """
    positions = keys.shape[0]
    split = (positions, config.word_heads, config.head_dim)
    q = query.astype(np.float64).reshape(config.query_groups, *split[1:])
    dots = np.einsum("gsd,tsd->gst", q, keys.astype(np.float64).reshape(split)).astype(np.int64)
    scores = fixed.saturate(fixed.shift_round(dots << (query_exponent + key_exponents), SCORE_FRACTION), SCORE_BITS)
    p = fixed.exp2_negative(scores.max(axis=2, keepdims=True) - scores)
    top = int(value_exponents.max())
    weighted = fixed.shift_round(p, top - value_exponents)
    acc = np.einsum("gst,tsd->gsd", weighted.astype(np.float64), values.astype(np.float64).reshape(split))
    out = fixed.shift_round(acc.astype(np.int64), config.context_log2 + 2).reshape(config.query_groups, -1)
    sums = [fixed.normalise(total) for total in p.sum(axis=2).ravel()]
    return out, [Scalar(s.mantissa, s.exponent - top) for s in sums]


def sample(logits: np.ndarray, scale: Scalar | None, states: list[int]) -> int:
    """Sampler: argmax (lowest index wins), or Gumbel-max over scaled logits when a scale is given.

    states : xorshift32 state per sampler lane, advanced in place once per chunk of ``len(states)`` logits.
    """
    if scale is None:
        return int(np.argmax(logits))
    lanes = len(states)
    noise = np.empty(-(-len(logits) // lanes) * lanes, np.int64)
    for chunk in range(0, len(noise), lanes):
        for lane in range(lanes):
            states[lane] = fixed.xorshift32(states[lane])
            noise[chunk + lane] = fixed.GUMBEL[states[lane] >> 22]
    scaled = fixed.saturate(fixed.lane_scale(logits, scale), ELEMENT_BITS)
    return int(np.argmax(scaled + noise[: len(logits)]))


class Golden:
    """Bit-exact model of an accelerator that holds an image.

    Parameters
    ----------
    image : a compiled image; it carries the configuration it was compiled for.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.config = image.config
        self.program = image.program
        self._matrices = {index: exact_floats(matrix) for index, matrix in image.matrices().items()}
        self._embedding = image.embedding()
        self._rotary = image.rotary()
        self.reset()

    def reset(self, *, seed: int = 0, temperature: Scalar | None = None) -> None:
        """Forget the context; set the sampler's seed and inverse temperature (None: greedy)."""
        c = self.config
        # Vector memory and, from `attention_beat` on, what the attention unit holds.
        self.vector = np.zeros((1 << ADDRESS_BITS, c.lanes), np.int64)
        self.activation = np.zeros((c.activation_depth, c.lanes), np.int64)
        self.filled = np.zeros(0, np.int64)     # what the engine's tables were filled from
        self.query = np.zeros((c.query_groups * c.word_beats, c.lanes), np.int64)
        self.query_exponent = 0
        self.cache = {t: np.zeros((c.kv_slots, c.context, c.word_lanes), np.int8) for t in (Target.KEY, Target.VALUE)}
        self.cache_exponents = {t: np.zeros((c.kv_slots, c.context), np.int64) for t in (Target.KEY, Target.VALUE)}
        self.scalars = [fixed.ONE] * SCALARS
        self.temperature = temperature
        if temperature is not None:
            self.scalars[TEMPERATURE_SCALAR] = temperature
        self.noise = [fixed.noise_seed(seed, lane) for lane in range(c.sampler_lanes)]
        self.factors = fixed.rotary_factors(self._rotary, 0)
        self.sampled = 0

    def step(self, token: int, position: int, *, samples: bool = True) -> int:
        """Run the program for one token at a position; returns the sampled next token, the last one if none is wanted.

        Raises
        ------
        IndexError: token or position out of range.
        """
        for _ in self.trace(token, position, samples=samples):
            pass
        return self.sampled

    def samples(self, taken: Pass) -> list[int]:
        """The sample of each slot of a pass, up to the first that makes the slots behind it worthless."""
        found: list[int] = []
        for slot, token in enumerate(taken.tokens):
            found.append(self.step(token, taken.position + slot,
                                   samples=taken.samples(slot) or self.config.slots == 1))
            if slot + 1 >= taken.known and taken.tokens[slot + 1 : slot + 2] not in ((), (found[-1],)):
                break
        return found

    def generate(self, prompt: list[int], count: int, *, temperature: Scalar | None = None, seed: int = 0) -> list[int]:
        """The next ``count`` tokens after a prompt, from an empty context."""
        self.reset(seed=seed, temperature=temperature)
        out: list[int] = []
        for position in range(len(prompt) + count - 1):
            token = prompt[position] if position < len(prompt) else out[-1]
            wanted = position >= len(prompt) - 1
            sampled = self.step(token, position, samples=wanted or self.config.slots == 1)
            if wanted:
                out.append(sampled)
        return out

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Real logits float64 [T, vocab] of tokens from an empty context."""
        op = next(op for op in self.program if op.opcode == Opcode.SAMPLE)
        self.reset()
        rows = []
        for position, token in enumerate(tokens):
            self.step(token, position)
            scale = float(self.scalars[op.ra]) / (1 << fixed.GUMBEL_FRACTION)
            rows.append(self.vector[op.src :].ravel()[: op.count] * scale)
        return np.array(rows)

    def trace(self, token: int, position: int, *, reads: bool = False, samples: bool = True
              ) -> Iterator[tuple[int, Op, np.ndarray]]:
        """Run the program once, yielding (index, operation, values written) after each operation.

        Parameters
        ----------
        reads : the pass only reads the prompt, and ends before the head.
        samples : whether the sampler has something to do. Passes of one slot sample always, even where the prompt
            says what follows; those of several do not, so that their noise does not depend on how tokens share them.
        """
        if not 0 <= token < self.config.vocab:
            raise IndexError(f"token {token} is outside the vocabulary of {self.config.vocab}")
        if not 0 <= position < self.config.context:
            raise IndexError(f"position {position} is outside the context of {self.config.context}")
        self.token, self.position = token, position
        if self.config.has_recurrence:
            self.scalars[HISTORY_SCALAR] = fixed.ONE if position else fixed.NOTHING
        for index, op in enumerate(self.program):
            if op.opcode == Opcode.SAMPLE and not samples:
                continue
            yield index, op, self._execute(index, op)
            if op.opcode == Opcode.END or op.opcode == Opcode.SECTION and op.reads and reads:
                return

    def _execute(self, index: int, op: Op) -> np.ndarray:
        if op.opcode == Opcode.MATVEC:
            return self._matvec(self._matrices[index], op)
        return _EXECUTE[op.opcode](self, op)

    def _embed(self, op: Op) -> np.ndarray:
        row = self._embedding.reshape(-1, self.config.lanes)[
            (op.row if op.fixed else self.token) * self.config.embed_beats :][: op.beats]
        return self._write(op, Target.VECTOR, fixed.saturate(fixed.lane_scale(row, self.scalars[op.ra]), ELEMENT_BITS))

    def _matvec(self, weights: np.ndarray, op: Op) -> np.ndarray:
        if op.fill or self.config.slots > 1:
            filled = self.activation[op.src : op.src + op.blocks * self.config.block_beats].copy()
            filled[len(filled) - op.unfilled :] = 0
            self.filled = filled.ravel()
        out = matvec(weights, self.filled, op.shift)
        self.vector.reshape(-1)[op.dst * self.config.lanes :][: out.size] = out
        self.scalars[op.rd] = fixed.normalise(np.abs(out).max())
        return out

    def _sample(self, op: Op) -> np.ndarray:
        logits = self.vector[op.src :].ravel()[: op.count]
        scale = None if self.temperature is None else self.scalars[op.ra]
        self.sampled = sample(logits, scale, self.noise)
        return np.array([self.sampled])

    def _rotary_factors(self, op: Op) -> np.ndarray:
        self.factors = fixed.rotary_factors(self._rotary, self.position)
        return np.concatenate(self.factors)

    def _scalar(self, op: Op) -> np.ndarray:
        value = self.scalars[op.ra]
        if op.fn != ScalarFn.MUL:
            value = _SCALAR_FUNCTIONS[op.fn](value)
        if op.rb != NO_SCALAR:
            value = fixed.multiply(value, self.scalars[op.rb])
        value = fixed.multiply(value, Scalar(op.mantissa, op.exponent))
        self.scalars[op.rd] = value
        return np.array([value.mantissa, value.exponent])

    def _vector(self, op: Op) -> np.ndarray:
        a = self.vector[op.src : op.src + op.beats]
        match VectorFn(op.fn):
            case VectorFn.SCALE if op.segmented:
                c = self.config
                heads = a.reshape(op.beats * c.segments, c.head_dim)
                scaled = [fixed.lane_scale(head, self.scalars[op.ra + i]) for i, head in enumerate(heads)]
                out = np.stack(scaled).reshape(op.beats, c.lanes)
            case VectorFn.SCALE:
                out = fixed.lane_scale(a, self.scalars[op.ra])
            case VectorFn.ADD:
                out = self.vector[op.src2 : op.src2 + op.beats] + fixed.lane_scale(a, self.scalars[op.ra])
            case VectorFn.SQUARE:
                out = a
                total = int((a * a >> SQUARE_SHIFT).sum()) + (op.dst << 8 | op.src2)
                self.scalars[op.rb] = fixed.normalise(total)
            case VectorFn.ROTATE:
                out = rotate(a.reshape(op.beats, -1, self.config.head_dim), *self.factors).reshape(a.shape)
            case VectorFn.GATE:
                b = self.vector[op.src2 : op.src2 + op.beats]
                out, self.scalars[op.rc] = gate(a, b, self.scalars[op.ra], self.scalars[op.rb])
            case VectorFn.PRODUCT:
                b = self.vector[op.src2 : op.src2 + op.beats]
                out, self.scalars[op.rc] = product(a, b, self.scalars[op.rb])
            case VectorFn.SILU:
                out = fixed.silu(a)
            case VectorFn.SIGMOID:
                out = fixed.sigmoid_less_one(a)
        return self._write(op, Target(op.target), out)

    def _write(self, op: Op, target: Target, out: np.ndarray) -> np.ndarray:
        """Saturate to the target's width, store, and leave the peak in S(rd) if that is to be kept."""
        wide = target in (Target.VECTOR, Target.NONE)
        out = fixed.saturate(out, ELEMENT_BITS) if wide else fixed.clamp_int8(out)
        match target:
            case Target.VECTOR:
                self.vector[op.dst : op.dst + op.beats] = out
            case Target.ACTIVATION:
                self.activation[op.dst : op.dst + op.beats] = out
            case Target.QUERY:
                self.query[op.dst : op.dst + op.beats] = out
                self.query_exponent = fixed.block_exponent(self.scalars[op.rb])
            case Target.KEY | Target.VALUE:
                self.cache[target][op.dst, self.position] = out.ravel()
                self.cache_exponents[target][op.dst, self.position] = fixed.block_exponent(self.scalars[op.rb])
        if op.rd != NO_SCALAR:
            self.scalars[op.rd] = fixed.normalise(np.abs(out).max())
        return out

    def _attend(self, op: Op) -> np.ndarray:
        history = (op.slot, slice(max(0, self.position - op.reach), self.position + 1))
        out, sums = attend(
            self.query.reshape(self.config.query_groups, -1), self.query_exponent,
            self.cache[Target.KEY][history], self.cache_exponents[Target.KEY][history],
            self.cache[Target.VALUE][history], self.cache_exponents[Target.VALUE][history], self.config)
        out = out.reshape(-1, self.config.lanes)
        self.vector[self.config.attention_beat :][: len(out)] = out
        self.scalars[op.rd : op.rd + len(sums)] = sums
        return out


_EXECUTE = {**dict.fromkeys((Opcode.END, Opcode.SECTION), lambda golden, op: np.zeros(0, np.int64)),
            Opcode.EMBED: Golden._embed, Opcode.VECTOR: Golden._vector, Opcode.SCALAR: Golden._scalar,
            Opcode.ATTEND: Golden._attend, Opcode.SAMPLE: Golden._sample, Opcode.ROTARY: Golden._rotary_factors}
_SCALAR_FUNCTIONS = {ScalarFn.RECIPROCAL: fixed.reciprocal, ScalarFn.RSQRT: fixed.rsqrt, ScalarFn.BLOCK: fixed.block}
