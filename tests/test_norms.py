"""Gains of norms and sub-norms: as the float reference has them, where they are held, and what they cost."""

from dataclasses import replace

import numpy as np
import pytest

from host.checkpoint import Checkpoint, synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.gains import GAIN_PLANES, GainTable
from rtl.config import CONFIGS, TINY
from rtl.isa import Opcode, VectorFn
from sim.golden import Golden
from sim.reference import Reference
from tests.shapes import SHAPES
from tests.test_golden import golden_logits
from tests.test_planes import divergence

SHAPE = SHAPES["tiny"]
GAINED = replace(TINY, name="gained", gain_rows=32)
SIZES = {"qkv": SHAPE.hidden, "gate": SHAPE.hidden, "o": SHAPE.heads * SHAPE.head_dim, "down": SHAPE.feed_forward}


def normed(names: tuple[str, ...], subs: tuple[str, ...], *, seed: int = 0, uniform: bool = False) -> Checkpoint:
    """A random model with sub-norms, and with gains of the norms that these parts read."""
    rng = np.random.default_rng(seed)
    gains = {f"{layer}.{name}": rng.uniform(0.2, 2, SIZES[name]).astype(np.float32)
             for layer in range(SHAPE.layers) for name in names if name != "head"}
    if "head" in names:
        gains["head"] = rng.uniform(-2, 2, SHAPE.hidden).astype(np.float32)
    if uniform:
        gains = {name: np.full_like(gain, abs(gain[0])) for name, gain in gains.items()}
    model = synthetic_checkpoint(replace(SHAPE, sub_norms=subs), seed=seed)
    return replace(model, gains=gains)


def distances(model: Checkpoint, config=GAINED) -> tuple[float, float]:
    """KL of the golden model to the reference with gains and to one without."""
    tokens = np.random.default_rng(9).integers(0, SHAPE.vocab, 32)
    golden = golden_logits(Golden(compile_checkpoint(model, config)), tokens.tolist())
    without = Reference(replace(model, gains={}))
    return divergence(Reference(model).logits(tokens), golden), divergence(without.logits(tokens), golden)


@pytest.mark.parametrize(("names", "subs"), [
    (("qkv",), ()), (("gate",), ()), (("head",), ()), (("o",), ("o",)), (("down",), ("down",)), ((), ("o", "down")),
    (("qkv", "gate", "o", "down", "head"), ("o", "down"))])
def test_gains_and_sub_norms_are_those_of_the_reference(names: tuple[str, ...], subs: tuple[str, ...]) -> None:
    """A gain or a scale of one norm lost, or taken for another's."""
    near, far = distances(normed(names, subs))
    assert near < 0.006
    assert far > 0.02 or not names


def test_sub_norms_matter() -> None:
    """A sub-norm left out by both the reference and the program."""
    tokens = np.arange(32)
    plain, normal = (Reference(normed((), subs)).logits(tokens) for subs in ((), ("o", "down")))
    assert divergence(plain, normal) > 0.05


def test_equal_gains_cost_nothing() -> None:
    """Rows and cycles spent on what is a scale."""
    model = normed(("qkv", "gate", "o", "down", "head"), ("o", "down"), uniform=True)
    program = compile_checkpoint(model, TINY).program
    assert not any(op.opcode == Opcode.VECTOR and op.fn == VectorFn.PRODUCT for op in program)
    near, far = distances(model, TINY)
    assert near < 0.006 and far > 0.02


def test_query_gains_follow_words_that_are_not_full() -> None:
    """Gains beside the heads they belong to where KV heads do not fill a word."""
    shape = replace(SHAPE, heads=6, kv_heads=3, sub_norms=("o",))
    gains = np.random.default_rng(1).uniform(0.2, 2, 24).astype(np.float32)
    model = replace(synthetic_checkpoint(shape), gains={"1.o": gains, "0.o": gains[::-1]})
    assert distances(model, replace(GAINED, query_groups=2, kv_slots=4))[0] < 0.006


@pytest.mark.parametrize("planes", range(1, 6))
def test_digits_recombine(planes: int) -> None:
    """Digits in the wrong order, or too few of them."""
    config = replace(GAINED, embed_planes=planes, gain_rows=64)
    gain = np.random.default_rng(2).uniform(-1, 3, SHAPE.feed_forward).astype(np.float32)
    table = GainTable(replace(synthetic_checkpoint(SHAPE), gains={"0.down": gain}), config, lambda vector: vector)
    found, width = table.gains["0.down"], config.embed_beats * config.lanes
    value = np.zeros(SHAPE.feed_forward)
    for row in found.rows:
        digits = table.rows.reshape(-1)[(row - config.vocab) * width :][: SHAPE.feed_forward]
        assert np.abs(digits).max() <= 3**planes // 2
        value = value * 3**planes + digits
    value *= found.largest / (3 ** (planes * len(found.rows)) // 2)
    assert np.abs(value - gain).max() < gain.max() / (3**GAIN_PLANES - 2)


def test_rows_that_are_not_there_are_named() -> None:
    """Gains read from beyond the memory."""
    with pytest.raises(TritloomError, match="need 4 rows of the embedding memory, gained has 3; use"):
        compile_checkpoint(normed(("qkv",), ()), replace(GAINED, gain_rows=3))


@pytest.mark.parametrize(("name", "geometry"), [("resident", 0x093ACF2B), ("stream", 0xEF1A7416), ("tiny", 0x0E7EE46E)])
def test_shipped_configurations_have_no_gains(name: str, geometry: int) -> None:
    """An option that changes configurations without it: their bitstreams would need other images."""
    assert CONFIGS[name].geometry == geometry and not CONFIGS[name].has_products
    assert replace(CONFIGS[name], gain_rows=1).geometry != geometry
