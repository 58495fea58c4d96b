"""Imports models: from files in any container that can be read to a checkpoint that can be compiled."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from host.balance import balance
from host.checkpoint import Checkpoint, Shape, Tensor
from host.decode import FLOATS, decode_floats, decode_matrix, decode_scale
from host.drafts import DRAFTS_FILE, read_drafts
from host.errors import TritloomError
from host.integrity import Inspector, Integrity, check_sparse
from host.layout import Layout
from host.model_files import ModelFiles, open_model, stored_shapes
from host.planes import MOST_PLANES, SMALLEST, PlaneBudget, require_sound
from host.tensor_entry import open_regular
from host.tiler import to_planes
from host.trit_formats import TernaryMatrix, to_float32
from rtl.config import Config

PLANES_DTYPE = "I8"
TOKENIZER_FILE = "tokenizer.bin"
MAX_TOKENIZER_BYTES = 1 << 24
# Projections of a layer, in the order of the program, by the norm whose output they read.
READERS = {
    "attention": {"qkv": ("q", "k", "v"), "o": ("o",), "gate": ("gate", "up"), "down": ("down",)},
    "hgrn": {"i": ("i",), "f": ("f",), "g": ("g",), "o": ("o",), "gate": ("gate_up",), "down": ("down",)},
}


def load_checkpoint(path: str | Path, config: Config | None = None) -> Checkpoint:
    """Read a model; see `import_checkpoint`."""
    return import_checkpoint(Path(path), config=config)[0]


def import_checkpoint(path: Path, *, force: bool = False, config: Config | None = None,
                      budget: PlaneBudget | None = None,
                      tokenizer: Path | None = None) -> tuple[Checkpoint, Integrity]:
    """Read a model that the program generator can run, and look for damage on the way.

    Parameters
    ----------
    path : a directory with config.json and safetensors, a GGUF or a llama2.c file.
    force : let projections pass that are all zero or hold one value.
    config : that the model is for; how many trit planes it holds limits those of tensors that are floats.
    budget : how many planes tensors get that are not integers already.
    tokenizer : llama2.c tokenizer to take along; None takes tokenizer.bin beside the weights if there is one.

    Raises
    ------
    TritloomError: something is missing, damaged, contradicts the configuration, or cannot run; the message names it.
    """
    model = open_model(path)
    objections = [*model.objections, *_dtype_objections(model)]
    if objections:
        raise TritloomError(f"{model.name} cannot run: {'; '.join(objections)}")
    if config is not None:
        # Before a weight is read; planes follow from the weights.
        Layout(replace(model.architecture.shape, embed_planes=1, head_planes=1), config)
    beside = (path if path.is_dir() else path.parent) / TOKENIZER_FILE
    pieces = _read_tokenizer(tokenizer or beside) if tokenizer or beside.exists() else b""
    learned = beside.with_name(DRAFTS_FILE)
    drafts = read_drafts(learned, model.architecture.shape.vocab) if learned.exists() else {}
    inspector = Inspector(force=force, sparse=model.architecture.shape.is_sparse)
    reader = _Reader(model, inspector, config, budget or PlaneBudget())
    tensors, shape = reader.read()
    return Checkpoint(model.name, shape, tensors, pieces, reader.gains, drafts), reader.inspector.result(model)


class _Reader:
    """Turns the tensors of a model into integers, one projection at a time.

    Members
    -------
    gains : of norms; when all is read, those that became no part of a matrix.
    """

    def __init__(self, model: ModelFiles, inspector: Inspector, config: Config | None, budget: PlaneBudget) -> None:
        self.model, self.inspector, self._budget = model, inspector, budget
        self._weight_planes = config.weight_planes if config else MOST_PLANES
        self._embed_planes = config.embed_planes if config else MOST_PLANES
        self._floats: dict[str, np.ndarray] = {}
        self.gains = _gains(model) | _forget_gains(model)

    def read(self) -> tuple[dict[str, Tensor], Shape]:
        """All tensors, and the shape with their planes."""
        tensors = self._embedding() | self._head()
        for layer in range(self.model.architecture.shape.layers):
            for norm, parts in READERS[self.model.architecture.shape.mixer].items():
                if parts[0] in stored_shapes(self.model.architecture, layer):
                    tensors |= self._projections(f"{layer}.{norm}", [f"{layer}.{part}" for part in parts])
        tensors |= self._quantised(self._floats if tensors else balance(self._floats, self.model.architecture.shape))
        shape = replace(self.model.architecture.shape, embed_planes=tensors["embed"].planes,
                        head_planes=tensors["head"].planes)
        return tensors, shape

    def _quantised(self, floats: dict[str, np.ndarray]) -> dict[str, Tensor]:
        found = {}
        for key, weights in floats.items():
            # Rows of the embedding memory are as wide for fewer planes, so it gets all there are.
            limit = self._embed_planes if key == "embed" else self._weight_planes
            budget = replace(self._budget, planes=limit) if key == "embed" else self._budget
            found[key] = budget.quantise(self._name(key), weights, limit)
        return found

    def _name(self, key: str) -> str:
        tied = key == "head" and self.model.architecture.tied
        return self.model.matrices["embed" if tied else key].name

    def _keep(self, key: str, weights: np.ndarray) -> None:
        """Floats to be quantised when all are known."""
        require_sound(self._name(key), weights)
        self._floats[key] = weights

    def _embedding(self) -> dict[str, Tensor]:
        if self.model.matrices["embed"].dtype == PLANES_DTYPE:
            return {"embed": _planes(self.model, "embed", self.model.architecture.shape.embed_planes)}
        self._keep("embed", decode_floats(self.model, "embed"))
        return {}

    def _head(self) -> dict[str, Tensor]:
        key = "embed" if self.model.architecture.tied else "head"
        entry, shape = self.model.matrices[key], self.model.architecture.shape
        if key in self.model.projections:
            return self._projections("head", ["head"])
        if entry.dtype == PLANES_DTYPE:
            head = _planes(self.model, key, shape.embed_planes if key == "embed" else shape.head_planes)
            if shape.is_sparse:
                for plane in to_planes(head.integers, head.planes):
                    check_sparse(entry, plane)
            return {"head": head}
        self._keep("head", _scaled(decode_floats(self.model, key), self.gains.pop("head", None)))
        return {}

    def _projections(self, norm: str, keys: list[str]) -> dict[str, Tensor]:
        """Trits of matrices that read one vector; where all are floats, its norm's gains become part of them."""
        found = {key: decode_matrix(self.model, key) for key in keys}
        ternary = any(isinstance(matrix, TernaryMatrix) for matrix in found.values())
        gain = None if ternary else self.gains.pop(norm, None)
        tensors = {}
        for key, matrix in found.items():
            entry = self.model.matrices[key]
            self.inspector.inspect(key, entry, matrix)
            if not isinstance(matrix, TernaryMatrix):
                self._keep(key, self._paired(key, _scaled(matrix, gain)))
                continue
            if matrix.scales.size > 1:
                kind = "row" if matrix.scales.shape[1] == 1 else "column"
                raise TritloomError(f"tensor {entry.name} has one scale per {kind}; supported: one per tensor")
            tensor = Tensor(self._paired(key, matrix.trits), float(matrix.scales[0, 0]))
            if key.endswith(".gate_up"):
                halves = np.split(tensor.integers, 2)
                layer = key.removesuffix(".gate_up")
                tensors |= {f"{layer}.{part}": replace(tensor, integers=half)
                            for part, half in zip(("gate", "up"), halves, strict=True)}
            else:
                tensors[key] = tensor
        return tensors

    def _paired(self, key: str, rows: np.ndarray) -> np.ndarray:
        """Rows of a projection, those of queries and keys with rotary pairs as neighbours."""
        architecture = self.model.architecture
        if architecture.rotate_half and key.endswith((".q", ".k")):
            return interleave_pairs(rows, architecture.shape.head_dim)
        return rows


