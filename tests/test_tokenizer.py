"""The tokenizer against llama2.c: known encodings, byte fallback, streaming, hostile files."""

import random
import struct
from pathlib import Path

import pytest

from host.errors import TritloomError
from host.synthetic import TOKENIZER as WHOLE_TOKENIZER
from host.tokenizer import BOS, TextStream, Tokenizer
from models.training.data import Tokenizer as Learned
from models.training.data import Vocabulary
from tests.shapes import WORDS


def tokenizer_file(*, longest: int = 8, extra: tuple[tuple[float, bytes], ...] = ()) -> bytes:
    """A small vocabulary: control pieces, the 256 byte pieces, then ``extra`` (score, piece)."""
    pieces = [(0.0, b"<unk>"), (0.0, b"\n<s>\n"), (0.0, b"\n</s>\n")]
    pieces += [(0.0, b"<0x%02X>" % byte) for byte in range(256)]
    pieces += extra
    return struct.pack("<i", longest) + b"".join(struct.pack("<fi", score, len(piece)) + piece
                                                  for score, piece in pieces)


SMALL = ((-9.0, b" "), (-9.0, b"a"), (-9.0, b"b"), (-9.0, b"c"), (-3.0, b"ab"), (-2.0, b"bc"), (-1.0, b"abc"),
         (-4.0, b" a"), (-9.0, "é".encode()))
SPACE, A, B, C, AB, BC, ABC, SPACE_A, E_ACUTE = range(259, 268)


@pytest.fixture
def small() -> Tokenizer:
    return Tokenizer(tokenizer_file(extra=SMALL))


def test_known_encoding_of_llama2c() -> None:
    """The opening of the story that run.c prints for stories260K, which shares this vocabulary."""
    tokenizer = Tokenizer.load(WHOLE_TOKENIZER)
    assert len(tokenizer) == 512
    assert tokenizer.encode("Once upon a time") == [1, 403, 407, 261, 378]
    text = ("Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, "
            "she saw a big, red ball. She wanted to play with it, but it was too high.\nLily's mom said")
    tokens = tokenizer.encode(text)
    assert len(tokens) == 69, f"{len(tokens)} tokens: {tokens}"
    assert tokenizer.decode(tokens) == text


@pytest.mark.parametrize("size", [256, 300])
def test_a_cut_vocabulary_reads_texts_as_the_whole_one(size: int) -> None:
    """The same pieces by other numbers; what has no piece is named, not read as something else."""
    whole, cut = Tokenizer.load(WHOLE_TOKENIZER), Tokenizer(Vocabulary(Learned(WHOLE_TOKENIZER), size).file())
    assert len(cut) == size
    text = "Once upon a time, there was a “café”.\nTom said, \"Hi!\""
    tokens = cut.encode(text)
    assert [cut.pieces[token] for token in tokens] == [whole.pieces[token] for token in whole.encode(text)]
    assert cut.decode(tokens) == text
    with pytest.raises(TritloomError, match="the model knows no 'ü', only .*eat"):
        cut.encode("Über ü".lower())


def character_file(*pieces: bytes) -> bytes:
    """A vocabulary of characters: BOS, then ``pieces``."""
    return struct.pack("<i", 8) + b"".join(struct.pack("<fi", 0, len(piece)) + piece for piece in (b"<s>", *pieces))


def test_characters_are_tokens_without_a_space_before_them() -> None:
    """Conventions of llama2.c applied to a vocabulary that has no room for them."""
    tokenizer = Tokenizer(character_file(b"a", b"b", "é".encode(), b" "))
    assert tokenizer.encode("") == [0]
    assert tokenizer.encode("bé a") == [0, 2, 3, 4, 1]
    assert tokenizer.decode([0, 2, 3, 4, 1]) == "bé a"
    stream = TextStream(tokenizer)
    assert [stream.feed(token) for token in (0, 1, 0, 2)] == ["", "a", "\n", "b"]
    with pytest.raises(TritloomError, match="the model knows no 'A', only abé $"):
        tokenizer.encode("bA")


def test_shipped_letters_round_trip() -> None:
    tokenizer = Tokenizer.load(WORDS / "tokenizer.bin")
    assert len(tokenizer) == 27
    assert tokenizer.encode("az") == [0, 1, 26] and tokenizer.decode([0, 1, 26]) == "az"


def test_empty_text_is_bos_alone(small: Tokenizer) -> None:
    assert small.encode("") == [BOS]


def test_merges_follow_score_not_position(small: Tokenizer) -> None:
    """`bc` scores above `ab`, so `abc` goes through a + bc, and then the whole piece wins."""
    assert small.encode("abc") == [BOS, SPACE, ABC]
    assert small.encode("ab") == [BOS, SPACE, AB]


