"""Cuts weight matrices into tiles in program order, for block RAM or for the SDRAM stream."""

from dataclasses import dataclass
from math import ceil

import numpy as np

from host.checkpoint import Checkpoint
from host.errors import TritloomError
from rtl.config import Config, sum_shift


@dataclass(frozen=True)
class Block:
    """One MATVEC's weights.

    Parameters
    ----------
    address : first tile in block RAM; 0 for the stream, which has no addresses.
    groups : row groups of ``config.rows``.
    planes : trit planes.
    blocks : column blocks.
    shift : rounding shift that brings the largest possible sum into 18 bits.
    unfilled : beats of the last column block behind the matrix, where codes cannot say that they are nothing.
    """

    address: int
    groups: int
    planes: int
    blocks: int
    shift: int
    unfilled: int = 0


class Tiler:
    """The matrices of a checkpoint, padded, permuted and cut.

    Rows are padded to whole beats so that every lane of a result is defined. Query rows and the columns of the
    output projection follow the attention unit: word of the KV cache, group, KV head of the word, element.

    Parameters
    ----------
    checkpoint : the model.
    config : the accelerator.

    Raises
    ------
    TritloomError: a matrix has more trit planes than the configuration holds.
    """

    def __init__(self, checkpoint: Checkpoint, config: Config) -> None:
        self._config, self._shape = config, checkpoint.shape
        self._blocks: dict[str, Block] = {}
        self._parts: dict[str, int] = {}
        self._tiles: list[np.ndarray] = []
        self._count = 0
        tensors = {name: tensor.integers for name, tensor in checkpoint.tensors.items()}
        planes = {name: tensor.planes for name, tensor in checkpoint.tensors.items()}
        for layer in range(checkpoint.shape.layers):
            if checkpoint.shape.mixer == "hgrn":
                for name in (f"{layer}.i", f"{layer}.f", f"{layer}.g"):
                    self._cut(name, self._whole_beats(tensors[name]), planes[name])
            elif checkpoint.shape.window(layer):
                query = self._by_query(tensors[f"{layer}.q"])
                keys, values = (self._by_key(tensors[f"{layer}.{name}"]) for name in "kv")
                if checkpoint.shape.is_parallel:
                    for name, matrix in (("k", keys), ("q", query), ("v", values)):
                        self._cut(f"{layer}.{name}", matrix, planes[f"{layer}.{name}"])
                else:
                    together = max(planes[f"{layer}.{name}"] for name in "qkv")
                    self._cut(f"{layer}.qkv", np.concatenate([query, keys, values]), together)
            if not checkpoint.shape.is_parallel:
                self._cut_output(layer, tensors, planes)
            if checkpoint.shape.groups(layer):
                self._cut_feed_forward(layer, tensors, planes)
            if checkpoint.shape.is_parallel and checkpoint.shape.window(layer):
                self._cut_output(layer, tensors, planes)
        # An engine with slots writes whole beats only.
        self._cut("head", self._whole_beats(tensors["head"]) if config.slots > 1 else tensors["head"], planes["head"])

    def block(self, name: str) -> Block:
        """The MATVEC of a matrix, or of a part ``name/i`` of one whose columns exceed the tables."""
        return self._blocks[name]

    def parts(self, name: str) -> int:
        """How many table loads a projection takes."""
        return self._parts[name]

    def tiles(self) -> np.ndarray:
        """All tiles in program order: int8 [tiles, rows, columns]."""
        return np.concatenate(self._tiles)

    def vector_by_query(self, vector: np.ndarray) -> np.ndarray:
        """Elements of all query heads in the order in which the attention unit writes them."""
        return self._by_query(vector[:, None])[:, 0]

    def _cut_feed_forward(self, layer: int, tensors: dict[str, np.ndarray], planes: dict[str, int]) -> None:
        gate, up, down = (f"{layer}.{part}" for part in ("gate", "up", "down"))
        groups = self._shape.groups(layer)
        if self._shape.most_groups == 1 or self._config.slots > 1:
            for name in (gate, up):
                self._cut(name, self._whole_beats(tensors[name]), planes[name])
        else:
            halves = (np.split(tensors[name], groups) for name in (gate, up))
            for group, pair in enumerate(zip(*halves, strict=True)):
                self._cut(f"{layer}.pair/{group}", np.concatenate(pair), max(planes[gate], planes[up]))
        self._cut_parts(down, tensors[down], planes[down], groups=groups)

    def _cut_output(self, layer: int, tensors: dict[str, np.ndarray], planes: dict[str, int]) -> None:
        name = f"{layer}.o"
        self._cut_parts(name, self._by_query(tensors[name].T).T, planes[name])

    def _whole_beats(self, matrix: np.ndarray) -> np.ndarray:
        return np.pad(matrix, ((0, -len(matrix) % self._config.lanes), (0, 0)))

    def _by_key(self, matrix: np.ndarray) -> np.ndarray:
        return np.pad(matrix, ((0, -len(matrix) % self._config.word_lanes), (0, 0)))

    def _by_query(self, matrix: np.ndarray) -> np.ndarray:
        """Rows of query heads (head = kv head * groups + group) in the order word, group, KV head, element.

        Those of a recurrence, which has no heads, stay as they are.
        """
        c, s = self._config, self._shape
        if s.mixer == "hgrn":
            return matrix
        heads = matrix.reshape(s.kv_heads, c.query_groups, s.head_dim, -1)
        padded = np.pad(heads, ((0, -s.kv_heads % c.word_heads), (0, 0), (0, 0), (0, 0)))
        by_word = padded.reshape(-1, c.word_heads, c.query_groups, s.head_dim, matrix.shape[1])
        return by_word.transpose(0, 2, 1, 3, 4).reshape(-1, matrix.shape[1])

    def _cut_parts(self, name: str, matrix: np.ndarray, planes: int, *, groups: int = 1) -> None:
        """Cut a matrix into parts of as many columns as the tables hold; in groups, one part for each."""
        matrix = self._whole_beats(matrix)
        width = self._config.columns * self._config.table_blocks if groups == 1 else matrix.shape[1] // groups
        starts = range(0, matrix.shape[1], width)
        self._parts[name] = len(starts)
        for part, start in enumerate(starts):
            self._cut(f"{name}/{part}", matrix[:, start : start + width], planes, columns=min(width, matrix.shape[1]))

    def _cut(self, name: str, matrix: np.ndarray, planes: int, *, columns: int = 0) -> None:
        """Cut a matrix; ``columns`` of the widest part decide the shift of all parts."""
        c = self._config
        if planes > c.weight_planes:
            raise TritloomError(f"matrix {name} has {planes} trit planes, {c.name} holds {c.weight_planes}; import the "
                                "model for this configuration")
        groups, blocks = ceil(matrix.shape[0] / c.rows), ceil(matrix.shape[1] / c.columns)
        missing = groups * c.rows - matrix.shape[0], blocks * c.columns - matrix.shape[1]
        digits = np.pad(to_planes(matrix, planes), ((0, 0), (0, missing[0]), (0, missing[1])))
        if c.has_sparse_codes:
            digits[:, :, matrix.shape[1] :] = np.arange(missing[1]) % c.code_trits > 0
        cut = digits.reshape(planes, groups, c.rows, blocks, c.columns).transpose(1, 0, 3, 2, 4)
        address = self._count if c.weight_source == "ebr" else 0
        self._blocks[name] = Block(address, groups, planes, blocks, sum_shift(columns or matrix.shape[1], planes),
                                   missing[1] // c.lanes if c.has_sparse_codes else 0)
        self._tiles.append(cut.reshape(-1, c.rows, c.columns))
        self._count += groups * planes * blocks


def to_planes(integers: np.ndarray, planes: int) -> np.ndarray:
    """Balanced-ternary digits int8 [planes, ...], most significant first: ``sum(3**(planes-1-p) * digit[p])``."""
    offset = integers.astype(np.int16) + 3**planes // 2
    return np.stack([(offset // 3 ** (planes - 1 - p) % 3 - 1).astype(np.int8) for p in range(planes)])
