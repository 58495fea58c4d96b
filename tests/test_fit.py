"""Models sized from their headers: the same bytes as the compiler's, and nothing read but headers."""

import json
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np
import pytest

from boards import BOARDS
from host.checkpoint import Shape, layer_shapes, synthetic_checkpoint
from host.cli import main
from host.compiler import compile_checkpoint
from host.errors import TritloomError
from host.fit import fit, memory_limits
from host.layout import Layout
from host.model_files import open_model
from host.tiler import Tiler
from rtl.config import CONFIGS, RESIDENT, STREAM
from tests.containers import gguf_bytes, safetensors_bytes, write
from tests.published_models import write_bitnet_2b4t, write_bitnet_2b4t_gguf
from tests.shapes import BANKED, SHAPES, STORIES, WORDS

SDRAM_BYTES = 32 << 20
SDRAM_PEAK = 2 * BOARDS["ulx3s"].clocks["stream"].sdram_hz      # bytes per second of a 16-bit bus
# Rows padded to 20 lanes, columns to 20 of a tile; head in two planes; five trits in a byte.
BITNET_STREAM_BYTES = (30 * (2 * 2560**2 + 2 * 640 * 2560 + 3 * 2560 * 6920) + 2 * 128260 * 2560) // 5


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_take_what_the_compiler_makes_of_them(name: str) -> None:
    """Padding forgotten: a model that is said to fit and is refused by the compiler, or the other way round."""
    config = CONFIGS[name]
    image = compile_checkpoint(synthetic_checkpoint(SHAPES[name]), config)
    weights = next(memory_limits(SHAPES[name], BOARDS["ulx3s"], config))
    if name == "stream":
        assert weights.needed_bytes == len(image.sections["stream"])
    else:
        tiles = len(image.sections["weights"])
        assert weights.needed_bytes * 8 == tiles * config.rows * config.row_words * 36


def test_unfilled_beats_are_counted() -> None:
    """Query heads of a half-filled KV beat sized as if they lay side by side."""
    shape = Shape(hidden=80, feed_forward=120, layers=1, heads=6, kv_heads=3, head_dim=20, vocab=128, context=256)
    for config in (RESIDENT, STREAM):
        tiles = len(Tiler(synthetic_checkpoint(shape), config).tiles())
        size = next(memory_limits(shape, BOARDS["ulx3s"], config)).needed_bytes
        expected = tiles * config.rows * (config.columns / 5 if config is STREAM else config.row_words * 4.5)
        assert size == expected, config.name


def test_shipped_words_fit_the_smallest_board() -> None:
    """The smallest model sent to more than the smallest FPGA."""
    found = fit(open_model(WORDS), "ulx3s")
    assert found.fits and found.config == "nano"
    assert found.smallest == "ulx3s 12F nano"


def test_shipped_model_fits_the_board() -> None:
    """The model in models/ refused, or sent to a larger configuration than it needs."""
    found = fit(open_model(STORIES), "ulx3s")
    assert found.fits and found.config == "resident"
    assert found.smallest == "ulx3s 85F resident"
    assert found.tokens_per_second is None
    streamed = fit(open_model(STORIES), "ulx3s", "stream")
    image = compile_checkpoint(synthetic_checkpoint(open_model(STORIES).architecture.shape), STREAM)
    assert streamed.stream_bytes == 4 * image.stream_words
    assert streamed.tokens_per_second == pytest.approx(SDRAM_PEAK / streamed.stream_bytes)


@pytest.mark.parametrize("writer", [write_bitnet_2b4t, lambda folder: write_bitnet_2b4t_gguf(folder / "m.gguf")],
                         ids=["safetensors", "gguf"])
def test_bitnet_2b4t_is_sized_in_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str], writer: object) -> None:
    """Weights read to be sized, a limit in another unit than bytes, or a model that does not fit accepted."""
    path = writer(tmp_path)
    start = process_time()
    with pytest.raises(SystemExit) as ended:
        main(["fit", str(path), "--board", "ulx3s", "--json"])
    assert process_time() - start < 5
    captured = capsys.readouterr()
    assert ended.value.code == 1
    line = captured.err.strip().splitlines()[-1]
    assert f"SDRAM needs {BITNET_STREAM_BYTES} bytes, {BITNET_STREAM_BYTES - SDRAM_BYTES} more than there are" in line
    assert "head_dim 128 does not fit stream" in line
    found = json.loads(captured.out)
    assert found["stream_bytes_per_token"] == BITNET_STREAM_BYTES
    assert not found["fits"] and found["smallest"] is None
    assert found["tokens_per_second"] == {"value": SDRAM_PEAK / BITNET_STREAM_BYTES, "provenance": "estimated"}
    sdram = found["limits"][0]
    assert (sdram["what"], sdram["available_bytes"]) == ("SDRAM", SDRAM_BYTES)
    by_class: dict[str, int] = {}
    for tensor in found["tensors"]:
        by_class[tensor["placement"]] = by_class.get(tensor["placement"], 0) + 1
    assert by_class == {"ternary stream": 210, "embedding planes": 1, "head planes": 1, "norm gains": 121}


