"""Operations that run at once never disturb each other, in any program, at any position."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from host.checkpoint import synthetic_checkpoint
from host.compiler import compile_checkpoint
from host.hazards import check_hazards
from host.image import Image
from host.importer import load_checkpoint
from host.predict import timeline
from rtl.config import CONFIGS, HGRN, RESIDENT, SPARSE, STREAM, TINY, Config
from rtl.isa import Op, Opcode, Unit
from sim.token_loop import Pass
from tests.shapes import BANKED, SHAPES, STORIES, synthetic_image
from tests.small_hgrn import SmallHgrn

PARALLEL = {"tiny": TINY, "banked": BANKED, "sparse": SPARSE, "resident": RESIDENT, "stream": STREAM}


@cache
def parallel_image(name: str) -> Image:
    """A random model with attention and feed-forward side by side."""
    shape = SHAPES["tiny" if name == "banked" else name]
    return compile_checkpoint(synthetic_checkpoint(replace(shape, is_parallel=True)), PARALLEL[name])


def check(config: Config, program: list[Op]) -> None:
    """All of a context of up to 64 positions, some of a longer one."""
    step = max(1, config.context // 64)
    for position in (*range(0, config.context, step), config.context - 1):
        check_hazards(config, timeline(config, program, position))


@pytest.mark.parametrize("name", CONFIGS)
def test_programs_have_no_hazards(name: str) -> None:
    """A mask without a unit whose result, place or port an operation needs."""
    image = synthetic_image(name)
    check(image.config, image.program)


@pytest.mark.parametrize("name", PARALLEL)
def test_parallel_programs_have_no_hazards(name: str) -> None:
    """The same where masks are computed and most operations overlap."""
    check(PARALLEL[name], parallel_image(name).program)


@pytest.mark.parametrize(("name", "changes"), [
    ("tiny", {"feed_groups": (0, 3), "windows": (16, 64)}), ("banked", {"feed_groups": (0, 3), "windows": (16, 64)}),
    ("banked", {"layers": 5, "feed_groups": (0, 2, 1, 3, 1), "windows": (16, 0, 16, 0, 0)}),
    ("resident", {"feed_forward": 640, "feed_groups": (0, 4, 4, 4), "windows": (32, 64, 256, 64)})],
    ids=["tiny", "banked", "alone", "resident"])
def test_programs_of_groups_have_no_hazards(name: str, changes: dict[str, Any]) -> None:
    """The same for a feed-forward in groups, beside attention that is over soon in one layer and late in another."""
    shape = replace(SHAPES["tiny" if name == "banked" else name], is_parallel=True, **changes)
    check(PARALLEL[name], compile_checkpoint(synthetic_checkpoint(shape), PARALLEL[name]).program)


@pytest.mark.parametrize("is_parallel", [False, True])
@pytest.mark.parametrize("slots", [2, 5, STREAM.slots])
def test_slots_have_no_hazards(is_parallel: bool, slots: int) -> None:
    """A slot that takes the query, the rotary factors or the result of attention from the one before it."""
    image = parallel_image("stream") if is_parallel else synthetic_image("stream")
    check_slots(image, slots)


@pytest.mark.parametrize("groups", [(1, 1, 0), (0, 2, 2), (3, 1, 2)], ids=str)
def test_slots_of_layers_without_attention_have_no_hazards(groups: tuple[int, ...]) -> None:
    """The same where a layer has a feed-forward only, or attention only."""
    shape = replace(SHAPES["stream"], is_parallel=True, layers=3, feed_groups=groups, windows=(64, 0, 16))
    image = compile_checkpoint(synthetic_checkpoint(replace(shape, feed_forward=120 * max(groups))), STREAM)
    check_slots(image, STREAM.slots)


def check_slots(image: Image, slots: int) -> None:
    """Prove that the passes of an image for so many tokens have no hazards."""
    for position in (0, 7, 100, image.context - slots):
        for reads in (False, True):
            taken = Pass((0,) * slots, position, 1 if not reads else slots, reads)
            check_hazards(STREAM, timeline(STREAM, image.program, position, taken=taken, kept=slots))


def test_recurrent_programs_have_no_hazards(tmp_path) -> None:
    """The same for states that stay in vector memory."""
    image = compile_checkpoint(load_checkpoint(SmallHgrn().write(tmp_path / "hgrn"), HGRN), HGRN)
    check(image.config, image.program)


def test_the_shipped_model_has_no_hazards() -> None:
    """Every position of the demo."""
    image = compile_checkpoint(load_checkpoint(STORIES), RESIDENT)
    for position in range(image.context):
        check_hazards(RESIDENT, timeline(RESIDENT, image.program, position))


def wait_bits(program: list[Op]) -> list[tuple[int, Unit]]:
    """Every unit that an operation other than END waits for."""
    return [(index, unit) for index, op in enumerate(program) for unit in Unit
            if unit & op.wait and op.opcode != Opcode.END]


def test_every_wait_of_a_parallel_program_is_needed_at_some_position() -> None:
    """A checker that lets a hazard pass, or masks that wait for nothing: without any one bit there is a hazard.

    Where an operation that takes no part ends late enough by itself, the bit is not missed, which most are.
    """
    config, program = BANKED, parallel_image("banked").program
    missed = 0
    for index, unit in wait_bits(program):
        changed = [*program]
        changed[index] = replace(program[index], wait=program[index].wait & ~unit)
        try:
            for position in (0, config.context - 1):
                check_hazards(config, timeline(config, changed, position))
        except ValueError:
            missed += 1
    assert missed > 0.7 * len(wait_bits(program)), f"{missed} of {len(wait_bits(program))}"


def test_sampler_follows_the_engine() -> None:
    """A sampler that waits for all logits although the engine is ahead of it, or reads one before it is there."""
    program = parallel_image("resident").program
    sample = next(index for index, op in enumerate(program) if op.opcode == Opcode.SAMPLE)
    assert not program[sample].wait & Unit.ENGINE
    hasty = [*program]
    hasty[sample] = replace(program[sample], wait=Unit(0))
    # Nothing between the start of the engine and that of the sampler.
    scalars = [index for index in range(sample) if program[index].opcode == Opcode.SCALAR]
    hasty.insert(scalars[-2] - 1, hasty.pop(sample))
    with pytest.raises(ValueError, match="SAMPLE"):
        check_hazards(RESIDENT, timeline(RESIDENT, hasty, 0))