def test_equal_scores_merge_the_leftmost_pair() -> None:
    """run.c takes a later pair only when its score is strictly higher."""
    tokenizer = Tokenizer(tokenizer_file(extra=((-9.0, b" "), (-9.0, b"a"), (-1.0, b"aa"))))
    assert tokenizer.encode("aaa") == [BOS, 259, 261, 260]


def test_characters_outside_the_vocabulary_become_bytes(small: Tokenizer) -> None:
    assert small.encode("é☃") == [BOS, SPACE, E_ACUTE, *(byte + 3 for byte in "☃".encode())]


def test_space_after_bos_is_stripped_once(small: Tokenizer) -> None:
    assert small.decode_piece(BOS, SPACE_A) == b"a"
    assert small.decode_piece(A, SPACE_A) == b" a"
    assert small.decode([BOS, SPACE_A, SPACE_A]) == "a a"


def test_random_texts_round_trip(small: Tokenizer) -> None:
    seed = 20
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(200):
        text = "".join(source.choice("abc é☃😀\n\t~") for _ in range(source.randrange(1, 40)))
        assert small.decode(small.encode(text)) == text, f"text {text!r}"


def test_stream_never_splits_a_character(small: Tokenizer) -> None:
    """Bytes of a character come as separate tokens; the terminal must see whole characters only."""
    stream = TextStream(small)
    pieces = [stream.feed(byte + 3) for byte in "x😀".encode()]
    assert pieces == ["x", "", "", "", "😀"]
    assert stream.feed(0xF0 + 3) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_stream_drops_terminal_escapes(small: Tokenizer) -> None:
    stream = TextStream(small)
    assert "".join(stream.feed(byte + 3) for byte in b"\x1b[2Jx\n\x07") == "[2Jx\n"


def test_bos_inside_a_stream_starts_a_paragraph(small: Tokenizer) -> None:
    stream = TextStream(small)
    assert [stream.feed(token) for token in (BOS, SPACE_A, BOS, SPACE_A)] == ["", "a", "\n\n", "a"]


def test_token_outside_the_vocabulary_is_refused(small: Tokenizer) -> None:
    with pytest.raises(TritloomError, match="token 268 is outside the vocabulary of 268"):
        small.decode_piece(BOS, 268)


def test_nul_in_a_prompt_is_refused(small: Tokenizer) -> None:
    with pytest.raises(TritloomError, match="NUL"):
        small.encode("a\0b")


@pytest.mark.parametrize(("data", "message"), [
    (b"", "truncated: 0 bytes"),
    (b"\0\0", "truncated: 2 bytes"),
    (struct.pack("<i", -1), "not a tokenizer"),
    (struct.pack("<i", 1 << 30), "not a tokenizer"),
    (tokenizer_file()[:-1], "truncated in piece 258"),
    (tokenizer_file() + b"\0\0\0", "truncated in piece 259"),
    (tokenizer_file() + struct.pack("<fi", 0, -1), "piece 259 has length -1"),
    (tokenizer_file() + struct.pack("<fi", 0, 1 << 30), "piece 259 has length 1073741824"),
    (tokenizer_file() + struct.pack("<fi", float("nan"), 0), "piece 259 has score nan"),
    (struct.pack("<i", 8) + struct.pack("<fi", 0, 0) * 3, "not a tokenizer: 3 pieces"),
    (character_file(b"a", b"bc"), "not a tokenizer: 3 pieces"),
    (character_file(b"a", b""), "not a tokenizer: 3 pieces"),
    (tokenizer_file()[: 4 + 8 + 5], "not a tokenizer: 1 pieces"),
    (struct.pack("<i", 8) + struct.pack("<fi", 0, 0) * 70000, "more than 65536 pieces"),
])
def test_hostile_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(TritloomError, match=message):
        Tokenizer(data)


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TritloomError, match="cannot read tokenizer .*No such file"):
        Tokenizer.load(tmp_path / "none.bin")


def test_random_damage_never_escapes_as_another_exception() -> None:
    seed = 21
    print(f"seed {seed}")
    source = random.Random(seed)
    whole = tokenizer_file(extra=SMALL)
    for _ in range(300):
        data = bytearray(whole[:source.randrange(len(whole) + 1)])
        for _ in range(source.randrange(4)):
            if data:
                data[source.randrange(len(data))] = source.randrange(256)
        try:
            Tokenizer(bytes(data)).encode("abc é")
        except TritloomError:
            pass