def test_tables_name_the_memories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table that hides what the refusal is about."""
    with pytest.raises(SystemExit):
        main(["fit", str(write_bitnet_2b4t(tmp_path))])
    out = capsys.readouterr().out
    assert f"{BITNET_STREAM_BYTES - SDRAM_BYTES:,}" in out
    assert f"estimated from the SDRAM's peak of {SDRAM_PEAK / 1e6:.0f} MB/s" in out
    assert f"{BITNET_STREAM_BYTES:,}" in out
    assert "smallest that holds it: none" in out
    assert "cannot run: head_dim 128" in out


def small_tensors(shape: Shape) -> dict[str, tuple[str, list[int], bytes]]:
    """A packed checkpoint of zeros."""
    parts = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
             "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    size = shape.vocab * shape.hidden
    tensors = {"model.embed_tokens.weight": ("I8", [shape.vocab, shape.hidden], bytes(size)),
               "lm_head.weight": ("I8", [shape.vocab, shape.hidden], bytes(size))}
    for layer in range(shape.layers):
        for part, (rows, columns) in layer_shapes(shape, layer).items():
            name = f"model.layers.{layer}.{parts[part]}.weight"
            tensors[name] = "U8", [rows // 4, columns], bytes(rows // 4 * columns)
    return tensors


def write_small(folder: Path, *, config: dict[str, object] | None = None, shape: Shape = SHAPES["tiny"],
                drop: str = "", **extra: tuple[str, list[int], bytes]) -> Path:
    settings = {
        "architectures": ["TritloomForCausalLM"], "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "vocab_size": shape.vocab, "max_position_embeddings": shape.context, "hidden_act": "relu2",
        "norm_gain": False, "rope_interleaved": True}
    (folder / "config.json").write_text(json.dumps(settings | (config or {})))
    tensors = {name: tensor for name, tensor in small_tensors(shape).items() if name != drop} | extra
    write(folder / "model.safetensors", safetensors_bytes(tensors))
    return folder


def test_the_smallest_configuration_is_named(tmp_path: Path) -> None:
    """A model that outgrows one configuration sent to none although another holds it."""
    assert fit(open_model(write_small(tmp_path)), "ulx3s").config == "tiny"
    too_wide = replace(SHAPES["resident"], feed_forward=560)
    found = fit(open_model(write_small(tmp_path, shape=too_wide)), "ulx3s", "resident")
    assert not found.fits and "vector memory needs" in found.refusal
    assert found.smallest == "ulx3s 85F stream"


@pytest.mark.parametrize(("config", "objection"), [
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu' (supported: 'relu2', 'silu')"),
    ({"attention_bias": True}, "attention_bias is True (supported: none)"),
    ({"quantization_config": {"use_rms_norm": True}}, "quantization_config.use_rms_norm is true"),
])
def test_what_cannot_run_is_named(tmp_path: Path, config: dict[str, object], objection: str) -> None:
    """A model whose bytes fit and whose layers the program cannot compute called runnable."""
    found = fit(open_model(write_small(tmp_path, config=config)), "ulx3s")
    assert not found.fits and objection in found.refusal


def test_geometry_is_an_objection(tmp_path: Path) -> None:
    """A head size for which the gateware was not built, in a model of few bytes."""
    shape = replace(SHAPES["tiny"], heads=1, kv_heads=1, head_dim=8)
    found = fit(open_model(write_small(tmp_path, shape=shape)), "ulx3s", "tiny")
    assert not any(limit.missing_bytes for limit in found.limits)
    assert "head_dim 8 does not fit tiny, which is built for 4" in found.refusal


@pytest.mark.parametrize(("changes", "message"), [
    ({"config": {"architectures": ["MambaForCausalLM"]}}, "architectures is ['MambaForCausalLM']; supported"),
    ({"config": {"architectures": [{}]}}, "architectures is [{}]; supported"),
    ({"config": {"hidden_size": None}}, "hidden_size is missing"),
    ({"config": {"vocab_size": 1 << 40}}, "vocab_size must be an integer from 1 to"),
    ({"config": {"rope_theta": "big"}}, "rope_theta must be a positive number"),
    ({"config": {"num_key_value_heads": 3}}, "num_attention_heads 2 is not a multiple of num_key_value_heads 3"),
    ({"config": {"num_hidden_layers": 1000}}, "asks for 1000 layers"),
    ({"config": {"num_hidden_layers": 3}}, "tensor model.layers.2.self_attn.q_proj.weight is missing"),
    ({"config": {"hidden_size": 28}}, "has shape [512, 24], the configuration asks for [512, 28]"),
    ({"drop": "lm_head.weight"}, "tensor lm_head.weight is missing"),
    ({"model.layers.0.mlp.up_proj.weight": ("I32", [48, 24], bytes(4608))}, "is I32, which holds no ternary weights"),
])
def test_contradictory_models_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    """A size computed from a configuration that the weights do not have."""
    with pytest.raises(TritloomError) as refused:
        open_model(write_small(tmp_path, **changes))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_tensors_without_a_part_are_named(tmp_path: Path) -> None:
    """A bias or an expert left out of the model in silence."""
    bias = {"model.layers.0.mlp.up_proj.bias": ("F32", [48], bytes(192))}
    found = fit(open_model(write_small(tmp_path, **bias)), "ulx3s")
    assert "1 tensors such as 'model.layers.0.mlp.up_proj.bias' have no part" in found.refusal


def test_names_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tensor name with brackets taken for markup, which ends in a traceback."""
    folder = write_small(tmp_path, **{"[/red]norm.weight": ("F32", [24], bytes(96))})
    with pytest.raises(SystemExit) as ended:
        main(["fit", str(folder)])
    assert ended.value.code == 0
    assert "[/red]norm" in capsys.readouterr().out


