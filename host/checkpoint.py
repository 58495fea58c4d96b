"""A ternary checkpoint in memory: shapes, trits and scales, whatever file it came from."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from host.drafts import Drafts
from rtl.config import SPARSE_GROUP


@dataclass(frozen=True)
class Shape:
    """Dimensions of a ternary model of layers that mix tokens and have a gated feed-forward.

    ``mixer`` is what mixes them: ``attention``, grouped-query attention as in Llama, or ``hgrn``, the recurrence of
    the MatMul-free language model, which has one head of all elements.
    ``activation`` is that of the gate: ``relu2``, the square of ReLU, or ``silu``.
    ``residual_fraction`` is the number of fraction bits that suits the range of its residual stream in 18 bits.
    ``sub_norms`` are the projections that read a normed vector besides those that read the residual stream: ``o``,
    ``down``.
    ``is_parallel`` : attention and feed-forward read the same normed vector, and both add to the residual stream.
    ``feed_forward`` is the width of the feed-forward in layers with most groups.
    ``feed_groups`` : per layer, parts of the feed-forward's hidden vector, of one width in all layers, that are
    quantised each with a scale of its own; 0: none, attention only; empty: one in each layer.
    ``windows`` : per layer, how many positions attention sees, the present one among them; 0: none, feed-forward only;
    empty: all.
    ``is_sparse`` : exactly one in each four weights of a row is zero, in every trit plane but those of the embedding.
    """

    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5
    embed_planes: int = 3
    head_planes: int = 2
    residual_fraction: int = 12
    sub_norms: tuple[str, ...] = ()
    activation: str = "relu2"
    mixer: str = "attention"
    is_parallel: bool = False
    is_sparse: bool = False
    feed_groups: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()

    @cached_property
    def most_groups(self) -> int:
        """Of the feed-forward, in any layer."""
        return max(self.feed_groups, default=1)

    def groups(self, layer: int) -> int:
        """Groups of the feed-forward of a layer; 0 if it has none."""
        return self.feed_groups[layer] if self.feed_groups else 1

    def window(self, layer: int) -> int:
        """Positions that attention of a layer sees; 0 if it has none."""
        return self.windows[layer] if self.windows else self.context

    def caches(self, layer: int) -> int:
        """Layers before this one that keep keys and values."""
        return sum(self.window(before) > 0 for before in range(layer))


@dataclass(frozen=True)
class Tensor:
    """Integer weights [rows, columns] and their scale: the real weight is ``integers * scale``.

    Parameters
    ----------
    planes : trit planes that hold the integers.
    error : root mean square of what quantisation changed, relative to that of the weights; 0 if it changed nothing.
    """

    integers: np.ndarray
    scale: float
    planes: int = 1
    error: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """A model ready to compile.

    Parameters
    ----------
    name : for messages and the manifest.
    shape : its dimensions.
    tensors : ``embed`` and ``head`` [vocab, hidden], and per layer the projections of `layer_shapes`, all int8.
    tokenizer : bytes of a llama2.c tokenizer, or empty.
    gains : of norms, float32, where they are not all 1; by what reads the norm: ``{i}.qkv``, ``{i}.gate``, ``head``,
        and of sub-norms ``{i}.o``, ``{i}.down``. With a recurrence each projection reads a norm of its own (``{i}.i``,
        ``{i}.f``, ``{i}.g``), most of them behind another: ``{i}.mixer``, ``{i}.feed``, ``final``. ``{i}.gated`` is the
        norm of the output gate, ``{i}.forget`` 1 less the lower bounds of the forget gate.
    drafts : tokens that usually follow a context, for configurations with a drafter; see `host.drafts.Drafts`.
    """

    name: str
    shape: Shape
    tensors: dict[str, Tensor]
    tokenizer: bytes = b""
    gains: dict[str, np.ndarray] = field(default_factory=dict)
    drafts: Drafts = field(default_factory=dict)

    @property
    def quantised(self) -> dict[str, dict[str, float]]:
        """Planes and error of every tensor that quantisation changed."""
        return {name: {"planes": t.planes, "error": t.error} for name, t in self.tensors.items() if t.error}

    @property
    def ternary_parameters(self) -> int:
        """Weights of the projections."""
        return sum(t.integers.size for name, t in self.tensors.items() if name not in ("embed", "head"))


def layer_shapes(shape: Shape, layer: int) -> dict[str, tuple[int, int]]:
    """Rows and columns of each projection of a layer."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    feed = shape.feed_forward // shape.most_groups * shape.groups(layer)
    if shape.mixer == "hgrn":
        mixer = {part: (shape.hidden, shape.hidden) for part in "ifgo"}
    else:
        mixer = {"q": (queries, shape.hidden), "k": (keys, shape.hidden), "v": (keys, shape.hidden),
                 "o": (shape.hidden, queries)}
    feed_forward = {"gate": (feed, shape.hidden), "up": (feed, shape.hidden), "down": (shape.hidden, feed)}
    return (mixer if shape.window(layer) else {}) | (feed_forward if feed else {})


def synthetic_checkpoint(shape: Shape, *, seed: int = 0, name: str = "synthetic", tokenizer: bytes = b"",
                         planes: int = 1) -> Checkpoint:
    """A checkpoint of random trits, or planes of them, with scales that keep activations in a natural range."""
    rng = np.random.default_rng(seed)
    random = _random_sparse if shape.is_sparse else _random_integers
    embed_limit, head_limit = 3**shape.embed_planes // 2, 3**shape.head_planes // 2
    embed = _random_integers(rng, (shape.vocab, shape.hidden), shape.embed_planes)
    head = random(rng, (shape.vocab, shape.hidden), shape.head_planes)
    tensors = {"embed": Tensor(embed, 1 / embed_limit, shape.embed_planes),
               "head": Tensor(head, 2 / shape.hidden**0.5 / head_limit, shape.head_planes)}
    for layer in range(shape.layers):
        for key, (rows, columns) in layer_shapes(shape, layer).items():
            limit = 3**planes // 2
            integers = random(rng, (rows, columns), planes)
            tensors[f"{layer}.{key}"] = Tensor(integers, 1.2 / columns**0.5 / limit, planes)
    return Checkpoint(name, shape, tensors, tokenizer)


def _random_integers(rng: np.random.Generator, size: tuple[int, int], planes: int) -> np.ndarray:
    """All that so many trit planes can hold, int8."""
    limit = 3**planes // 2
    return rng.integers(-limit, limit + 1, size, np.int8)


def _random_sparse(rng: np.random.Generator, size: tuple[int, int], planes: int) -> np.ndarray:
    """Integers, int8, of whose planes each has one zero in four neighbours of a row."""
    trits = rng.choice(np.array([-1, 1], np.int8), (planes, *size))
    groups = trits.reshape(-1, SPARSE_GROUP)
    groups[np.arange(len(groups)), rng.integers(0, SPARSE_GROUP, len(groups))] = 0
    return np.einsum("p,pij->ij", 3 ** np.arange(planes), trits).astype(np.int8)
