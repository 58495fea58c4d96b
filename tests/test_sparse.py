"""3:4-sparse weights from the checkpoint to the image: what holds them, and what is refused."""

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from host.architecture import from_config
from host.checkpoint import Checkpoint, Shape, synthetic_checkpoint
from host.cli import main
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.image import Image
from host.layout import Layout
from host.packing import has_one_zero_in_four
from host.tiler import to_planes
from models.training import quantisers
from rtl.config import RESIDENT, SPARSE, TINY, Config
from rtl.isa import Opcode
from sim.golden import Golden
from tests.shapes import SHAPES, STORIES

SMALL = replace(TINY, name="small", code_trits=4)
BLOCKS = replace(SMALL, name="blocks", table_blocks=2, embed_beats=5)
SHAPE = replace(SHAPES["tiny"], is_sparse=True)
SAID = json.loads((STORIES / "config.json").read_text())


def changed(shape: Shape = SHAPE, **integers: np.ndarray) -> Checkpoint:
    """A random sparse model with some matrices replaced."""
    model = synthetic_checkpoint(shape)
    return replace(model, tensors=model.tensors | {
        name: replace(model.tensors[name], integers=matrix) for name, matrix in integers.items()})


def test_key_of_the_configuration() -> None:
    """A sparse checkpoint taken for another, or a sparsity that codes cannot hold taken for theirs."""
    assert not from_config(SAID).shape.is_sparse
    assert from_config(SAID | {"weight_sparsity": "3:4"}).shape.is_sparse
    assert any("weight_sparsity is '2:4'" in line for line in from_config(SAID | {"weight_sparsity": "2:4"}).objections)


@pytest.mark.parametrize("seed", range(3))
def test_random_models_are_sparse_in_every_plane(seed: int) -> None:
    """Planes that are sparse only in their sum."""
    for name, tensor in synthetic_checkpoint(SHAPE, seed=seed).tensors.items():
        assert name == "embed" or has_one_zero_in_four(to_planes(tensor.integers, tensor.planes)), name


@pytest.mark.parametrize(("config", "shape"), [
    (SMALL, SHAPE), (BLOCKS, replace(SHAPE, hidden=40)), (SPARSE, SHAPES["sparse"]),
    (SPARSE, replace(SHAPES["sparse"], is_parallel=True))], ids=["tiny", "blocks", "resident", "parallel"])
def test_tokens_do_not_depend_on_the_codes(config: Config, shape: Shape) -> None:
    """Another model by other codes: padding that counts, or columns in another order."""
    model = synthetic_checkpoint(shape, seed=4)
    dense = replace(config, name="dense", code_trits=3)
    images = [compile_checkpoint(model, config), compile_checkpoint(model, dense)]
    assert images[0].sections["weights"].nbytes < images[1].sections["weights"].nbytes
    tokens = [Golden(image).generate([1, 77, 5], 12) for image in images]
    assert tokens[0] == tokens[1]


def test_blocks_that_are_not_full_say_so() -> None:
    """Padding, whose codes are weights, that meets what the buffer held before."""
    image = compile_checkpoint(synthetic_checkpoint(SHAPES["sparse"]), SPARSE)
    columns = {op.unfilled for op in image.program if op.opcode == Opcode.MATVEC}
    assert columns == {0, 4}        # heads fill half of a block
    dense = compile_checkpoint(synthetic_checkpoint(SHAPES["resident"]), RESIDENT)
    assert not any(op.unfilled for op in dense.program if op.opcode == Opcode.MATVEC)


def test_image_survives_a_file(tmp_path: Path) -> None:
    """Codes read back by the table of the other kind."""
    image = compile_checkpoint(synthetic_checkpoint(SHAPE), SMALL)
    image.save(tmp_path / "sparse.img")
    loaded = Image.load(tmp_path / "sparse.img")
    assert np.array_equal(loaded.tiles(), image.tiles()) and has_one_zero_in_four(loaded.tiles())
    assert loaded.manifest["encoding"] == "codes5 of four trits"


