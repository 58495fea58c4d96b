"""What the trainer learns from: vocabularies, windows, the teacher's expectations of a text and its own stories."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from host.errors import TritloomError
from host.tokenizer import BOS
from models.training import teacher as teachers
from models.training.corpus import Corpus
from models.training.data import UNKNOWN, Tokenizer, Vocabulary
from models.training.teacher import Teacher, sampled_stories, soft_targets
from tests.small_trainer import CONTEXT, PIECES, VOCAB, write_teacher, write_vocabulary


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    """A teacher of random weights."""
    return write_teacher(tmp_path / "teacher.bin")


@pytest.fixture
def whole(tmp_path: Path) -> Tokenizer:
    """A vocabulary of ``VOCAB`` pieces."""
    return write_vocabulary(tmp_path / "whole.bin")


@pytest.mark.parametrize(("size", "dropped"), [
    (16, []), (15, [b"<0x0B>"]), (14, [b"<0x09>", b"<0x0B>"]), (13, [b"<0x09>", b"<0x0B>", b"r"]),
    (11, [b"<0x09>", b"<0x0B>", b"s", b"h", b"r"])])
def test_a_smaller_vocabulary_drops_raw_bytes_and_then_the_rarest(whole: Tokenizer, size: int, dropped: list[bytes]
                                                                  ) -> None:
    """A piece lost that texts need; or numbers and file that tell two vocabularies."""
    vocabulary = Vocabulary(whole, size)
    left = [piece for piece in PIECES if piece not in dropped]
    assert [PIECES[number] for number in vocabulary.kept] == left
    scores = [-float(PIECES.index(piece)) for piece in left]
    assert vocabulary.file()[4:] == b"".join(struct.pack("<fi", score, len(piece)) + piece
                                             for score, piece in zip(scores, left, strict=True))
    found = vocabulary.own(np.arange(VOCAB))
    assert found.tolist() == [left.index(piece) if piece in left else UNKNOWN for piece in PIECES]


def test_a_text_that_the_vocabulary_does_not_hold_is_not_judged(whole: Tokenizer) -> None:
    """A loss that leaves out what the model cannot say."""
    vocabulary, text = Vocabulary(whole, 14), np.array(whole.encode("tea\nt"))
    assert vocabulary.own(text, whole=True).tolist() == [BOS, 4, 6, 5, 7, 3, 6]
    with pytest.raises(ValueError, match="the text has the piece b'<0x09>', which is not among the 14 pieces"):
        vocabulary.own(np.array(whole.encode("tea\tt")), whole=True)
    with pytest.raises(TritloomError, match="the model knows no 'x', only  etaoinshr"):
        whole.encode("tax")
    for size in (3, 17):
        with pytest.raises(ValueError, match=f"a vocabulary of 16 pieces cannot be cut to {size}"):
            Vocabulary(whole, size)


def expected(teacher: Teacher, tokens: torch.Tensor) -> torch.Tensor:
    """Distributions after each token of one window, as the corpus stores them."""
    return teacher(tokens[None].long())[0].softmax(-1).half()


@pytest.mark.parametrize("size", [VOCAB, 14])
def test_targets_mix_the_true_token_with_the_teachers_distribution(whole: Tokenizer, size: int) -> None:
    """A label of another position or vocabulary, or a share on the wrong side, would teach noise."""
    rng = np.random.default_rng(2)
    vocabulary = Vocabulary(whole, size)
    tokens = torch.from_numpy(rng.choice(vocabulary.kept, 200).astype(np.int16))
    probabilities = torch.from_numpy(rng.random((200, VOCAB))).half()
    inputs, targets = Corpus(tokens, probabilities, 0.25, vocabulary).sample(np.random.default_rng(3), 5, 20, 0.5)
    text = vocabulary.own(tokens.numpy()).tolist()
    for window, wanted in zip(inputs.tolist(), targets, strict=True):
        start = next(at for at in range(200) if text[at : at + 20] == window)
        labels = torch.nn.functional.one_hot(torch.tensor(text[start + 1 : start + 21]), size)
        likely = probabilities[start : start + 20, vocabulary.kept].float()
        torch.testing.assert_close(wanted, 0.75 * likely / likely.sum(-1, keepdim=True) + 0.25 * labels)


def test_windows_at_openings_begin_with_bos(whole: Tokenizer) -> None:
    """Generation begins so; the other windows begin anywhere."""
    tokens = torch.full((300,), 5, dtype=torch.int16)
    tokens[::50] = BOS
    corpus = Corpus(tokens, torch.ones(300, VOCAB).half(), 0.0, Vocabulary(whole, VOCAB))
    opened, _ = corpus.sample(np.random.default_rng(4), 64, 10, 1.0)
    anywhere, _ = corpus.sample(np.random.default_rng(4), 64, 10, 0.0)
    assert (opened[:, 0] == BOS).all()
    assert (anywhere[:, 0] == BOS).sum() < 10


@pytest.mark.parametrize("count", [5, 16, 17, 100])
def test_each_position_takes_what_the_window_with_the_longer_past_says(teacher: Teacher, count: int) -> None:
    """An offset by half a window would shift every target."""
    tokens = torch.from_numpy(np.random.default_rng(5).integers(0, VOCAB, count).astype(np.int16))
    found = soft_targets(teacher, tokens, lambda _: None)
    assert found.shape == (count, VOCAB)
    for position in range(count):
        start = max(0, position // (CONTEXT // 2) - 1) * (CONTEXT // 2)
        wanted = expected(teacher, tokens[start : position + 1])[-1]
        torch.testing.assert_close(found[position], wanted, rtol=2e-3, atol=2e-3)


def test_sampled_stories_come_with_what_the_teacher_expected(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of several portions; each target must be that of its own stream and position."""
    monkeypatch.setattr(teachers, "STREAMS_AT_ONCE", 2)
    seen: list[int] = []
    tokens, probabilities = sampled_stories(teacher, 5, CONTEXT, 1, seen.append)
    assert sum(seen) == 5 * CONTEXT
    streams = tokens.view(5, CONTEXT)
    assert (streams[:, 0] == BOS).all()
    assert len({tuple(stream) for stream in streams.tolist()}) == 5
    for stream, found in zip(streams, probabilities.view(5, CONTEXT, VOCAB), strict=True):
        torch.testing.assert_close(found, expected(teacher, stream), rtol=2e-3, atol=2e-3)