def test_models_are_found_by_every_name(tmp_path: Path) -> None:
    """A file, its directory and a lone GGUF file read differently, or a wrong name ended in a traceback."""
    folder = write_small(tmp_path)
    assert open_model(folder) == open_model(folder / "model.safetensors") == open_model(folder / "config.json")
    with pytest.raises(TritloomError, match="no such model directory"):
        open_model(tmp_path / "none")
    lone = tmp_path / "lone"
    lone.mkdir()
    write_bitnet_2b4t_gguf(lone / "a.gguf")
    assert open_model(lone).container == "GGUF"
    write(lone / "b.gguf", gguf_bytes({}, {}))
    with pytest.raises(TritloomError, match="holds 2 GGUF files; name one"):
        open_model(lone)
    with pytest.raises(TritloomError, match="token_embd.weight is missing"):
        open_model(lone / "b.gguf")


def test_unknown_boards_and_configurations_are_refused(tmp_path: Path) -> None:
    """A traceback for a misspelt name."""
    model = open_model(write_small(tmp_path))
    with pytest.raises(TritloomError, match="there is no board 'ulx3'; choose ulx3s"):
        fit(model, "ulx3")
    with pytest.raises(TritloomError, match="there is no configuration 'big'"):
        fit(model, "ulx3s", "big")


def test_no_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes for a large checkpoint."""
    folder = write_small(tmp_path)
    monkeypatch.setattr(np, "fromfile", None)
    assert fit(open_model(folder), "ulx3s").fits


def test_memories_are_those_of_the_layout() -> None:
    """A model that fits by its headers and is refused when it is compiled, or the other way round."""
    rng, refused = np.random.default_rng(1), 0
    configs = [*CONFIGS.values(), BANKED]
    for _ in range(600):
        config, kv_heads = configs[rng.integers(len(configs))], int(rng.choice([1, 2, 4, 6]))
        is_parallel = bool(rng.integers(2))
        shape = Shape(
            hidden=int(rng.choice([16, 40, 60, 80, 160])), feed_forward=int(rng.choice([48, 96, 120, 240, 480, 640])),
            layers=2, heads=kv_heads * config.query_groups, kv_heads=kv_heads, head_dim=config.head_dim,
            vocab=int(rng.choice([27, 100, 512])), context=64, is_parallel=is_parallel,
            feed_groups=(0, int(rng.choice([1, 2, 3, 4]))) if is_parallel else ())
        missing = any(limit.missing_bytes for limit in memory_limits(shape, BOARDS["ulx3s"], config)
                      if "vector memory" in limit.what)
        try:
            Layout(shape, config)
            assert not missing, (config.name, shape)
        except TritloomError as error:
            if "vector memory" in str(error) or "residual stream" in str(error):
                assert missing, (config.name, shape)
                refused += 1
    assert refused > 20
