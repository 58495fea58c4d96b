"""What the next improvements would bring: the shipped model's cycles, predicted with one thing changed at a time."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from host.errors import TritloomError
from host.image import Image
from host.predict import operation_cycles, timeline
from host.program import Scalars
from host.session import DEFAULT_MODEL, read_image
from rtl.config import Config
from rtl.isa import Op, Opcode, ScalarFn, VectorFn

Duration = Callable[..., int]


@dataclass(frozen=True)
class Change:
    """One improvement.

    Parameters
    ----------
    name : what is changed.
    needs : what it costs.
    duration : cycles of an operation.
    config : geometry.
    """

    name: str
    needs: str
    duration: Duration = operation_cycles
    config: Callable[[Config], Config] = replace


def overlapped_reciprocals(config: Config, op: Op, position: int, *, greedy: bool = True) -> int:
    """The reciprocals of the heads follow each other as fast as they issue; the last takes its time."""
    last = Scalars.HEADS + config.heads_parallel - 1
    if op.opcode == Opcode.SCALAR and op.fn == ScalarFn.RECIPROCAL and Scalars.HEADS <= op.rd < last:
        return 1
    return operation_cycles(config, op, position, greedy=greedy)


def two_positions(config: Config, op: Op, position: int, *, greedy: bool = True) -> int:
    """Attention takes two positions per clock in either pass."""
    cycles = operation_cycles(config, op, position, greedy=greedy)
    return cycles - 2 * ((min(position, op.reach) + 1) // 2) if op.opcode == Opcode.ATTEND else cycles


def add_of_two_banks(config: Config, op: Op, position: int, *, greedy: bool = True) -> int:
    """ADD reads both of its operands in one clock where they lie in different banks."""
    cycles = operation_cycles(config, op, position, greedy=greedy)
    is_add = op.opcode == Opcode.VECTOR and op.fn == VectorFn.ADD
    return cycles - op.beats if is_add and op.src < config.engine_beats <= op.src2 else cycles


def fill_read_ahead(config: Config, op: Op, position: int, *, greedy: bool = True) -> int:
    """The engine has read the activations of a table fill while it was at work on the operation before."""
    cycles = operation_cycles(config, op, position, greedy=greedy)
    return cycles - config.block_beats if op.opcode == Opcode.MATVEC and op.fill else cycles


CHANGES = (
    Change("attention: two positions per clock", "twice the multipliers and ports of the KV cache",
           duration=two_positions),
    Change("table fill: activations read ahead", "a second register for them, and an offer before its turn",
           duration=fill_read_ahead),
    Change("add: both operands in one clock", "a read port for each bank of vector memory", duration=add_of_two_banks),
    Change("reciprocals of the heads pipelined", "a pipelined scalar unit", duration=overlapped_reciprocals),
    Change("sampler: 10 logits per clock", "2.5 times its lanes", config=lambda c: replace(c, sampler_lanes=10)),
)


def mean_cycles(image: Image, changes: tuple[Change, ...] = ()) -> float:
    """Mean cycles of a token over all positions with changes made."""
    config, program = image.config, image.program

    def duration(config: Config, op: Op, position: int, *, greedy: bool, slots: int) -> int:
        default = operation_cycles(config, op, position, greedy=greedy, slots=slots)
        return default + sum(change.duration(config, op, position, greedy=greedy) - default for change in changes)

    for change in changes:
        config = change.config(config)
    total = 0
    for position in range(image.context):
        *_, last = timeline(config, program, position, duration=duration)
        total += last.end
    return total / image.context


def gains(image: Image) -> Iterator[tuple[str, str, float]]:
    """Name, needs and cycles saved of each change, most first, then of all together."""
    now = mean_cycles(image)
    saved = [(change.name, change.needs, now - mean_cycles(image, (change,))) for change in CHANGES]
    yield from sorted(saved, key=lambda entry: -entry[2])
    yield "all of these", "", now - mean_cycles(image, CHANGES)


def main(model: Annotated[Path, typer.Option(help="Model directory or image file.")] = DEFAULT_MODEL) -> None:
    """Print what each improvement would save, as a Markdown table."""
    image = read_image(model, None)
    now = mean_cycles(image)
    print(f"{image.model['name']} on {image.config.name}: {now:,.0f} cycles per token, mean of {image.context} "
          "(predicted)\n")
    print("| Change | Needs | Cycles saved | Share | Tokens per second |\n|---|---|---|---|---|")
    for name, needs, saved in gains(image):
        print(f"| {name} | {needs} | {saved:,.0f} | {saved / now:.1%} | +{now / (now - saved) - 1:.1%} |")


if __name__ == "__main__":
    try:
        typer.run(main)
    except TritloomError as error:
        print(f"gains: {error}", file=sys.stderr)
        sys.exit(1)
