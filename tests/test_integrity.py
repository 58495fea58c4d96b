"""Weights of whole models decoded whatever their container, and damage in them found."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from host.checkpoint import Checkpoint, synthetic_checkpoint
from host.cli import main
from host.decode import decode_projection
from host.errors import TritloomError
from host.integrity import check_weights
from host.model_files import ModelFiles, open_model
from host.tensor_entry import TensorEntry
from tests.containers import Stored, gguf_bytes, safetensors_bytes, write
from tests.shapes import SHAPES, STORIES
from tests.test_trit_formats import pack_i2s, packed_blocks

SHAPE = replace(SHAPES["tiny"], hidden=256, feed_forward=512, layers=1, heads=2, kv_heads=2, head_dim=128, vocab=8)
HUGGING_FACE = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
                "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
GGUF = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up",
        "down": "ffn_down"}
SCALE = 0.5     # a power of two, so that every format holds it exactly


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return synthetic_checkpoint(SHAPE)


def stored(kind: str, trits: np.ndarray) -> Stored:
    """A projection with scale `SCALE` in a format."""
    if kind == "U8":
        codes = (trits + 1).astype(np.uint8).reshape(4, -1, trits.shape[1])
        packed = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
        return "U8", packed.shape, packed.tobytes()
    if kind == "I2_S":
        return kind, trits.shape, pack_i2s(trits, SCALE)
    if kind in ("TQ1_0", "TQ2_0"):
        scales = np.full((len(trits), trits.shape[1] // 256), SCALE)
        return kind, trits.shape, packed_blocks(kind, trits, scales).tobytes()
    weights = (trits * SCALE).astype(np.float32)
    data = {"F32": weights, "F16": weights.astype(np.float16), "BF16": (weights.view(np.uint32) >> 16).astype("<u2")}
    return kind, trits.shape, data[kind].tobytes()


def write_safetensors(folder: Path, checkpoint: Checkpoint, kind: str, *, linear_class: str = "autobitlinear",
                      architecture: str = "LlamaForCausalLM", quantisation: dict[str, str] | None = None) -> Path:
    folder.mkdir()
    config = {"architectures": [architecture], "hidden_act": "relu2", "hidden_size": 256, "intermediate_size": 512,
              "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 8,
              "max_position_embeddings": 64, "tie_word_embeddings": True,
              "quantization_config": quantisation or {"linear_class": linear_class}}
    (folder / "config.json").write_text(json.dumps(config))
    tensors: dict[str, Stored] = {"model.embed_tokens.weight": ("F32", (8, 256), bytes(8192))}
    scale = np.float32(SCALE if linear_class == "autobitlinear" else 1 / SCALE).tobytes()
    for part, name in HUGGING_FACE.items():
        tensors[f"model.layers.0.{name}.weight"] = stored(kind, checkpoint.tensors[f"0.{part}"].integers)
        if kind == "U8":
            tensors[f"model.layers.0.{name}.weight_scale"] = "F32", (1,), scale
    write(folder / "model.safetensors", safetensors_bytes(tensors))
    return folder


def write_gguf(path: Path, checkpoint: Checkpoint, kind: str, metadata: dict[str, object] | None = None,
               **others: Stored) -> Path:
    arch = "bitnet-b1.58"
    sizes = {"general.architecture": arch, f"{arch}.embedding_length": ("u32", 256),
                f"{arch}.feed_forward_length": ("u32", 512), f"{arch}.block_count": ("u32", 1),
                f"{arch}.attention.head_count": ("u32", 2), f"{arch}.context_length": ("u32", 64)}
    tensors: dict[str, Stored] = {"token_embd.weight": ("F32", (8, 256), bytes(8192))}
    for part, name in GGUF.items():
        tensors[f"blk.0.{name}.weight"] = stored(kind, checkpoint.tensors[f"0.{part}"].integers)
    return write(path, gguf_bytes(sizes | (metadata or {}), tensors | others))


def write_model(folder: Path, checkpoint: Checkpoint, container: str, kind: str) -> ModelFiles:
    if container == "GGUF":
        return open_model(write_gguf(folder / "m.gguf", checkpoint, kind))
    return open_model(write_safetensors(folder / "m", checkpoint, kind))


EVERY = [("safetensors", kind) for kind in ("U8", "F32", "F16", "BF16")] + [
    ("GGUF", kind) for kind in ("TQ1_0", "TQ2_0", "I2_S", "F32", "F16", "BF16")]


@pytest.mark.parametrize(("container", "kind"), EVERY)
def test_every_format_gives_the_same_weights(tmp_path: Path, checkpoint: Checkpoint, container: str,
                                             kind: str) -> None:
    """A projection decoded under another's name, transposed, or with another scale."""
    model = write_model(tmp_path, checkpoint, container, kind)
    for key in model.projections:
        matrix = decode_projection(model, key)
        assert np.array_equal(matrix.trits, checkpoint.tensors[key].integers), key
        assert matrix.scales == SCALE


