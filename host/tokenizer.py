"""The tokenizer of llama2.c: byte-pair merges by score, with byte fallback; and vocabularies of characters.

File layout, little-endian: int32 longest piece; then per piece float32 score, int32 length, bytes.
Pieces 0, 1, 2 are unknown, BOS and EOS; pieces 3 to 258 stand for the raw bytes 0 to 255 and are spelt ``<0x00>`` to
``<0xFF>``. A cut vocabulary has some of these only, or none.
A vocabulary of characters has the same layout: piece 0 is BOS, spelt ``<s>``, and every other is one character.
"""

import codecs
import math
import re
import struct
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from host.errors import TritloomError

BOS = 1
CHARACTER_BOS, CHARACTER_BOS_PIECE = 0, b"<s>"     # in a vocabulary of characters
CONTROL_PIECES = [b"<unk>", b"\n<s>\n", b"\n</s>\n"]
MAX_PIECES = 1 << 16                # a token crosses the link as 16 bits
MAX_PIECE_BYTES = 512
MAX_CHARACTER_BYTES = 4             # of one UTF-8 character

BYTE_PIECE = re.compile(rb"<0x([0-9A-F]{2})>")
_SCANNED_BYTE = re.compile(rb"<0x([0-9A-Fa-f]{1,2})")     # as run.c scans it
_HEADER = struct.Struct("<i")
_PIECE = struct.Struct("<fi")


