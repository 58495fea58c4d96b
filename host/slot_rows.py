"""Rows about passes of several tokens: reading a prompt, and speculation."""

from collections.abc import Iterator, Sequence

from host.bench import Routed, Row, Workload, clock_of
from host.image import Image
from rtl.csr_map import Speculation
from sim.drafter import drafter_of
from sim.golden import Golden
from sim.token_loop import Pass, TokenLoop

PROMPT_TOKENS = 64
STORY_TOKENS = 200
KNOWN = "host/predict.py; tests/test_soc.py compares such passes with the golden model"


def slot_rows(work: Workload, reports: Sequence[Routed]) -> Iterator[Row]:
    """What slots bring; nothing where a pass has one."""
    image = work.image
    config, model = image.config, str(image.model["name"])
    if config.slots == 1:
        return
    hz, provenance, source = clock_of(config.name, reports)
    at = f"{source}, {hz / 1e6:g} MHz"
    count = min(PROMPT_TOKENS, image.context)
    cycles = prompt_cycles(image, count)
    alone = sum(work.cycles[:count])
    limit = config.slots * alone / work.cycles_limit * image.stream_words / image.prompt_words / count
    yield Row(config.name, model, f"tokens per second, prompt of {count}", hz * count / cycles, "tokens/s",
              hz * config.slots / work.cycles_limit * image.stream_words / image.prompt_words, provenance, at)
    yield Row(config.name, model, f"prompt of {count} over single tokens", alone / cycles, "times", limit,
              work.provenance[0], KNOWN)
    if not config.draft_sets:
        return
    for speculation in (Speculation.LOOKUP, Speculation.DRAFT):
        tokens, passes, cycles = speculated(image, speculation)
        how = f"--speculate {speculation.name.lower()}, greedy story of {tokens}"
        yield Row(config.name, model, f"tokens per pass, {how}", tokens / passes, "tokens", config.slots,
                  "golden model and drafter", "sim/token_loop.py, sim/drafter.py")
        yield Row(config.name, model, f"tokens per second, {how}", hz * tokens / cycles, "tokens/s", None, provenance,
                  at)
        yield Row(config.name, model, f"over the single-token roofline, {how}", tokens * work.cycles_limit / cycles,
                  "times", None, work.provenance[0], KNOWN)


def prompt_cycles(image: Image, count: int) -> int:
    """Predicted cycles of the passes that read so many tokens of a longer prompt."""
    slots = image.config.slots
    passes = (Pass((0,) * min(slots, count - first), first, min(slots, count - first), reads=True)
              for first in range(0, count, slots))
    return sum(image.predicted_cycles(taken.position, taken=taken, kept=len(taken.tokens)) for taken in passes)


def speculated(image: Image, speculation: Speculation) -> tuple[int, int, int]:
    """A greedy story from an empty prompt: its tokens, the passes that they take, and the predicted cycles of these."""
    golden, slots = Golden(image), image.config.slots
    count = min(STORY_TOKENS, image.context)
    loop = TokenLoop(slots=slots, context=image.context, prompt=[1], tokens=count,
                     drafter=drafter_of(image, speculation))
    passes = cycles = 0
    while taken := loop.begin():
        kept = len(loop.end(taken, golden.samples(taken)))
        passes += 1
        cycles += image.predicted_cycles(taken.position, taken=taken, kept=kept, speculates=True)
    return count, passes, cycles
