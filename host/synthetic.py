"""Writes the image of a random model of 11 M parameters for the stream configuration."""

from pathlib import Path

import typer

from host.checkpoint import Shape, synthetic_checkpoint
from host.compiler import compile_checkpoint
from rtl.config import STREAM

SHAPE = Shape(hidden=400, feed_forward=1280, layers=7, heads=2, kv_heads=1, head_dim=20, vocab=512, context=256,
              is_parallel=True)
# Of 512 pieces, as many as the model has.
TOKENIZER = Path(__file__).resolve().parent.parent / "models" / "stories1m-sparse" / "tokenizer.bin"


def write(image: Path) -> None:
    """Write IMAGE and say what it holds."""
    checkpoint = synthetic_checkpoint(SHAPE, name="synthetic-11m", tokenizer=TOKENIZER.read_bytes())
    compiled = compile_checkpoint(checkpoint, STREAM)
    compiled.save(image)
    print(f"{image}: {checkpoint.ternary_parameters:,} ternary weights, {4 * compiled.stream_words:,} bytes per token")


if __name__ == "__main__":
    typer.run(write)
