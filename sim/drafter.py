"""Golden model of the drafter: guesses the tokens that follow a text, from the text itself and from a learned table."""

import zlib
from collections.abc import Sequence

import numpy as np

from host.errors import TritloomError
from host.image import Image
from rtl.config import DRAFT_TAG_BITS, DRAFT_TOKENS, RECENT_TAG_BITS, RECENT_TOKENS, Config
from rtl.csr_map import Speculation

TOKEN_BYTES = 2


def context_key(context: Sequence[int]) -> int:
    """32 bits that stand for the tokens before a position, the latest first: their CRC-32, two bytes each."""
    return zlib.crc32(b"".join(token.to_bytes(TOKEN_BYTES, "little") for token in context))


def split_key(key: int, places: int, tag_bits: int) -> tuple[int, int]:
    """Where in a memory of so many places a context belongs, and the tag that tells it from others there."""
    return key % places, key // places % (1 << tag_bits)


class Drafter:
    """Knows the text so far, and guesses how it goes on.

    The longest context that is known decides; of two equally long ones the text's own.

    Parameters
    ----------
    config : with ``draft_sets``.
    table : uint32 [draft_sets, DRAFT_WAYS] of ``tag << token_bits | token``; of equal tags the first way counts.
    uses_text, uses_table : where guesses come from.
    """

    def __init__(self, config: Config, table: np.ndarray, *, uses_text: bool = True, uses_table: bool = True) -> None:
        self._config = config
        self._sets = [[divmod(word, 1 << config.token_bits) for word in ways] for ways in table.tolist()]
        self._uses_text, self._uses_table = uses_text, uses_table
        self.begin()

    def begin(self) -> None:
        """Forget the text; zeros stand before it."""
        self._recent: dict[int, tuple[int, int]] = {}
        self._text = self._ahead = (0,) * DRAFT_TOKENS

    def push(self, token: int) -> None:
        """The next token of the text; drafts follow it from here on."""
        for length in RECENT_TOKENS:
            place, tag = self._recent_place(self._text[:length])
            self._recent[place] = tag, token
        self._text = self._ahead = (token, *self._text[:-1])

    def draft(self) -> int | None:
        """A guess at the token after the text and the drafts since the last push; None if nothing is known.

        The guess is part of the context of the next one, token 0 in place of None.
        """
        guess = next(filter(lambda found: found is not None, map(self._look_up, range(DRAFT_TOKENS, 0, -1))), None)
        self._ahead = (guess or 0, *self._ahead[:-1])
        return guess

    def _recent_place(self, context: Sequence[int]) -> tuple[int, int]:
        return split_key(context_key(context), self._config.recent_words, RECENT_TAG_BITS)

    def _look_up(self, length: int) -> int | None:
        """What followed the last tokens before."""
        context = self._ahead[:length]
        if self._uses_text and length in RECENT_TOKENS:
            place, tag = self._recent_place(context)
            found = self._recent.get(place)
            if found is not None and found[0] == tag:
                return found[1]
        if self._uses_table:
            place, tag = split_key(context_key(context), len(self._sets), DRAFT_TAG_BITS)
            return next((token for known, token in self._sets[place] if known == tag), None)
        return None


def drafter_of(image: Image, speculation: Speculation) -> Drafter | None:
    """The drafter that an image and a run come with; None if nobody fills slots with drafts.

    Raises
    ------
    TritloomError: the configuration has none.
    """
    if speculation == Speculation.OFF:
        return None
    if not image.config.draft_sets:
        raise TritloomError(f"{image.config.name} has no slots for drafts; leave out --speculate")
    return Drafter(image.config, image.sections["drafts"], uses_table=speculation == Speculation.DRAFT)
