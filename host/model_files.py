"""One view of a model's files: which tensor plays which part, whatever the container and its names."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from host.architecture import Architecture, from_config, from_llama2c, from_metadata
from host.checkpoint import layer_shapes
from host.errors import TritloomError
from host.gguf_file import read_gguf
from host.llama2c_file import read_llama2c
from host.safetensors_files import read_safetensors
from host.tensor_entry import TensorEntry, read_json

MAX_CONFIG_BYTES = 1 << 20
HUGGING_FACE_PARTS = {
    "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down", "model.embed_tokens": "embed",
    "lm_head": "head",
}
GGUF_PARTS = {
    "attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o", "ffn_gate": "gate", "ffn_up": "up",
    "ffn_down": "down", "token_embd": "embed", "output": "head",
}
# One matrix holds gate and up projection.
HGRN_PARTS = {
    "attn.i_proj": "i", "attn.f_proj": "f", "attn.g_proj": "g", "attn.o_proj": "o", "mlp.gate_proj": "gate_up",
    "mlp.down_proj": "down", "model.embeddings": "embed", "lm_head": "head",
}
# Norms by the first matrix that reads what they put out; `qkv` stands for queries, keys and values.
NORMS = {
    "input_layernorm": "qkv", "post_attention_layernorm": "gate", "self_attn.attn_sub_norm": "o",
    "self_attn.inner_attn_ln": "o", "mlp.ffn_sub_norm": "down", "mlp.ffn_layernorm": "down", "model.norm": "head",
    "attn_norm": "qkv", "ffn_norm": "gate", "attn_sub_norm": "o", "ffn_sub_norm": "down", "output_norm": "head",
}
# Every projection has a norm of its own; see `Checkpoint` for the others.
HGRN_NORMS = {
    "attn_norm": "mixer", "attn.i_proj.norm": "i", "attn.f_proj.norm": "f", "attn.g_proj.norm": "g",
    "attn.g_norm": "gated", "attn.o_proj.norm": "o", "mlp_norm": "feed", "mlp.gate_proj.norm": "gate",
    "mlp.down_proj.norm": "down", "model.norm": "final", "lm_head.norm": "head",
}
LOWER_BOUNDS = "model.lower_bounds"
OUTSIDE = ("embed", "head", "final")      # of the layers
LAYER = re.compile(r"(?:model\.layers|blk)\.(0|[1-9][0-9]{0,6})\.(.+)")
KINDS = {".weight": "matrix", ".weight_scale": "scale", ".scale": "scale"}
GAIN = re.compile(r"(norm|layernorm|_ln)\.weight$")
SUB_NORM = re.compile(r"(attn_sub_norm|ffn_sub_norm|inner_attn_ln|ffn_layernorm|rms_norm)\.weight$")
DERIVED = re.compile(r"rotary_emb\.inv_freq$")
PACKED = "U8"
PROJECTION_DTYPES = {"safetensors": ("U8", "F32", "F16", "BF16"),
                     "GGUF": ("TQ1_0", "TQ2_0", "I2_S", "F32", "F16", "BF16"), "llama2.c": ("F32",)}
LLAMA2C_SUFFIX = ".bin"


@dataclass(frozen=True)
class ModelFiles:
    """A model whose headers were read and agree with its configuration; no weight was read.

    Members
    -------
    name : of its folder or file.
    container : ``safetensors``, ``GGUF`` or ``llama2.c``.
    architecture : dimensions and settings.
    matrices : ``embed``, ``head`` unless tied, and ``{layer}.q`` ... ``{layer}.down``.
    scales : scales that are tensors of their own, by the name of their matrix.
    gains : of norms.
    unplaced : tensors that play no part known here.
    bounds : lower bounds of forget gates before their softmax over layers, [layers, hidden].
    """

    name: str
    container: str
    architecture: Architecture
    matrices: dict[str, TensorEntry]
    scales: dict[str, TensorEntry]
    gains: tuple[TensorEntry, ...]
    unplaced: tuple[TensorEntry, ...]
    bounds: TensorEntry | None = None

    @property
    def projections(self) -> list[str]:
        """Names of all ternary matrices: the head if it is one, then layer by layer."""
        return _projections(self.architecture)

    @property
    def norms(self) -> dict[str, TensorEntry]:
        """Gains of norms with a known place, by what reads them: ``{layer}.qkv``, ``{layer}.o``, ... ``head``."""
        found, readers = {}, HGRN_NORMS if _is_hgrn(self.architecture) else NORMS
        for entry in self.gains:
            base = entry.name.removesuffix(".weight")
            layer = LAYER.fullmatch(base)
            reader = readers.get(layer[2] if layer else base)
            if reader is not None and (reader in OUTSIDE) == (layer is None):
                found[f"{layer[1]}.{reader}" if layer else reader] = entry
        return found

    @property
    def objections(self) -> tuple[str, ...]:
        """One line per reason why the program generator cannot run the model, whatever the board."""
        found, norms = list(self.architecture.objections), self.norms
        known = {entry.name for entry in norms.values()}
        if subs := [entry.name for entry in self.gains if SUB_NORM.search(entry.name) and entry.name not in known]:
            found.append(f"{len(subs)} sub-norms such as {subs[0]} (supported: before output and down projections)")
        for part in self.architecture.shape.sub_norms:
            missing = [layer for layer in range(self.architecture.shape.layers) if f"{layer}.{part}" not in norms]
            if missing:
                found.append(f"layer {missing[0]} has no sub-norm before its {part} projection, others have one")
        if self.unplaced:
            found.append(f"{len(self.unplaced)} tensors such as {self.unplaced[0].name[:80]!r} have no part in the "
                         "token program")
        return tuple(found)


def logical_shape(entry: TensorEntry) -> tuple[int, ...]:
    """Elements of a tensor: those of packed weights are four times as many rows as stored."""
    return (4 * entry.shape[0], *entry.shape[1:]) if entry.dtype == PACKED and len(entry.shape) == 2 else entry.shape


def open_model(path: Path) -> ModelFiles:
    """Read the headers of a model: a directory with config.json and safetensors, a GGUF or a llama2.c file.

    Raises
    ------
    TritloomError: something is missing, damaged, or contradicts the configuration; the message names it.
    """
    try:
        if path.is_file() and path.suffix == LLAMA2C_SUFFIX:
            return _open_llama2c(path)
        if path.is_file() and path.suffix not in (".safetensors", ".json"):
            return _open_gguf(path)
        folder = path if path.is_dir() else path.parent
        ggufs = sorted(folder.glob("*.gguf"))
        has_config = (folder / "config.json").exists()
    except OSError as error:
        raise TritloomError(f"{path}: cannot be read ({error.strerror})") from error
    if not path.exists():
        raise TritloomError(f"{path}: no such model directory or GGUF file; a directory holds config.json and "
                            "model.safetensors")
    if path.is_dir() and ggufs and not has_config:
        if len(ggufs) > 1:
            raise TritloomError(f"{path}: holds {len(ggufs)} GGUF files; name one, for example {ggufs[0]}")
        return _open_gguf(ggufs[0])
    config = read_json(folder / "config.json", MAX_CONFIG_BYTES)
    try:
        architecture = from_config(config)
    except ValueError as error:
        raise TritloomError(f"{folder / 'config.json'}: {error}") from error
    entries = read_safetensors(path if path.suffix == ".safetensors" else folder)
    parts = HGRN_PARTS if _is_hgrn(architecture) else HUGGING_FACE_PARTS
    return _sort(folder.resolve().name, "safetensors", architecture, entries.values(), parts)


def _open_gguf(path: Path) -> ModelFiles:
    file = read_gguf(path)
    if file.metadata.get("split.count", 1) != 1:
        raise TritloomError(f"{path}: one of several files of a split model; merge them into one (gguf-split --merge)")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise TritloomError(f"{path}: tensor token_embd.weight is missing; this is no language model")
    try:
        tied = "output.weight" not in file.tensors
        architecture = from_metadata(file.metadata, embedding.shape[0], tied=tied)
    except ValueError as error:
        raise TritloomError(f"{path}: {error}") from error
    return _sort(path.stem, "GGUF", architecture, file.tensors.values(), GGUF_PARTS)


def _open_llama2c(path: Path) -> ModelFiles:
    sizes, tensors = read_llama2c(path)
    architecture = from_llama2c(sizes, tied="output.weight" not in tensors)
    return _sort(path.stem, "llama2.c", architecture, tensors.values(), GGUF_PARTS)


def _part(name: str, parts: dict[str, str]) -> tuple[str, str] | None:
    """Kind (matrix or scale) and canonical name of a tensor."""
    for suffix, kind in KINDS.items():
        if name.endswith(suffix):
            base = name.removesuffix(suffix)
            layer = LAYER.fullmatch(base)
            part = parts.get(layer[2] if layer else base)
            if part is None or (part in OUTSIDE) == bool(layer):
                return None
            return kind, f"{layer[1]}.{part}" if layer else part
    return None


def _sort(name: str, container: str, architecture: Architecture, entries: Iterable[TensorEntry],
          parts: dict[str, str]) -> ModelFiles:
    found: dict[str, dict[str, TensorEntry]] = {"matrix": {}, "scale": {}}
    gains, unplaced, bounds = [], [], None
    for entry in entries:
        part = _part(entry.name, parts)
        if architecture.lower_bounds and entry.name == LOWER_BOUNDS:
            bounds = entry
        elif part is not None:
            found[part[0]][part[1]] = entry
        elif GAIN.search(entry.name) and len(entry.shape) == 1:
            gains.append(entry)
        elif not DERIVED.search(entry.name):
            unplaced.append(entry)
    matrices = found["matrix"]
    if architecture.tied and matrices.pop("head", None):
        found["scale"].pop("head", None)
    _check_matrices(container, architecture, matrices, parts)
    expected = set(_expected(architecture))
    unplaced += [entry for key, entry in matrices.items() if key not in expected]
    kept = {key: entry for key, entry in matrices.items() if key in expected}
    model = ModelFiles(name, container, architecture, kept, found["scale"], tuple(gains), tuple(unplaced), bounds)
    if _is_hgrn(architecture):
        _check_hgrn(model)
    subs = {key.rpartition(".")[2] for key in model.norms} & {"o", "down"}
    shape = replace(architecture.shape, sub_norms=tuple(sorted(subs, reverse=True)))
    return replace(model, architecture=replace(architecture, shape=shape))


def _expected(architecture: Architecture) -> dict[str, tuple[int, int]]:
    shape = architecture.shape
    expected = {"embed": (shape.vocab, shape.hidden)}
    if not architecture.tied:
        expected["head"] = (shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        expected |= {f"{layer}.{key}": size for key, size in stored_shapes(architecture, layer).items()}
    return expected


def _is_hgrn(architecture: Architecture) -> bool:
    return architecture.shape.mixer == "hgrn"


def stored_shapes(architecture: Architecture, layer: int) -> dict[str, tuple[int, int]]:
    """Rows and columns of the matrices of a layer, as files have them."""
    shapes = layer_shapes(architecture.shape, layer)
    if not _is_hgrn(architecture):
        return shapes
    (gate_rows, columns), (up_rows, _), down = (shapes.pop(part) for part in ("gate", "up", "down"))
    return shapes | {"gate_up": (gate_rows + up_rows, columns), "down": down}


def _projections(architecture: Architecture) -> list[str]:
    names = [f"{layer}.{part}" for layer in range(architecture.shape.layers)
             for part in stored_shapes(architecture, layer)]
    return ["head", *names] if _is_hgrn(architecture) else names


def _check_hgrn(model: ModelFiles) -> None:
    """Norms, of which every projection has one, and lower bounds are there."""
    shape, found = model.architecture.shape, model.norms
    for layer in range(shape.layers):
        for name, reader in HGRN_NORMS.items():
            key, tensor = (reader, name) if reader in OUTSIDE else (f"{layer}.{reader}", f"model.layers.{layer}.{name}")
            if key not in found:
                raise TritloomError(f"tensor {tensor}.weight is missing from the weights; the checkpoint is incomplete")
    if not model.architecture.lower_bounds:
        return
    if model.bounds is None:
        raise TritloomError(f"tensor {LOWER_BOUNDS} is missing from the weights; the checkpoint is incomplete, or "
                            "use_lower_bound should be false")
    if model.bounds.shape != (shape.layers, shape.hidden):
        raise TritloomError(f"tensor {LOWER_BOUNDS} has shape {list(model.bounds.shape)}, the configuration asks for "
                            f"{[shape.layers, shape.hidden]}")


def _check_matrices(container: str, architecture: Architecture, matrices: dict[str, TensorEntry],
                    parts: dict[str, str]) -> None:
    layers = architecture.shape.layers
    if layers > len(matrices):
        raise TritloomError(f"the configuration asks for {layers} layers, the weights have {len(matrices)} matrices; "
                            "fetch the checkpoint again")
    spelling, ternary = {part: name for name, part in parts.items()}, set(_projections(architecture))
    prefix = "model.layers" if container == "safetensors" else "blk"
    for key, size in _expected(architecture).items():
        layer, _, part = key.rpartition(".")
        name = f"{prefix}.{layer}.{spelling[part]}.weight" if layer else f"{spelling[part]}.weight"
        if key not in matrices:
            raise TritloomError(f"tensor {name} is missing from the weights; the checkpoint is incomplete")
        entry = matrices[key]
        if logical_shape(entry) != size:
            raise TritloomError(f"tensor {name} has shape {list(logical_shape(entry))}, the configuration asks for "
                                f"{list(size)}")
        if key in ternary and entry.dtype not in PROJECTION_DTYPES[container]:
            raise TritloomError(f"tensor {name} is {entry.dtype}, which holds no ternary weights; supported: "
                                f"{', '.join(PROJECTION_DTYPES[container])}")
