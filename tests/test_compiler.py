"""Compiler and image: limits named, damage found, nothing half-written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from host.checkpoint import synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.image import Image
from host.importer import load_checkpoint
from host.tiler import to_planes
from rtl.config import RESIDENT, STREAM, TINY
from rtl.isa import FIELDS, Op, Opcode
from tests.shapes import SHAPES, STORIES, synthetic_image


def test_operations_survive_encoding() -> None:
    """Fields that overlap or lose their sign."""
    for op in synthetic_image("tiny").program:
        assert Op.decode(op.encode()) == op
    assert set(FIELDS) == set(Opcode)


def test_encoding_refuses_values_that_do_not_fit() -> None:
    """A field truncated silently."""
    with pytest.raises(ValueError, match="does not fit 8 bits"):
        Op(Opcode.ATTEND, fields={"slot": 256, "rd": 0, "reach": 0}).encode()
    with pytest.raises(ValueError, match="needs field 'rd'"):
        Op(Opcode.ATTEND, fields={"slot": 0}).encode()


def test_planes_recombine() -> None:
    """Digits in the wrong order."""
    values = np.arange(-13, 14, dtype=np.int8)
    high, middle, low = to_planes(values, 3).astype(int)
    assert np.array_equal(9 * high + 3 * middle + low, values)


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("tiny", {"hidden": 48, "feed_forward": 24}, "column blocks of the hidden size"),
    ("resident", {"layers": 5}, "KV cache slots"),
    ("resident", {"head_dim": 10}, "head_dim"),
    ("resident", {"heads": 8}, "query heads"),
    ("resident", {"vocab": 600}, "vocabulary entries"),
    ("resident", {"feed_forward": 560}, "vector memory beats"),
    ("tiny", {"feed_forward": 400}, "activation beats"),
])
def test_what_does_not_fit_is_named(name: str, changes: dict[str, int], message: str) -> None:
    """A model that exceeds a memory compiled into a wrong image."""
    config = {"resident": RESIDENT, "tiny": TINY}[name]
    with pytest.raises(TritloomError, match=message):
        compile_checkpoint(synthetic_checkpoint(replace(SHAPES[name], **changes)), config)


def test_weights_that_do_not_fit_are_named() -> None:
    """The error names the way out."""
    with pytest.raises(TritloomError, match="weight tiles, resident holds 512; use the stream configuration"):
        compile_checkpoint(synthetic_checkpoint(SHAPES["resident"]), replace(RESIDENT, weight_depth=512))


def test_shipped_model_fits_both_configurations() -> None:
    """The model in models/ grown past the machine it was made for."""
    checkpoint = load_checkpoint(STORIES)
    assert len(compile_checkpoint(checkpoint, RESIDENT).sections["weights"]) <= RESIDENT.weight_depth
    assert compile_checkpoint(checkpoint, STREAM).stream_words > 0


def test_image_survives_a_file(tmp_path: Path) -> None:
    """A section or the identity changed by writing and reading."""
    image = synthetic_image("tiny")
    image.save(tmp_path / "a.img")
    again = Image.load(tmp_path / "a.img")
    assert again.image_id == image.image_id
    assert again.program == image.program
    assert [path.name for path in tmp_path.iterdir()] == ["a.img"]


def test_damaged_images_are_refused(tmp_path: Path) -> None:
    """Any flipped byte or cut accepted."""
    path = tmp_path / "a.img"
    synthetic_image("tiny").save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [good[: len(good) // 2], good[:10], b"", b"GGUF" + good[4:]]
    for position in rng.integers(0, len(good), 40):
        damaged.append(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
    for index, data in enumerate(damaged):
        path.write_bytes(data)
        try:
            image = Image.load(path)
        except TritloomError as error:
            assert "\n" not in str(error)
        else:
            # A flip inside the manifest's free text leaves every hash intact.
            assert image.image_id == synthetic_image("tiny").image_id, index


def test_image_of_another_version_is_refused(tmp_path: Path) -> None:
    """An image of last year called damaged, so that its owner copies it again."""
    path = tmp_path / "a.img"
    synthetic_image("tiny").save(path)
    data = bytearray(path.read_bytes())
    data[8] -= 1
    path.write_bytes(data)
    with pytest.raises(TritloomError, match="an image of another version of this program; compile the model again"):
        Image.load(path)


def test_image_for_another_geometry_is_refused() -> None:
    """An image run on gateware it was not compiled for."""
    with pytest.raises(TritloomError, match="compile the model for it"):
        synthetic_image("tiny").require(RESIDENT)


def write_checkpoint(folder: Path, change: dict[str, object]) -> Path:
    """The shipped model with other configuration values."""
    folder.mkdir()
    config = json.loads((STORIES / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((STORIES / "model.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize(("change", "message"), [
    ({"architectures": ["GPT2LMHeadModel"]}, "architectures is"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"hidden_size": "big"}, "hidden_size must be an integer"),
    ({"hidden_size": 164}, "has shape"),
    ({"num_hidden_layers": 5, "attention_windows": None, "feed_forward_groups": None}, "is missing"),
    ({"rope_theta": -1}, "rope_theta"),
    ({"embed_planes": 1}, "limit of 1 trit planes"),
])
def test_contradictory_checkpoints_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """A checkpoint read as something it is not."""
    with pytest.raises(TritloomError, match=message):
        load_checkpoint(write_checkpoint(tmp_path / "m", change))


def test_missing_and_truncated_checkpoints_are_refused(tmp_path: Path) -> None:
    """A traceback instead of a line."""
    with pytest.raises(TritloomError, match="no such model directory"):
        load_checkpoint(tmp_path / "none")
    folder = write_checkpoint(tmp_path / "m", {})
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TritloomError, match="not a readable safetensors file"):
        load_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(TritloomError, match="not valid JSON"):
        load_checkpoint(folder)