def test_the_hash_is_the_model_s(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """A hash of the file, which differs between copies of one model; or one that misses a changed weight."""
    hashes = set()
    for index, (container, kind) in enumerate(EVERY):
        folder = tmp_path / str(index)
        folder.mkdir()
        hashes.add(check_weights(write_model(folder, checkpoint, container, kind)).sha256)
    assert len(hashes) == 1
    changed = {**checkpoint.tensors}
    trits = changed["0.down"].integers.copy()
    trits[3, 5] = 1 - abs(trits[3, 5])
    changed["0.down"] = replace(changed["0.down"], integers=trits)
    again = check_weights(write_model(tmp_path, replace(checkpoint, tensors=changed), "GGUF", "TQ2_0"))
    assert again.sha256 not in hashes


def test_dividing_layers_are_read_as_such(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """The stored scale of a layer of class bitlinear multiplied with."""
    model = open_model(write_safetensors(tmp_path / "m", checkpoint, "U8", linear_class="bitlinear"))
    assert decode_projection(model, "0.q").scales == SCALE


def test_a_missing_class_divides(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Early packed checkpoints, which do not name their class, multiplied with their scale."""
    folder = write_safetensors(tmp_path / "m", checkpoint, "U8", linear_class="bitlinear",
                               quantisation={"quant_method": "bitnet"})
    assert decode_projection(open_model(folder), "0.q").scales == SCALE


@pytest.mark.parametrize("options", [{"architecture": "BitNetForCausalLM"},
                                     {"quantisation": {"quantization_mode": "online"}}])
def test_master_weights_are_quantised(tmp_path: Path, checkpoint: Checkpoint, options: dict[str, object]) -> None:
    """Master weights of BitNet refused as not ternary, or its scale taken from their largest weight."""
    model = open_model(write_safetensors(tmp_path / "m", checkpoint, "BF16", **options))
    matrix, trits = decode_projection(model, "0.up"), checkpoint.tensors["0.up"].integers
    assert np.array_equal(matrix.trits, trits)
    assert matrix.scales[0, 0] == pytest.approx(SCALE * np.abs(trits).mean())


def test_nonzero_fractions_are_counted(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Zeros counted instead, or a fraction of the stored bytes."""
    found = check_weights(write_model(tmp_path, checkpoint, "safetensors", "U8"))
    assert found.nonzero == {f"0.{part}": np.count_nonzero(checkpoint.tensors[f"0.{part}"].integers)
                             / checkpoint.tensors[f"0.{part}"].integers.size for part in HUGGING_FACE}


@pytest.mark.parametrize("value", [-1, 0, 1])
def test_constant_tensors_are_refused_unless_forced(tmp_path: Path, checkpoint: Checkpoint, value: int,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    """A file that was never written to its end, full of zeros, compiled into a model that says nothing."""
    tensors = {**checkpoint.tensors}
    tensors["0.up"] = replace(tensors["0.up"], integers=np.full((512, 256), value, np.int8))
    folder = write_safetensors(tmp_path / "m", replace(checkpoint, tensors=tensors), "U8")
    with pytest.raises(SystemExit) as ended:
        main(["check", str(folder)])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 1
    assert f"model.layers.0.mlp.up_proj.weight holds nothing but {value}" in line
    with pytest.raises(SystemExit) as ended:
        main(["check", str(folder), "--force", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["suspects"] == ["model.layers.0.mlp.up_proj.weight"]
    assert found["nonzero_fraction"]["0.up"] == abs(value)


def test_shipped_model_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    """The model in models/ damaged, or the command's numbers of another model."""
    with pytest.raises(SystemExit) as ended:
        main(["check", str(STORIES)])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "stories1m: 25 projections" in out
    assert check_weights(open_model(STORIES)).sha256 in out


@pytest.mark.parametrize(("name", "replacement", "message"), [
    ("model.layers.0.self_attn.q_proj.weight", ("U8", (64, 256), b"\xff" * 16384), "has a two-bit code 3"),
    ("model.layers.0.self_attn.q_proj.weight_scale", ("F32", (1,), bytes(4)), "is 0.0; a scale must be positive"),
    ("model.layers.0.self_attn.q_proj.weight_scale", ("F32", (2,), bytes(8)), "a scale is one"),
    ("model.layers.0.self_attn.q_proj.weight_scale", ("U8", (1,), bytes(1)), "a scale is one"),
    ("model.layers.0.self_attn.q_proj.weight_scale", None, "has no scale tensor"),
])
def test_damaged_tensors_are_named(tmp_path: Path, checkpoint: Checkpoint, name: str, replacement: Stored | None,
                                   message: str) -> None:
    """A traceback, or a message that leaves the reader to search among hundreds of tensors."""
    folder = write_safetensors(tmp_path / "m", checkpoint, "U8")
    tensors = {entry.name: (entry.dtype, entry.shape, entry.read().tobytes()) for entry in entries(folder)}
    if replacement is None:
        del tensors[name]
    else:
        tensors[name] = replacement
    write(folder / "model.safetensors", safetensors_bytes(tensors))
    with pytest.raises(TritloomError, match="q_proj.weight") as refused:
        check_weights(open_model(folder))
    assert message in str(refused.value)


def entries(folder: Path) -> list[TensorEntry]:
    model = open_model(folder)
    return [*model.matrices.values(), *model.scales.values()]


@pytest.mark.parametrize(("kind", "size"), [("Q8_0", 34 * 64), ("Q4_K", 144 * 8), ("Q6_K", 210 * 8)])
def test_quantised_embeddings_do_not_hinder(tmp_path: Path, checkpoint: Checkpoint, kind: str, size: int) -> None:
    """A ternary file refused as a whole because its embedding and head are in a common block format."""
    tables = {name: (kind, (8, 256), bytes(size)) for name in ("token_embd.weight", "output.weight")}
    model = open_model(write_gguf(tmp_path / "m.gguf", checkpoint, "TQ1_0", **tables))
    assert model.matrices["head"].size_bytes == size
    assert len(check_weights(model).nonzero) == 7
    up = {"blk.0.ffn_up.weight": (kind, (512, 256), bytes(64 * size))}
    path = write_gguf(tmp_path / "n.gguf", checkpoint, "TQ1_0", **up)
    with pytest.raises(TritloomError, match=f"blk.0.ffn_up.weight is {kind}, which holds no ternary weights"):
        open_model(path)


def test_split_files_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """A part of a model called incomplete, which sends the user to fetch it again in vain."""
    path = write_gguf(tmp_path / "m.gguf", checkpoint, "TQ1_0", {"split.count": ("u32", 2)})
    with pytest.raises(TritloomError, match="one of several files of a split model; merge them"):
        open_model(path)


def test_floats_that_are_not_ternary_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """A model that says it is ternary, and is not, rounded to trits without a word, or an ordinary one refused."""
    folder = write_safetensors(tmp_path / "m", checkpoint, "F32")
    tensors = {entry.name: (entry.dtype, entry.shape, entry.read().tobytes()) for entry in entries(folder)}
    noise = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    tensors["model.layers.0.self_attn.q_proj.weight"] = "F32", (256, 256), noise.tobytes()
    write(folder / "model.safetensors", safetensors_bytes(tensors))
    with pytest.raises(TritloomError, match="q_proj.weight has weights that are not -s, 0 and s"):
        check_weights(open_model(folder))
    settings = json.loads((folder / "config.json").read_text())
    del settings["quantization_config"]
    (folder / "config.json").write_text(json.dumps(settings))
    assert check_weights(open_model(folder)).nonzero["0.q"] == 1