def _scaled(matrix: np.ndarray, gain: np.ndarray | None) -> np.ndarray:
    """Columns [rows, columns] times the gains of the vector they read; what overflows is found afterwards."""
    with np.errstate(over="ignore"):
        return matrix if gain is None else matrix * gain


def interleave_pairs(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of queries or keys [heads * head_dim, columns] whose rotary pairs are halves of a head, made neighbours.

    The angle of a pair and the dot product of a head stay the same, so every score does.
    """
    heads = rows.reshape(-1, 2, head_dim // 2, rows.shape[1])
    return heads.transpose(0, 2, 1, 3).reshape(rows.shape)


def _dtype_objections(model: ModelFiles) -> list[str]:
    """Why embedding and head, which are integers of trit planes with a scale, or floats, cannot be taken."""
    supported = (PLANES_DTYPE, *FLOATS)
    return [f"tensor {model.matrices[key].name} is {model.matrices[key].dtype} (supported: {', '.join(supported)})"
            for key in ("embed", "head") if key in model.matrices and key not in model.projections
            and model.matrices[key].dtype not in supported]


def _gains(model: ModelFiles) -> dict[str, np.ndarray]:
    """Gains that are not all 1, float32, by the norm's readers."""
    places = {entry.name: key for key, entry in model.norms.items()}
    found = {}
    for entry in model.gains:
        gains = to_float32(entry.read(), entry.dtype, entry.shape) if entry.dtype in FLOATS else np.zeros(1, np.float32)
        if (gains == 1).all():
            continue
        if entry.dtype not in FLOATS or not np.isfinite(gains).all() or not np.abs(gains).max(initial=0) > SMALLEST:
            raise TritloomError(f"tensor {entry.name} holds no gains that are finite and not all zero, in "
                                f"{', '.join(FLOATS)}; fetch the checkpoint again")
        if entry.name not in places:
            raise TritloomError(f"tensor {entry.name} is a norm gain with values other than 1 in a place without a "
                                "norm; supported: ones")
        found[places[entry.name]] = gains
    _check_lengths(model, found)
    return found


def _forget_gains(model: ModelFiles) -> dict[str, np.ndarray]:
    """What the input gate of each layer is multiplied by: 1 less its lower bound, where that is not 0 throughout.

    Bounds are sums over the layers before, so that the first has none.
    """
    entry = model.bounds
    if entry is None:
        return {}
    values = to_float32(entry.read(), entry.dtype, entry.shape) if entry.dtype in FLOATS else np.full(1, np.nan)
    if not np.isfinite(values).all():
        raise TritloomError(f"tensor {entry.name} holds no bounds that are finite, in {', '.join(FLOATS)}; fetch the "
                            "checkpoint again")
    shares = np.exp(values.astype(np.float64) - values.max(axis=0))
    shares /= shares.sum(axis=0)
    gains = np.maximum(1 + shares[0] - np.cumsum(shares, axis=0), 0).astype(np.float32)
    if gains.max(axis=1).min() <= SMALLEST:
        raise TritloomError(f"tensor {entry.name} bounds forget gates so that a layer takes nothing in; fetch the "
                            "checkpoint again")
    return {f"{layer}.forget": gain for layer, gain in enumerate(gains) if layer}


def _check_lengths(model: ModelFiles, gains: dict[str, np.ndarray]) -> None:
    shape = model.architecture.shape
    sizes = {"o": shape.heads * shape.head_dim, "down": shape.feed_forward}
    for key, gain in gains.items():
        layer, _, reader = key.rpartition(".")
        size = sizes.get(reader, shape.hidden)
        if len(gain) != size or (layer and int(layer) >= shape.layers):
            raise TritloomError(f"tensor {model.norms[key].name} has {len(gain)} gains, the configuration asks for "
                                f"{size} in each of {shape.layers} layers")


def _planes(model: ModelFiles, key: str, count: int) -> Tensor:
    entry = model.matrices[key]
    integers = entry.read().view(np.int8).reshape(entry.shape)
    limit = 3**count // 2
    if integers.max() > limit or integers.min() < -limit:
        raise TritloomError(f"tensor {entry.name} holds values beyond {limit}, the limit of {count} trit planes")
    return Tensor(integers, decode_scale(model, key), count)


def _read_tokenizer(path: Path) -> bytes:
    file, size = open_regular(path)
    with file:
        if size > MAX_TOKENIZER_BYTES:
            raise TritloomError(f"{path}: larger than {MAX_TOKENIZER_BYTES} bytes; this is not a tokenizer")
        return file.read(MAX_TOKENIZER_BYTES)
