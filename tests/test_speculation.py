"""The study of speculation: passes are counted as the hardware would do them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from host.errors import TritloomError
from studies import speculation
from studies.speculation import Story, cached_stories, passes, sources, tokens_per_pass
from tests.shapes import WORDS, synthetic_image


class Oracle:
    """Drafts what follows in a story, and now and then something else.

    Parameters
    ----------
    tokens : the story.
    wrong : positions whose drafts are wrong.
    """

    def __init__(self, tokens: Sequence[int], wrong: Sequence[int] = ()) -> None:
        self._tokens, self._wrong, self._text, self._drafts = tokens, wrong, 0, 0

    def push(self, token: int) -> None:
        assert token == self._tokens[self._text], "pushed out of order"
        self._text, self._drafts = self._text + 1, 0

    def draft(self) -> int:
        position = self._text + self._drafts
        self._drafts += 1
        return -1 if position in self._wrong else self._tokens[position]


@pytest.mark.parametrize(("slots", "wrong", "expected"), [
    (1, (), 20), (2, (), 10), (4, (), 5), (8, (), 3), (4, range(30), 20),
    (4, (12,), 6),   # two drafts and the token in place of the third; then 17 tokens in five passes
    (3, (10, 11), 8),
])
def test_passes(slots: int, wrong: Sequence[int], expected: int) -> None:
    """A pass without the token that it samples itself, or with one more draft than slots."""
    story = Story(list(range(100, 130)), 10)
    assert passes(Oracle(story.tokens, wrong), story, slots) == expected


def test_every_source_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drafter that starts with another one's text, or a source that is not what its name says."""
    monkeypatch.setattr(speculation, "SETS", (64,))
    monkeypatch.setattr(speculation, "SLOTS", (4,))
    found = sources({(5,): 6, (6,): 5})
    told = [Story([5, 6] * 10, 1), Story([7, 8, 9, 9] * 10, 4)]
    rates = {name: tokens_per_pass(source, told, 4) for name, source in found.items()}
    assert list(rates) == ["text alone", "table of 256", "text and table of 256"]
    assert rates["text and table of 256"] > max(rates["text alone"], rates["table of 256"]) > 1
    assert speculation.report({"told": told}, {(5,): 6, (6,): 5}).row_count == 3


def test_stories_are_the_golden_models_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stories that are sampled again, or mixed up, when they are read from the file."""
    image, prompts = synthetic_image("tiny"), [[1, 5], [1, 6, 7]]
    made = cached_stories(image, prompts, tmp_path)
    assert [story.given for story in made["greedy"]] == [2, 3]
    assert all(len(story.tokens) == image.context for told in made.values() for story in told)
    assert made["greedy"] != made["temperature 0.8"]
    monkeypatch.setattr(speculation, "Golden", None)
    assert cached_stories(image, prompts, tmp_path) == made


def test_a_model_without_drafts_is_one_line(tmp_path: Path) -> None:
    """A table of noughts in place of what to do."""
    with pytest.raises(TritloomError, match="has no drafts; run scripts/train --drafts"):
        speculation.main(data=tmp_path, model=WORDS, count=1, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
