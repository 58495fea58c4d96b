"""Learned drafts: chosen from a text, kept in a file, and put into the table of the drafter."""

import json
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from host.block_memory import block_memories, noise
from host.compiler import compile_checkpoint
from host.drafts import DRAFTS_FILE, draft_table, read_drafts
from host.errors import TritloomError
from host.image import Image
from host.importer import load_checkpoint
from models.training.ngrams import choose, count
from rtl.config import DRAFT_TOKENS, DRAFT_WAYS, RESIDENT
from rtl.csr_map import RAM_BYTES, Space
from sim.drafter import Drafter
from tests.shapes import STORIES

DRAFTING = replace(RESIDENT, draft_sets=64)
VOCAB = 5


def write(path: Path, **changes: np.ndarray) -> Path:
    """A file of three contexts, with tensors changed."""
    tensors = {"contexts": np.array([[7, 0, 0, 0], [7, 8, 0, 0], [9, 8, 7, 6]], np.uint16),
               "lengths": np.array([1, 2, 4], np.uint8), "drafts": np.array([3, 4, 5], np.uint16)}
    save_file(tensors | changes, path)
    return path


def test_a_file_gives_its_contexts(tmp_path: Path) -> None:
    """Padding taken for tokens, or the order of usefulness lost."""
    found = read_drafts(write(tmp_path / DRAFTS_FILE), 512)
    assert list(found.items()) == [((7,), 3), ((7, 8), 4), ((9, 8, 7, 6), 5)]


@pytest.mark.parametrize(("changes", "message"), [
    ({"lengths": np.array([1, 2, 5], np.uint8)}, "beyond the vocabulary of 512 and 4 tokens"),
    ({"lengths": np.array([0, 2, 4], np.uint8)}, "beyond the vocabulary"),
    ({"drafts": np.array([3, 4, 512], np.uint16)}, "beyond the vocabulary"),
    ({"contexts": np.full((3, 4), 600, np.uint16)}, "beyond the vocabulary"),
    ({"contexts": np.zeros((3, 3), np.uint16)}, "shapes of its tensors contradict"),
    ({"drafts": np.zeros(2, np.uint16)}, "shapes of its tensors contradict"),
    ({"drafts": np.zeros(3, np.int16)}, "does not hold exactly"),
    ({"more": np.zeros(3, np.int16)}, "does not hold exactly"),
])
def test_files_that_lie_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    """Tokens outside the memories, or a traceback."""
    with pytest.raises(TritloomError, match=message):
        read_drafts(write(tmp_path / DRAFTS_FILE, **changes), 512)


def test_the_table_gives_its_contexts_to_the_drafter() -> None:
    """Compiler and drafter disagreeing about place, tag or order of tokens."""
    rng = np.random.default_rng(0)
    drafts = {tuple(rng.integers(1, 512, length).tolist()): int(rng.integers(512))
              for length in (1, 2, 3, 4) for _ in range(10)}
    table = draft_table(DRAFTING, drafts)
    missed = 0
    for context, token in drafts.items():
        drafter = Drafter(DRAFTING, table, uses_text=False)
        for known in reversed(context):
            drafter.push(known)
        missed += drafter.draft() != token
    assert np.count_nonzero(table) == len(drafts)
    assert missed <= 1, "at most a longer context that has the same tag by chance"


def test_the_best_contexts_find_room() -> None:
    """A table whose sets kept what came last."""
    drafts = {(token,): token for token in range(1, 512)}
    table = draft_table(replace(RESIDENT, draft_sets=2), drafts)
    tokens = np.sort((table & 511).ravel())
    assert len(set(tokens.tolist())) == 2 * DRAFT_WAYS
    assert tokens.max() < 30