def test_what_is_not_sparse_is_refused() -> None:
    """A model that does not claim to be sparse, or one that does and is not."""
    with pytest.raises(TritloomError, match="weights are not 3:4-sparse"):
        compile_checkpoint(synthetic_checkpoint(SHAPES["tiny"]), SMALL)
    matrix = synthetic_checkpoint(SHAPE).tensors["1.gate"].integers.copy()
    matrix[3, :4] = 1
    with pytest.raises(ValueError, match="exactly one zero"):
        compile_checkpoint(changed(**{"1.gate": matrix}), SMALL)


@pytest.mark.parametrize("command", ["import", "check"])
def test_false_claim_is_refused_on_import(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """A key of config.json that the weights contradict."""
    shutil.copytree(STORIES, tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps(SAID | {"weight_sparsity": "3:4"}))
    output = ["-o", str(tmp_path / "image")] if command == "import" else []
    with pytest.raises(SystemExit):
        main([command, str(tmp_path / "model"), *output])
    assert re.search(r"tensor \S+weight is not 3:4-sparse, although", capsys.readouterr().err)


@pytest.mark.parametrize("changes", [
    {}, {"vocab": 500}, {"vocab": 504}, {"feed_forward": 330}, {"feed_forward": 440}, {"hidden": 152}, {"hidden": 140},
    {"hidden": 120}, {"heads": 2, "kv_heads": 1}], ids=str)
@pytest.mark.parametrize("is_parallel", [False, True])
def test_the_choice_agrees_with_the_compiler(is_parallel: bool, changes: dict[str, int]) -> None:
    """Sizes that fit by their bytes and cannot be padded: another configuration must be chosen before."""
    shape = replace(SHAPES["sparse"], is_parallel=is_parallel, **changes)
    try:
        Layout(shape, SPARSE)
    except TritloomError as refusal:
        assert "3:4-sparse weights take multiples" in str(refusal)
        with pytest.raises(TritloomError, match="3:4-sparse weights take multiples"):
            compile_checkpoint(synthetic_checkpoint(shape), SPARSE)
    else:
        image = compile_checkpoint(synthetic_checkpoint(shape), SPARSE)
        assert has_one_zero_in_four(image.tiles())


@pytest.mark.parametrize(("changes", "message"), [
    ({"code_trits": 5}, "code_trits must be 3 or 4"),
    ({"code_trits": 4, "lanes": 6, "head_dim": 2, "rows": 2}, "a multiple of it as lanes"),
    ({"code_trits": 4, "rows": 5}, "rows that divide a word"), ({"code_trits": 4, "block_beats": 9}, "at most 8"),
    ({"code_trits": 4, "weight_source": "sdram"}, "weight_source ebr")])
def test_geometries_without_such_codes(changes: dict[str, object], message: str) -> None:
    """A tile that is not a whole number of codes, or padding that an operation cannot name."""
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


@pytest.mark.parametrize(("limit", "planes"), [(1, 1), (4, 2)])
def test_trainer_finds_the_nearest_sparse_weights(limit: int, planes: int) -> None:
    """A group that is sparse, but not the one with the least error of all."""
    one = [trits for trits in itertools.product((-1, 0, 1), repeat=4) if trits.count(0) == 1]
    words = np.array([sum(3**power * np.array(plane) for power, plane in enumerate(reversed(planed)))
                      for planed in itertools.product(one, repeat=planes)])
    weights = torch.randn(200, 8, generator=torch.Generator().manual_seed(planes)) * limit**0.7
    found = quantisers.one_zero_in_four(weights, limit).numpy().reshape(-1, 4)
    least = ((weights.numpy().reshape(-1, 1, 4) - words) ** 2).sum(-1).min(1)
    assert {tuple(word) for word in found} <= {tuple(word) for word in words.tolist()}
    assert np.allclose(((weights.numpy().reshape(-1, 4) - found) ** 2).sum(-1), least, atol=1e-5)