class Tokenizer:
    """Pieces and scores of one vocabulary.

    ``encode`` and ``decode_piece`` give what ``run.c`` of llama2.c gives, token for token and byte for byte; with a cut
    vocabulary, what it gives with the whole one, by other numbers, as long as no piece is missing. With a
    vocabulary of characters, a token is a character and BOS stands between two texts of a line each.

    Parameters
    ----------
    data : contents of a tokenizer file.

    Members
    -------
    pieces : bytes of each piece.
    scores : merge priority of each piece, higher first.
    bos : token that begins a text.
    gap : text that a BOS between two texts stands for.

    Raises
    ------
    TritloomError: the data is truncated or not a tokenizer.
    """

    def __init__(self, data: bytes) -> None:
        self.pieces: list[bytes] = []
        self.scores: list[float] = []
        if len(data) < _HEADER.size:
            raise TritloomError(f"tokenizer is truncated: {len(data)} bytes")
        (longest,) = _HEADER.unpack_from(data)
        if not 1 <= longest <= MAX_PIECE_BYTES:
            raise TritloomError(f"not a tokenizer: longest piece of {longest} bytes (1 to {MAX_PIECE_BYTES} expected)")
        position = _HEADER.size
        while position < len(data):
            position = self._read_piece(data, position, longest)
        self._characters_only = self.pieces[:1] == [CHARACTER_BOS_PIECE] and all(
            list(_characters(piece)) == [piece] for piece in self.pieces[1:])
        self.bos, self.gap = (CHARACTER_BOS, "\n") if self._characters_only else (BOS, "\n\n")
        first = len(CONTROL_PIECES)
        self._bytes = {int(found[1], 16): index for index, piece in enumerate(self.pieces)
                       if (found := BYTE_PIECE.fullmatch(piece))}
        if not self._characters_only and not self._bytes:
            if len(self.pieces) >= first + 256:
                self._bytes = {value: first + value for value in range(256)}
            elif self.pieces[:first] != CONTROL_PIECES:
                raise TritloomError(f"not a tokenizer: {len(self.pieces)} pieces, neither characters behind <s>, nor "
                                    f"{', '.join(map(repr, CONTROL_PIECES))} first, nor raw bytes")
        self._lookup: dict[bytes, int] = {}
        for index, piece in enumerate(self.pieces):
            self._lookup.setdefault(piece, index)

    def _read_piece(self, data: bytes, position: int, longest: int) -> int:
        index = len(self.pieces)
        if index == MAX_PIECES:
            raise TritloomError(f"tokenizer has more than {MAX_PIECES} pieces")
        if position + _PIECE.size > len(data):
            raise TritloomError(f"tokenizer is truncated in piece {index}")
        score, length = _PIECE.unpack_from(data, position)
        position += _PIECE.size
        # A score of nan would make the order of merges depend on the order of comparisons.
        if not math.isfinite(score):
            raise TritloomError(f"tokenizer piece {index} has score {score}")
        if not 0 <= length <= longest:
            raise TritloomError(f"tokenizer piece {index} has length {length} (0 to {longest} expected)")
        if position + length > len(data):
            raise TritloomError(f"tokenizer is truncated in piece {index}")
        self.scores.append(score)
        self.pieces.append(bytes(data[position:position + length]))
        return position + length

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """The tokenizer in a file.

        Raises
        ------
        TritloomError: the file cannot be read or is no tokenizer.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TritloomError(f"cannot read tokenizer {path}: {error.strerror}") from error
        return cls(data)

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Tokens of a text: BOS, a leading space unless the text is empty, then greedy merges by score.

        With a vocabulary of characters: BOS and the characters.

        Raises
        ------
        TritloomError: the text holds a NUL character, or the vocabulary has no piece for a space or a character, nor
            for its bytes.
        """
        raw = text.encode(errors="surrogateescape")
        if 0 in raw:
            raise TritloomError("prompt holds a NUL character")
        tokens = [self.bos] if bos else []
        if self._characters_only:
            return tokens + [self._character(character) for character in _characters(raw)]
        if raw:
            if b" " not in self._lookup:
                raise TritloomError("tokenizer has no piece for a space")
            tokens.append(self._lookup[b" "])
        for character in _characters(raw):
            if character in self._lookup:
                tokens.append(self._lookup[character])
            else:
                tokens.extend(self._byte(byte, character) for byte in character)
        return self._merge(tokens)

    def _character(self, character: bytes) -> int:
        token = self._lookup.get(character)
        if token is None:
            raise self._unknown(character, self.pieces[1:])
        return token

    def _byte(self, byte: int, character: bytes) -> int:
        token = self._bytes.get(byte)
        if token is None:
            raise self._unknown(character, [piece for piece in self.pieces if list(_characters(piece)) == [piece]])
        return token

    @staticmethod
    def _unknown(character: bytes, known: list[bytes]) -> TritloomError:
        characters = b"".join(known).decode(errors="replace")
        return TritloomError(f"the model knows no {character.decode(errors='replace')!r}, only {characters}")

    def _merge(self, tokens: list[int]) -> list[int]:
        """Join the best-scored neighbours until no pair is a piece; of equal scores the leftmost wins."""
        while True:
            best: tuple[float, int, int] | None = None
            for index in range(len(tokens) - 1):
                merged = self._lookup.get(self.pieces[tokens[index]] + self.pieces[tokens[index + 1]])
                if merged is not None and (best is None or self.scores[merged] > best[0]):
                    best = (self.scores[merged], index, merged)
            if best is None:
                return tokens
            _, index, merged = best
            tokens[index:index + 2] = [merged]

    def decode_piece(self, previous: int, token: int) -> bytes:
        """Bytes that a token adds to the text after the token ``previous``.

        Raises
        ------
        TritloomError: the token is outside the vocabulary.
        """
        if not 0 <= token < len(self.pieces):
            raise TritloomError(f"token {token} is outside the vocabulary of {len(self.pieces)}")
        piece = self.pieces[token]
        if previous == self.bos and piece.startswith(b" "):
            piece = piece[1:]
        if match := _SCANNED_BYTE.match(piece):
            return bytes([int(match[1], 16)])
        return piece

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of a token sequence; a leading BOS adds nothing."""
        text = TextStream(self)
        return "".join(text.feed(token) for token in tokens) + text.finish()


class TextStream:
    """Turns tokens into printable text as they come.

    Bytes of an unfinished UTF-8 character wait for the rest. Control characters other than white space are dropped,
    as a model must not be able to send escape sequences to a terminal. A BOS inside the text starts a new paragraph, or
    with a vocabulary of characters a new line.

    Parameters
    ----------
    tokenizer : the vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._previous = tokenizer.bos
        self._started = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """Text that became complete with this token."""
        if token == self._tokenizer.bos:
            text = self._decoder.decode(b"", final=True) + (self._tokenizer.gap if self._started else "")
            self._decoder.reset()
        else:
            text = self._decoder.decode(self._tokenizer.decode_piece(self._previous, token))
            self._started = True
        self._previous = token
        return _printable(text)

    def finish(self) -> str:
        """Text of whatever bytes still waited."""
        return _printable(self._decoder.decode(b"", final=True))


def _characters(raw: bytes) -> Iterable[bytes]:
    """UTF-8 characters, cut as llama2.c cuts them: a lead byte and at most three continuation bytes."""
    start = 0
    for end in range(1, len(raw) + 1):
        whole = end == len(raw) or raw[end] & 0xC0 != 0x80
        if whole or end - start == MAX_CHARACTER_BYTES:
            yield raw[start:end]
            start = end


def _printable(text: str) -> str:
    return "".join(character for character in text
                   if character in "\n\t" or not unicodedata.category(character).startswith("C"))
