"""llama2.c files: every tensor found where run.c has it, and files that lie refused."""

import struct
from pathlib import Path

import numpy as np
import pytest

from host.cli import main
from host.errors import TritloomError
from host.image import Image
from host.importer import import_checkpoint
from host.llama2c_file import HEADER, read_llama2c
from host.model_files import open_model
from host.planes import PlaneBudget
from rtl.config import LLAMA
from tests.containers import write

SIZES = (8, 12, 2, 2, 1, 16, 32)        # hidden, feed-forward, layers, heads, KV heads, vocabulary, context
FLOATS = 16 * 8 + 2 * 8 + 2 * 64 + 2 * 32 + 2 * 32 + 2 * 64 + 2 * 8 + 3 * 2 * 96 + 8 + 2 * 32 * 2


def numbered(*, sizes: tuple[int, ...] = SIZES, floats: int = FLOATS) -> bytes:
    """A file whose every weight is its own place."""
    return struct.pack("<7i", *sizes) + np.arange(floats, dtype="<f4").tobytes()


def test_tensors_lie_in_the_order_of_run_c(tmp_path: Path) -> None:
    """Gate, down and up mixed up, or a layer's tensors taken for the next tensor's."""
    sizes, tensors = read_llama2c(write(tmp_path / "m.bin", numbered()))
    assert tuple(sizes.values()) == SIZES and list(sizes) == ["hidden", "feed_forward", "layers", "heads", "kv_heads",
                                                              "vocab", "context"]
    starts = {"token_embd.weight": 0, "blk.0.attn_norm.weight": 128, "blk.1.attn_norm.weight": 136,
              "blk.0.attn_q.weight": 144, "blk.1.attn_k.weight": 144 + 128 + 32, "blk.0.attn_v.weight": 336,
              "blk.1.attn_output.weight": 400 + 64, "blk.0.ffn_norm.weight": 528, "blk.0.ffn_gate.weight": 544,
              "blk.0.ffn_down.weight": 544 + 192, "blk.1.ffn_up.weight": 544 + 192 + 192 + 96,
              "output_norm.weight": 1120}
    for name, start in starts.items():
        values = tensors[name].read().view("<f4")
        assert values[0] == start and len(values) == np.prod(tensors[name].shape), name
    assert "output.weight" not in tensors and len(tensors) == 2 + 2 * 9


def test_a_negative_vocabulary_means_a_head(tmp_path: Path) -> None:
    """The head read from the tables of sines, or the vocabulary taken as it is."""
    sizes = (*SIZES[:5], -16, 32)
    model = open_model(write(tmp_path / "m.bin", numbered(sizes=sizes, floats=FLOATS + 128)))
    assert not model.architecture.tied and model.architecture.shape.vocab == 16
    assert model.matrices["head"].read().view("<f4")[0] == FLOATS
    assert not model.architecture.rotate_half
    assert set(model.norms) == {"0.qkv", "0.gate", "1.qkv", "1.gate", "head"}


@pytest.mark.parametrize(("data", "message"), [
    (b"", "only 0 bytes"),
    (numbered()[:-4], f"{HEADER.size + 4 * FLOATS - 4} bytes, its header asks for {HEADER.size + 4 * FLOATS}"),
    (numbered() + bytes(4), "its header asks for"),
    (b"PK\x03\x04" + bytes(100), "a file of pickled weights looks like that"),
    (numbered(sizes=(8, 12, 1 << 20, 2, 1, 16, 32)), "its header asks for"),
    (numbered(sizes=(8, 12, -2, 2, 1, 16, 32)), "a layers of -2"),
    (numbered(sizes=(8, 12, 2, 3, 1, 16, 32)), "3 heads over 1 KV heads in 8 channels"),
])
def test_files_that_lie_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """Memory allocated, or weights read, from sizes that the file does not have."""
    with pytest.raises(TritloomError) as refused:
        open_model(write(tmp_path / "m.bin", data))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_tensors_are_imported_as_they_lie(tmp_path: Path) -> None:
    """Queries permuted, a norm's gains in another's matrices, or a head that is not the embedding."""
    values = np.random.default_rng(0).uniform(0.5, 1.5, FLOATS).astype("<f4") * np.resize([1, -1], FLOATS)
    path = write(tmp_path / "m.bin", struct.pack("<7i", *SIZES) + values.astype("<f4").tobytes())
    found = import_checkpoint(path, budget=PlaneBudget(planes=5))[0]
    assert found.shape.activation == "silu" and not found.gains
    attention, feed, last = (values[start:][:8] for start in (128 + 8, 528 + 8, 1120))
    for key, start, rows, gain in (("embed", 0, 16, 1), ("head", 0, 16, last), ("1.q", 144 + 64, 8, attention),
                                   ("1.k", 272 + 32, 4, attention), ("1.o", 400 + 64, 8, 1),
                                   ("1.up", 928 + 96, 12, feed)):
        real = values[start:][: 8 * rows].reshape(rows, 8) * gain
        tensor = found.tensors[key]
        assert np.abs(tensor.integers * tensor.scale - real).max() < 0.02 * np.abs(real).max(), key


def test_the_command_takes_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that reach nothing, or an image that does not say what quantisation did to the model."""
    sizes = (16, 12, 1, 2, 1, 300, 32)
    floats = 300 * 16 + 16 + 256 + 2 * 128 + 256 + 16 + 3 * 192 + 16 + 32 * 8
    values = np.random.default_rng(0).normal(size=floats).astype("<f4")
    path = write(tmp_path / "m.bin", struct.pack("<7i", *sizes) + values.tobytes())
    write(tmp_path / "words.bin", b"words")
    for options, planes in ((("--planes", "2"), 2), (("--error", "0.1"), 3), ((), 4)):
        with pytest.raises(SystemExit) as ended:
            main(["import", str(path), "-o", str(tmp_path / "m.img"), "--config", "llama", "--tokenizer",
                  str(tmp_path / "words.bin"), *options])
        assert ended.value.code == 0
        image = Image.load(tmp_path / "m.img")
        assert image.config == LLAMA and image.tokenizer == b"words"
        assert min(entry["planes"] for key, entry in image.model["quantised"].items() if "." in key) == planes
        assert "trit planes; the largest relative error is" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["import", str(path), "-o", str(tmp_path / "n.img"), "--planes", "2", "--error", "0.1"])
    assert "give --planes or --error, not both" in capsys.readouterr().err
    assert not (tmp_path / "n.img").exists()
