"""What speculation would bring: drafts of the drafter's golden model, checked by stories of the golden model."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from host.drafts import Drafts, draft_table
from host.errors import TritloomError
from host.image import Image
from host.importer import load_checkpoint
from host.session import DEFAULT_MODEL, inverse_temperature, read_image
from host.tokenizer import Tokenizer
from models.training.data import held_out_stories
from rtl.config import DRAFT_WAYS, RESIDENT, Config
from sim.drafter import Drafter
from sim.golden import Golden

ROOT = Path(__file__).resolve().parents[1]
TEMPERATURES = {"greedy": None, "temperature 0.8": 0.8}
SLOTS = (2, 4, 6, 8, 12)
SETS = (512, 1024, 2048)
OPENING_WORDS = 10
APART = 37                 # stories of the held-out text from one opening to the next


@dataclass(frozen=True)
class Story:
    """Tokens of a text, of which the first ``given`` were the prompt."""

    tokens: list[int]
    given: int


@dataclass(frozen=True)
class Source:
    """Where drafts come from: the text so far, a learned table of so many sets, or both."""

    config: Config
    table: np.ndarray
    uses_text: bool
    uses_table: bool

    def drafter(self) -> Drafter:
        return Drafter(self.config, self.table, uses_text=self.uses_text, uses_table=self.uses_table)


def sources(drafts: Drafts) -> Mapping[str, Source]:
    """Every drafter of the study, by name."""
    found = {}
    for sets in SETS:
        config = replace(RESIDENT, draft_sets=sets)
        table = draft_table(config, drafts)
        if not found:
            found["text alone"] = Source(config, table, True, False)
        found[f"table of {sets * DRAFT_WAYS:,}"] = Source(config, table, False, True)
        found[f"text and table of {sets * DRAFT_WAYS:,}"] = Source(config, table, True, True)
    return found


def passes(drafter: Drafter, story: Story, slots: int) -> int:
    """Passes over the weights in which a story is generated.

    A pass takes the last token of the text and ``slots - 1`` drafts. It yields the token after the former and, as long
    as that equals the draft, the token after the draft.
    """
    for token in story.tokens[: story.given]:
        drafter.push(token)
    position, count = story.given, 0
    while position < len(story.tokens):
        count += 1
        taken = 1
        for token in story.tokens[position : position + slots - 1]:
            if drafter.draft() != token:
                break
            taken += 1
        for token in story.tokens[position : position + taken]:
            drafter.push(token)
        position += taken
    return count


def tokens_per_pass(source: Source, stories: list[Story], slots: int) -> float:
    """Mean over all tokens of all stories."""
    generated = sum(len(story.tokens) - story.given for story in stories)
    return generated / sum(passes(source.drafter(), story, slots) for story in stories)


def openings(data: Path, tokenizer: Tokenizer, count: int) -> list[list[int]]:
    """Prompts of a few words of held-out stories."""
    chosen = held_out_stories(data)[::APART][:count]
    return [tokenizer.encode(" ".join(story.split(" ")[:OPENING_WORDS])) for story in chosen]


def stories(image: Image, prompts: list[list[int]], temperature: float | None) -> Iterator[Story]:
    """What the golden model makes of prompts, as long as its context."""
    golden = Golden(image)
    for seed, prompt in enumerate(prompts):
        tokens = golden.generate(prompt, image.context - len(prompt), seed=seed,
                                 temperature=inverse_temperature(temperature))
        yield Story(prompt + tokens, len(prompt))


def cached_stories(image: Image, prompts: list[list[int]], cache: Path) -> dict[str, list[Story]]:
    """Stories by name of the temperature, kept in a file per model: all have the length of the context."""
    file = cache / f"stories-{image.image_id:08x}-{len(prompts)}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        made = {name: [story.tokens for story in track(
            stories(image, prompts, temperature), description=name, total=len(prompts), console=Console(stderr=True))]
            for name, temperature in TEMPERATURES.items()}
        np.savez(file, **{name: np.array(tokens) for name, tokens in made.items()})
    with np.load(file) as kept:
        return {name: [Story(tokens, len(prompt)) for tokens, prompt in zip(kept[name].tolist(), prompts, strict=True)]
                for name in TEMPERATURES}


def report(found: dict[str, list[Story]], drafts: Drafts) -> Table:
    """Tokens per pass of every drafter."""
    table = Table(title="tokens per pass, by slots", title_justify="left", caption_justify="left",
                  caption="Studied: the golden model's tokens, the drafts of the drafter's golden model.")
    table.add_column("stories")
    table.add_column("drafts from")
    for slots in SLOTS:
        table.add_column(str(slots), justify="right")
    for name, told in found.items():
        for source_name, source in sources(drafts).items():
            table.add_row(name, source_name, *(f"{tokens_per_pass(source, told, slots):.2f}" for slots in SLOTS))
        table.add_section()
    return table


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the held-out text.")] = ROOT.parent / "shared/data",
    model: Annotated[Path, typer.Option(help="Model directory with drafts.")] = DEFAULT_MODEL,
    count: Annotated[int, typer.Option(help="Stories of each kind.")] = 16,
    cache: Annotated[Path, typer.Option(help="Folder that keeps the stories.")] = ROOT / "build/speculation",
) -> None:
    """Print how many tokens a pass would yield, by drafter and slots."""
    checkpoint = load_checkpoint(model)
    if not checkpoint.drafts:
        raise TritloomError(f"{model} has no drafts; run scripts/train --drafts --model {model}")
    image = read_image(model, RESIDENT.name)
    found = cached_stories(image, openings(data, Tokenizer(checkpoint.tokenizer), count), cache)
    Console().print(report(found, checkpoint.drafts))


if __name__ == "__main__":
    try:
        typer.run(main)
    except TritloomError as error:
        print(f"speculation: {error}", file=sys.stderr)
        sys.exit(1)
