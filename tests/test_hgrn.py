"""The MatMul-free language model on the golden model and on the simulated SoC."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from host.checkpoint import Shape, synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.fit import matrix_tiles
from host.image import Image
from host.importer import load_checkpoint
from host.tiler import Tiler
from rtl.config import CONFIGS, HGRN, LLAMA, STREAM, TINY
from rtl.isa import HISTORY_SCALAR, Opcode, VectorFn
from sim.golden import Golden
from sim.reference import Reference
from tests.small_hgrn import LAYERS, SmallHgrn
from tests.test_golden import golden_logits
from tests.test_planes import divergence
from tests.test_soc import run

TOKENS = np.random.default_rng(7).integers(0, 512, 256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def small_hgrn_image(folder: Path) -> Image:
    """The image of a random model for `HGRN`, by way of its files."""
    return compile_checkpoint(load_checkpoint(SmallHgrn().write(folder / "hgrn"), HGRN), HGRN)


def longer(golden: Golden) -> Golden:
    """The golden model of a context for all tokens, which it only counts."""
    golden.config = replace(golden.config, context=len(TOKENS))
    return golden


@pytest.mark.parametrize("gained", [True, False])
def test_golden_model_computes_what_was_published(tmp_path: Path, gained: bool) -> None:
    """Any convention misread: which norm reads which, the bound of the forget gate, what the output gate gates.

    Most of the divergence is that of the embedding in five trit planes.
    """
    model = SmallHgrn(gained=gained)
    checkpoint = load_checkpoint(model.write(tmp_path / "m"), HGRN)
    golden = golden_logits(longer(Golden(compile_checkpoint(checkpoint, HGRN))), TOKENS.tolist())
    published, reference = model.logits(TOKENS), Reference(checkpoint).logits(TOKENS)
    assert divergence(published, reference) < 0.008
    assert divergence(reference, golden) < (0.005 if gained else 0.002)
    assert divergence(published, golden) < 0.01
    assert divergence(published, np.roll(golden, 1, axis=0)) > 0.5


def test_state_lasts_and_begins_from_nothing(folder: Path) -> None:
    """A state that is lost between tokens, or that outlives its sequence."""
    golden = Golden(small_hgrn_image(folder))
    first, history = golden_logits(golden, [5, 6, 7]), golden_logits(golden, [9, 6, 7])
    assert np.array_equal(first, golden_logits(golden, [5, 6, 7]))
    assert not np.array_equal(first[1], history[1])
    for token in (5, 6, 7):     # another sequence leaves its states behind
        golden.step(token, 1)
    tokens = [golden.step(token, position) for position, token in enumerate((5, 6, 7))]
    golden.reset()
    assert tokens == [golden.step(token, position) for position, token in enumerate((5, 6, 7))]


def test_half_a_bound_is_another_model(folder: Path) -> None:
    """Lower bounds that are read and then ignored."""
    checkpoint = load_checkpoint(SmallHgrn().write(folder / "hgrn"), HGRN)
    assert "0.forget" not in checkpoint.gains
    bounds = {f"{layer}.forget": checkpoint.gains[f"{layer}.forget"] ** 0.5 for layer in range(1, LAYERS)}
    other = replace(checkpoint, gains=checkpoint.gains | bounds)
    golden = golden_logits(Golden(compile_checkpoint(other, HGRN)), TOKENS[:40].tolist())
    assert divergence(Reference(other).logits(TOKENS[:40]), golden) < 0.01
    assert divergence(Reference(checkpoint).logits(TOKENS[:40]), golden) > 0.02


def test_nothing_but_vector_operations(folder: Path) -> None:
    """Attention or positions that a recurrence has no use for, or a state read with another's history."""
    image = small_hgrn_image(folder)
    program = image.program
    assert image.predicted_cycles(0) == image.predicted_cycles(image.context - 1)
    assert not {op.opcode for op in program} & {Opcode.ATTEND, Opcode.ROTARY}
    vector_ops = [op for op in program if op.opcode == Opcode.VECTOR]
    resets = [op for op in vector_ops if op.fn == VectorFn.SCALE and op.ra == HISTORY_SCALAR]
    assert len(resets) == len({op.dst for op in resets}) == LAYERS and all(op.src == op.dst for op in resets)
    assert sum(op.fn == VectorFn.SIGMOID for op in vector_ops) == 2 * LAYERS


def test_shapes_that_fill_no_beat(tmp_path: Path) -> None:
    """Lanes beyond the hidden size that take part, or parts of a matrix scaled apart."""
    shape = Shape(hidden=44, feed_forward=100, layers=2, heads=1, kv_heads=1, head_dim=44, vocab=300, context=64,
                  embed_planes=5, head_planes=1, sub_norms=("o", "down"), activation="silu", mixer="hgrn")
    checkpoint = synthetic_checkpoint(shape)
    for config in (HGRN, replace(LLAMA, has_recurrence=True)):
        golden = golden_logits(Golden(compile_checkpoint(checkpoint, config)), (TOKENS[:40] % 300).tolist())
        assert divergence(Reference(checkpoint).logits(TOKENS[:40] % 300), golden) < 0.005
        tiles = sum(matrix_tiles(shape, config, f"0.{part}") for part in ("i", "f", "g", "o", "gate_up", "down"))
        assert len(Tiler(checkpoint, config).tiles()) == 2 * tiles + matrix_tiles(shape, config, "head")


def test_simulated_soc_equals_golden(folder: Path, tmp_path: Path) -> None:
    """Any value or cycle of the sigmoid, or of a state, that gateware has otherwise; a state of the run before."""
    run(small_hgrn_image(folder), tmp_path, "soc_hgrn", prompt=[1, 300], count=8, runs=2)


def test_recurrence_is_an_option() -> None:
    """A configuration without it that grows, or one with half of it."""
    assert replace(TINY, has_silu=True, has_recurrence=True).geometry != replace(TINY, has_silu=True).geometry
    with pytest.raises(ValueError, match="has_recurrence needs has_silu"):
        replace(STREAM, has_recurrence=True)
    assert not any(config.has_recurrence for config in CONFIGS.values())
