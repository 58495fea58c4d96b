"""Which tokens each pass over the program takes, and which of its samples count: what `rtl.token_loop` does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rtl.isa import JOINT, Op, Opcode


class Guesser(Protocol):
    """What proposes drafts, such as `sim.drafter.Drafter`."""

    def begin(self) -> None:
        """Forget the text."""

    def push(self, token: int) -> None:
        """The next token of the text."""

    def draft(self) -> int | None:
        """A guess at what follows the text and the guesses since the last push."""


@dataclass(frozen=True)
class Pass:
    """Tokens that share one pass over the program, one per slot.

    Parameters
    ----------
    tokens : the inputs.
    position : of the first.
    known : how many are of the prompt, or sampled before; the others are drafts.
    reads : more of the prompt follows, so the pass ends before the head and nothing is sampled; never where passes have
        one slot, which sample after each token of the prompt.
    """

    tokens: tuple[int, ...]
    position: int
    known: int
    reads: bool

    def samples(self, slot: int) -> bool:
        """Whether the sampler works for a slot: not where the next token is known."""
        return not self.reads and slot >= self.known - 1

    def operations(self, program: Sequence[Op]) -> Iterator[tuple[int, Op, int]]:
        """(index, operation, slot) in the order of issue, up to what ends the pass; slot 0 where all are served.

        A SAMPLE that no slot needs is among them: it takes its turn and does nothing.
        """
        section: list[tuple[int, Op]] = []
        for index, op in enumerate(program):
            if op.opcode not in JOINT:
                section.append((index, op))
                continue
            for slot in range(len(self.tokens)):
                yield from ((at, done, slot) for at, done in section)
            section = []
            yield index, op, 0
            if op.opcode == Opcode.END or op.opcode == Opcode.SECTION and op.reads and self.reads:
                return


@dataclass(frozen=True)
class Record:
    """What follows one input: ``token`` at ``position`` plus one."""

    token: int
    position: int


class TokenLoop:
    """The passes of one run.

    Parameters
    ----------
    slots : most tokens of a pass.
    context : positions there are.
    prompt : given tokens.
    tokens : inputs of the run, those of the prompt among them.
    position : of the first input.
    drafter : proposes tokens for slots that no known token fills; None leaves them idle.
    """

    def __init__(self, *, slots: int, context: int, prompt: Sequence[int], tokens: int, position: int = 0,
                 drafter: Guesser | None = None) -> None:
        self._slots, self._context, self._drafter = slots, context, drafter
        self._prompt, self._left, self._position = list(prompt), tokens, position
        self._last = 0
        if drafter:
            drafter.begin()

    def begin(self) -> Pass | None:
        """The next pass; None after the last."""
        room = min(self._slots, self._left, self._context - self._position)
        if room <= 0:
            return None
        tokens, self._prompt = self._prompt[:room], self._prompt[room:]
        for token in tokens if self._drafter else ():
            self._drafter.push(token)
        tokens = tokens or [self._last]
        known, reads = len(tokens), bool(self._prompt) and room == self._slots > 1
        while self._drafter and len(tokens) < room:
            guess = self._drafter.draft()
            if guess is None:
                break
            tokens.append(guess)
        return Pass(tuple(tokens), self._position, known, reads)

    def end(self, done: Pass, sampled: Sequence[int]) -> list[Record]:
        """The records that a pass leaves, whose samples (one per slot, any value where there is none) are these."""
        records: list[Record] = []
        for slot in range(len(done.tokens)):
            if slot + 1 < done.known:
                follows = done.tokens[slot + 1]
            elif done.reads:
                follows = self._prompt[0]
            else:
                follows = sampled[slot]
            records.append(Record(follows, done.position + slot))
            if self._drafter and not done.reads and slot + 1 >= done.known:
                self._drafter.push(follows)
            if slot + 1 < len(done.tokens) and done.tokens[slot + 1] != follows:
                break
        self._last = records[-1].token
        self._left -= len(records)
        self._position += len(records)
        return records
