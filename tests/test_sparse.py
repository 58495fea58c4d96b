"""3:4-sparse weights from the checkpoint to the image: what holds them, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from host.architecture import from_config
from host.checkpoint import Checkpoint, Shape, synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.image import Image
from host.packing import is_sparse
from host.tiler import to_planes
from rtl.config import RESIDENT, SPARSE, STREAM, TINY, Config
from rtl.isa import Opcode
from sim.golden import Golden
from tests.shapes import SHAPES, STORIES

SMALL = replace(TINY, name="small", code_trits=4)
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
        assert name == "embed" or is_sparse(to_planes(tensor.integers, tensor.planes)), name


@pytest.mark.parametrize(("config", "dense"), [(SMALL, TINY), (SPARSE, replace(RESIDENT, name="sparse"))],
                         ids=["tiny", "resident"])
def test_tokens_do_not_depend_on_the_codes(config: Config, dense: Config) -> None:
    """Another model by other codes: padding that counts, or columns in another order."""
    shape = SHAPE if config is SMALL else SHAPES["sparse"]
    model = synthetic_checkpoint(shape, seed=4)
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
    assert np.array_equal(loaded.tiles(), image.tiles()) and is_sparse(loaded.tiles())
    assert loaded.manifest["encoding"] == "codes5 of four trits"


def test_what_is_not_sparse_is_refused() -> None:
    """A weight that a code cannot hold lost without a word."""
    with pytest.raises(TritloomError, match="weights are not 3:4-sparse"):
        compile_checkpoint(synthetic_checkpoint(SHAPES["tiny"]), SMALL)
    matrix = synthetic_checkpoint(SHAPE).tensors["1.gate"].integers.copy()
    matrix[3, :4] = 1
    with pytest.raises(TritloomError, match=r"matrix 1\.gate is not 3:4-sparse"):
        compile_checkpoint(changed(**{"1.gate": matrix}), SMALL)


def test_rows_that_would_need_padding_are_refused() -> None:
    """Padded rows, which cannot be zero, that reach peaks and vectors."""
    with pytest.raises(TritloomError, match=r"matrix head is 500 x 24; small, .* multiples of 8 rows and 8 columns"):
        compile_checkpoint(changed(replace(SHAPE, vocab=500)), SMALL)


@pytest.mark.parametrize(("changes", "message"), [
    ({"code_trits": 5}, "code_trits must be 3 or 4"), ({"code_trits": 4, "block_beats": 1, "lanes": 6, "head_dim": 2,
     "rows": 2}, "multiple of it as columns")])
def test_geometries_without_such_codes(changes: dict[str, int], message: str) -> None:
    """A tile that is not a whole number of codes."""
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)
    with pytest.raises(ValueError, match="needs weight_source ebr"):
        replace(STREAM, slots=1, code_trits=4)