def test_images_carry_the_table(tmp_path: Path) -> None:
    """A table lost in the file, in the words of the loader or in the block RAMs of a bitstream."""
    checkpoint = replace(load_checkpoint(STORIES), drafts={(7,): 3, (7, 8): 4})
    image = compile_checkpoint(checkpoint, DRAFTING)
    image.save(tmp_path / "a.img")
    again = Image.load(tmp_path / "a.img")
    assert np.array_equal(again.sections["drafts"], draft_table(DRAFTING, checkpoint.drafts))
    words = {space: words for space, _, words in again.load_words()}[Space.DRAFTS].reshape(-1, 4)
    values = [sum(word << 32 * index for index, word in enumerate(row)) for row in words.tolist()]
    sets = again.sections["drafts"].tolist()
    assert values == [sum(word << 18 * way for way, word in enumerate(ways)) for ways in sets]
    bits = block_memories(again, bytes(RAM_BYTES))["drafts"]
    assert [int("".join(map(str, row[::-1])), 2) for row in bits.tolist()] == values
    assert block_memories(*noise(DRAFTING))["drafts"].shape == bits.shape


def test_machines_without_a_drafter_are_as_before() -> None:
    """Another geometry, or a section that nothing reads."""
    checkpoint = load_checkpoint(STORIES)
    image = compile_checkpoint(checkpoint, RESIDENT)
    assert "drafts" not in image.sections
    assert image.image_id == compile_checkpoint(replace(checkpoint, drafts={}), RESIDENT).image_id
    assert DRAFTING.geometry != RESIDENT.geometry == replace(RESIDENT, draft_sets=0).geometry


@pytest.mark.parametrize("sets", [1, 3, 96])
def test_sets_are_a_power_of_two(sets: int) -> None:
    """An address that leaves sets out."""
    with pytest.raises(ValueError, match=f"draft_sets {sets}"):
        replace(RESIDENT, draft_sets=sets)


def test_sums_are_those_of_the_text() -> None:
    """A token added to the context of its neighbour, or a context with its tokens reversed."""
    rng = np.random.default_rng(0)
    tokens, ids, weights = rng.integers(0, VOCAB, 300), rng.integers(0, VOCAB, (300, 2)), rng.random((300, 2))
    counts = count(tokens, ids, weights, 2, VOCAB)
    expected: Counter[tuple[int, int, int]] = Counter()
    for position in range(300):
        before = int(tokens[position - 1]) if position else 0
        for token, weight in zip(ids[position], weights[position], strict=True):
            expected[int(tokens[position]), before, int(token)] += weight
    for row, context in enumerate(counts.contexts.tolist()):
        sums = [expected[context & 0xFFFF, context >> 16, token] for token in range(VOCAB)]
        assert np.allclose(counts.sums_of(np.full(VOCAB, row), np.arange(VOCAB)), sums)
        assert counts.best[row] == np.argmax(sums)
        assert np.isclose(counts.best_sums[row], max(sums))


def test_contexts_are_chosen_where_they_change_the_guess() -> None:
    """Room spent on a long context that says what a shorter one says already."""
    # 1 is followed by 2, except after 3; what follows 2 and 3 is always the same.
    tokens = np.array(([1, 2] * 8 + [3, 1, 4]) * 5)
    after = np.roll(tokens, -1)[:, None]
    counts = [count(tokens, after, np.ones(after.shape), length, VOCAB) for length in range(1, DRAFT_TOKENS + 1)]
    chosen = choose(counts, 100)
    assert chosen[:2] == [((1,), 2), ((2,), 1)]
    assert dict(chosen)[1, 3] == 4
    assert (1, 2) not in dict(chosen)
    assert choose(counts, 2) == chosen[:2]


def test_shipped_drafts_are_those_of_the_shipped_model() -> None:
    """Drafts of a model that was since trained again: they would be accepted less."""
    with safe_open(STORIES / DRAFTS_FILE, "numpy") as file:
        record = file.metadata()
    assert record["model_sha256"] == sha256((STORIES / "model.safetensors").read_bytes()).hexdigest()
    vocab = json.loads((STORIES / "config.json").read_text())["vocab_size"]
    assert len(read_drafts(STORIES / DRAFTS_FILE, vocab)) > 8000
    assert (STORIES / DRAFTS_FILE).stat().st_size < 100_000
