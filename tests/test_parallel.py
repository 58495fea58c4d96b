"""Models whose attention and feed-forward read the same normed vector: reading, meaning, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from host.architecture import from_config
from host.checkpoint import Shape, layer_shapes, synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.fit import matrix_tiles
from host.layout import Layout
from host.tiler import Tiler
from rtl.config import RESIDENT, STREAM, TINY, Config
from rtl.isa import Op
from sim.golden import Golden
from sim.reference import Reference
from tests.shapes import BANKED, SHAPES, STORIES
from tests.test_golden import golden_logits
from tests.test_planes import divergence

SHAPE = replace(SHAPES["tiny"], is_parallel=True)
# A layer of attention only, with a narrow window; a hidden vector in three groups, two of them, and one of them alone.
GROUPED = replace(SHAPE, layers=4, feed_groups=(0, 3, 2, 1), windows=(5, 0, 64, 0))


@pytest.mark.parametrize("config", [TINY, BANKED], ids=lambda config: config.name)
def test_golden_model_is_close_to_the_reference(config: Config) -> None:
    """A feed-forward that reads what attention has added to, or scales that are those of another order."""
    model = synthetic_checkpoint(SHAPE)
    tokens = np.random.default_rng(3).integers(0, SHAPE.vocab, 32)
    golden = golden_logits(Golden(compile_checkpoint(model, config)), tokens.tolist())
    ordinary = replace(model, shape=SHAPES["tiny"])
    assert divergence(Reference(model).logits(tokens), golden) < 0.01
    assert divergence(Reference(ordinary).logits(tokens), golden) > 0.05


@pytest.mark.parametrize("config", [TINY, BANKED, STREAM], ids=lambda config: config.name)
@pytest.mark.parametrize("other", [
    {"windows": (64, 0, 64, 0)}, {"windows": (4, 0, 64, 0)}, {"windows": (64, 0, 5, 0)}], ids=str)
def test_windows_are_those_of_the_reference(config: Config, other: dict[str, object]) -> None:
    """A group that takes the scale of another, a window that is one position too wide, or that of another layer."""
    shape = GROUPED
    if config is STREAM:
        shape = replace(shape, hidden=80, feed_forward=180, head_dim=20, heads=2, kv_heads=1)
    model, tokens = synthetic_checkpoint(shape), np.random.default_rng(3).integers(0, shape.vocab, 32)
    golden = golden_logits(Golden(compile_checkpoint(model, config)), tokens.tolist())
    assert divergence(Reference(model).logits(tokens), golden) < (0.0012 if config is STREAM else 0.001)
    assert divergence(Reference(replace(model, shape=replace(shape, **other))).logits(tokens), golden) > 0.1


def test_groups_are_those_of_the_reference() -> None:
    """A hidden vector with one scale for all groups."""
    shape = replace(SHAPE, feed_groups=(3, 3))
    model, tokens = synthetic_checkpoint(shape), np.random.default_rng(3).integers(0, shape.vocab, 32)
    golden = golden_logits(Golden(compile_checkpoint(model, BANKED)), tokens.tolist())
    whole = Reference(replace(model, shape=SHAPE)).logits(tokens)
    assert divergence(whole, golden) > 1.3 * divergence(Reference(model).logits(tokens), golden)


def test_windows_beyond_the_accelerator_see_all() -> None:
    """A window whose number of positions does not fit the operation, or of which only the low bits count."""
    def program(window: int) -> list[Op]:
        return compile_checkpoint(synthetic_checkpoint(replace(SHAPE, windows=(window, window))), BANKED).program
    assert program(BANKED.context) == program(BANKED.context + 1) == program(1 << 20)
    assert program(BANKED.context) != program(BANKED.context - 1)


def test_groups_need_whole_beats() -> None:
    """A beat with elements of two groups, which would share a scale."""
    with pytest.raises(TritloomError, match="48 in 4 groups does not fit tiny, which takes groups of whole beats of 8"):
        compile_checkpoint(synthetic_checkpoint(replace(SHAPE, feed_groups=(4, 0))), TINY)


def test_more_groups_than_registers_are_refused() -> None:
    """Scales of groups in registers that mean something else, found when all weights are read."""
    shape = replace(SHAPE, feed_forward=72, feed_groups=(9, 1))
    with pytest.raises(TritloomError, match="in 9 groups, tiny has registers for 8"):
        Layout(shape, TINY)


@pytest.mark.parametrize(("shape", "message"), [
    (replace(SHAPE, feed_forward=96, feed_groups=(2, 1)),
     "2 column blocks of the hidden size or of a group, tiny has 1"),
    (replace(SHAPE, feed_forward=192, feed_groups=(0, 8)), "18 activation beats, tiny has 16")],
    ids=["table", "buffer"])
def test_groups_that_do_not_fit_are_refused(shape: Shape, message: str) -> None:
    """A group wider than the lookup tables, or one whose last column block reaches beyond the activation buffer."""
    with pytest.raises(TritloomError, match=message):
        Layout(shape, TINY)


WIDE = replace(SHAPES["resident"], hidden=80, feed_forward=320, layers=2, is_parallel=True, context=256)


@pytest.mark.parametrize(("config", "shape"), [
    (TINY, replace(SHAPE, feed_groups=(2, 2), windows=(2, 2))), (TINY, replace(SHAPE, feed_groups=(6, 6))),
    (TINY, replace(SHAPE, layers=1, heads=4, kv_heads=4, feed_groups=(2,))),
    (TINY, replace(SHAPE, layers=4, feed_groups=(1, 6, 0, 5), windows=(2, 0, 9, 0))),
    (TINY, replace(SHAPE, layers=4, feed_groups=(3, 1, 2, 3), windows=(2, 0, 0, 0))),
    (TINY, replace(SHAPE, feed_forward=128, feed_groups=(8, 8), windows=(9, 0))),
    (TINY, replace(SHAPE, feed_forward=168, feed_groups=(7, 7), windows=(9, 0))),
    (replace(TINY, activation_depth=6), replace(SHAPE, feed_forward=72, feed_groups=(3, 3), windows=(9, 0))),
    (RESIDENT, replace(WIDE, feed_groups=(2, 2), windows=(16, 256))),
    (RESIDENT, replace(WIDE, heads=8, kv_heads=4, feed_groups=(2, 1))),
    (RESIDENT, replace(WIDE, hidden=60, feed_forward=240, feed_groups=(3, 3))),
    (RESIDENT, replace(WIDE, hidden=100, feed_forward=240)),
    (RESIDENT, replace(WIDE, feed_forward=960, feed_groups=(6, 5), windows=(16, 0))),
    (STREAM, replace(WIDE, heads=8, kv_heads=4, feed_groups=(4, 1))),
    (STREAM, replace(WIDE, layers=3, windows=(256, 0, 16))), (STREAM, replace(WIDE, feed_groups=(8, 5))),
    (replace(STREAM, activation_depth=32), replace(WIDE, feed_forward=700, feed_groups=(7, 5)))],
    ids=["early", "many", "words", "alone", "few-alone", "late", "later", "late-of-three", "wide-early", "wide-words",
         "broken-tile", "broken-tile-whole", "wide-later", "slots", "slots-alone", "slots-many", "slots-later"])
def test_places_of_odd_shapes_hold_what_they_must(config: Config, shape: Shape) -> None:
    """Sums that are not inverted, a hidden vector over what attention left, a tile that reaches into the next place."""
    model, tokens = synthetic_checkpoint(shape), np.random.default_rng(3).integers(0, shape.vocab, 24)
    golden = golden_logits(Golden(compile_checkpoint(model, config)), tokens.tolist())
    assert divergence(Reference(model).logits(tokens), golden) < 0.003


@pytest.mark.parametrize(("config", "feed_forward", "groups"), [
    (TINY, 48, 3), (TINY, 48, 6), (RESIDENT, 240, 4), (RESIDENT, 60, 3)], ids=["three", "six", "resident", "in-pairs"])
def test_fit_counts_the_tiles_of_groups(config: Config, feed_forward: int, groups: int) -> None:
    """A model that fits by its headers, and is refused when all its weights are read."""
    shape = replace(SHAPE if config is TINY else WIDE, feed_forward=feed_forward, feed_groups=(groups, groups - 2),
                    windows=(0, 5))
    counted = sum(matrix_tiles(shape, config, f"{layer}.{part}")
                  for layer in range(shape.layers) for part in layer_shapes(shape, layer))
    assert counted + matrix_tiles(shape, config, "head") == len(Tiler(synthetic_checkpoint(shape), config).tiles())


OWN = {"feed_forward_groups": [0, 4, 2, 4], "attention_windows": [32, 64, 0, 64], "num_hidden_layers": 4}
PER_LAYER = ("feed_forward_groups", "attention_windows")


def test_groups_and_windows_are_read() -> None:
    """A key that is lost."""
    said = json.loads((STORIES / "config.json").read_text())
    shape = from_config(said | {"intermediate_size": 640} | OWN).shape
    assert (shape.feed_groups, shape.windows) == ((0, 4, 2, 4), (32, 64, 0, 64))
    plain = from_config(said | dict.fromkeys(PER_LAYER)).shape
    assert (plain.feed_groups, plain.windows) == ((), ())


@pytest.mark.parametrize(("change", "message"), [
    ({"feed_forward_groups": 4}, "feed_forward_groups must list a number from 0 to 1024 for each of 4 layers"),
    ({"feed_forward_groups": [0, 0, 0, 0]}, "not all 0"),
    ({"feed_forward_groups": [0, 4, 4, -1]}, "feed_forward_groups must list"),
    ({"feed_forward_groups": [0, 7, 4, 4]}, "640 is not a multiple of 7, the largest of feed_forward_groups"),
    ({"attention_windows": [64]}, r"attention_windows must list a number .* for each of 4 layers, .*, got \[64\]"),
    ({"attention_windows": "wide"}, "attention_windows must list"),
    ({"attention_windows": [64, 64, True, 64]}, "attention_windows must list"),
    ({"attention_windows": [0, 64, 64, 64]}, "both 0 for a layer")], ids=str)
def test_impossible_groups_and_windows_are_refused(change: dict[str, object], message: str) -> None:
    """Layers without a number, a layer with nothing, or lists of nothing but 0, accepted."""
    said = json.loads((STORIES / "config.json").read_text())
    with pytest.raises(ValueError, match=message):
        from_config(said | {"intermediate_size": 640} | OWN | change)


@pytest.mark.parametrize("change", [
    {"feed_forward_groups": [1, 1, 1, 1]}, {"attention_windows": [64, 64, 0, 64]}], ids=str)
@pytest.mark.parametrize("other", [
    {"use_parallel_residual": False}, {"architectures": ["BitNetForCausalLM"]},
    {"architectures": ["HGRNBitForCausalLM"]}],
    ids=str)
def test_layers_of_other_programs_are_refused(change: dict[str, object], other: dict[str, object]) -> None:
    """An option that the program of layers one after the other would ignore."""
    said = json.loads((STORIES / "config.json").read_text())
    config = said | dict.fromkeys(PER_LAYER) | {"num_hidden_layers": 4} | change | other
    if "architectures" in other:
        assert any(next(iter(change)) in line for line in from_config(config).objections)
    else:
        with pytest.raises(ValueError, match="need use_parallel_residual true"):
            from_config(config)


def test_configuration_is_read() -> None:
    """A key that is lost, or taken for true because it is there."""
    said = json.loads((STORIES / "config.json").read_text())
    for value in (False, True):
        architecture = from_config(said | dict.fromkeys(PER_LAYER) | {"use_parallel_residual": value})
        assert architecture.shape.is_parallel == value and not architecture.objections


@pytest.mark.parametrize("change", [
    {"use_parallel_residual": "yes"}, {"use_parallel_residual": 1},
    {"use_parallel_residual": True, "hidden_act": "silu"},
    {"use_parallel_residual": True, "architectures": ["BitNetForCausalLM"]}])
def test_what_cannot_run_is_refused(change: dict[str, object]) -> None:
    """Another meaning of the key, or a gate that this program does not have."""
    said = json.loads((STORIES / "config.json").read_text()) | dict.fromkeys(PER_LAYER)
    assert any("use_parallel_residual" in line for line in from_config(said | change).objections)


@pytest.mark.parametrize("groups", [(1, 1), (2, 3)], ids=str)
def test_equal_gains_of_a_layer_without_attention_count(groups: tuple[int, ...]) -> None:
    """A gain that is looked for where layers with attention have theirs, and so is left out."""
    gains = {"1.qkv": np.full(SHAPE.hidden, 1.5, np.float32)}
    model = replace(synthetic_checkpoint(replace(SHAPE, feed_groups=groups, windows=(64, 0))), gains=gains)
    tokens = np.random.default_rng(3).integers(0, SHAPE.vocab, 24)
    golden = golden_logits(Golden(compile_checkpoint(model, BANKED)), tokens.tolist())
    assert divergence(Reference(model).logits(tokens), golden) < 0.002
    assert divergence(Reference(replace(model, gains={})).logits(tokens), golden) > 0.1


def test_layers_beyond_the_program_memory_are_refused() -> None:
    """Layers of feed-forward alone, which take no place in the KV cache, read one and all before they are too many."""
    with pytest.raises(TritloomError, match="operations, at the least, tiny has"):
        Layout(replace(SHAPE, layers=200, windows=(4,) + (0,) * 199, feed_groups=(1,) * 200), TINY)


def test_gains_are_refused() -> None:
    """Gains of norms that would be left out."""
    gains = {"0.qkv": np.linspace(0.5, 2, SHAPE.hidden, dtype=np.float32)}
    model = replace(synthetic_checkpoint(SHAPE), gains=gains)
    with pytest.raises(TritloomError, match="without gains"):
        compile_checkpoint(model, replace(BANKED, gain_rows=8))


def test_gains_of_a_second_norm_are_refused() -> None:
    """A feed-forward with a norm of its own, which this program does not compute."""
    model = replace(synthetic_checkpoint(SHAPE), gains={"0.gate": np.full(SHAPE.hidden, 2, np.float32)})
    with pytest.raises(TritloomError, match="without gains"):
        compile_checkpoint(model, BANKED)
