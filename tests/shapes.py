"""Small synthetic models that fit the configurations, for tests of host and gateware."""

from dataclasses import replace
from functools import cache
from pathlib import Path

from host.checkpoint import Shape, synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.image import Image
from host.synthetic import SHAPE
from rtl.config import CONFIGS, STREAM, TINY

ROOT = Path(__file__).resolve().parent.parent
STORIES = ROOT / "models" / "stories1m"
WORDS = ROOT / "models" / "words4k"
POCKET_STORIES = ROOT / "models" / "stories150k"

SHAPES = {
    "nano": Shape(hidden=16, feed_forward=48, layers=1, heads=4, kv_heads=4, head_dim=4, vocab=27, context=16),
    "tiny": Shape(hidden=24, feed_forward=48, layers=2, heads=2, kv_heads=2, head_dim=4, vocab=512, context=64),
    "pocket": Shape(hidden=40, feed_forward=200, layers=4, heads=4, kv_heads=2, head_dim=8, vocab=512, context=128),
    "resident": Shape(hidden=160, feed_forward=480, layers=4, heads=4, kv_heads=2, head_dim=20, vocab=512,
                      context=256),
    "stream": replace(SHAPE, is_parallel=False),
}
SHAPES["sparse"] = replace(SHAPES["resident"], is_sparse=True)

# The fastest configuration with two banks of vector memory.
BANKED = replace(TINY, name="banked", bank_beats=16)


@cache
def synthetic_image(name: str, seed: int = 0) -> Image:
    """The image of a random model of a configuration's natural shape."""
    return compile_checkpoint(synthetic_checkpoint(SHAPES[name], seed=seed), CONFIGS[name])


def stream_image(*, is_parallel: bool = True) -> Image:
    """A small random model that streams; a parallel one has a layer without attention, and feed-forwards in groups."""
    shape = replace(SHAPES["stream"], hidden=80, feed_forward=160, layers=2)
    if is_parallel:
        shape = replace(shape, is_parallel=True, layers=3, feed_groups=(2, 1, 2), windows=(16, 0, shape.context))
    return compile_checkpoint(synthetic_checkpoint(shape), STREAM)
