"""Which contexts a drafter should know: those after which it would guess wrong without them, most often."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BASE = 1 << 16             # of the digits of a context as a number; the latest token is the lowest


@dataclass(frozen=True)
class Counts:
    """How likely which tokens are after each context of one length, summed over a text.

    Members
    -------
    pairs : uint64 [n], ascending numbers of a context and its row: ``context * vocab + token`` with contexts counted.
    sums : float64 [n].
    contexts : uint64 [m], ascending.
    best : int64 [m] the likeliest token of each context, and ``best_sums`` [m] its sum.
    """

    vocab: int
    pairs: np.ndarray
    sums: np.ndarray
    contexts: np.ndarray
    best: np.ndarray
    best_sums: np.ndarray

    def sums_of(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Sums of a token in each of some rows of ``contexts``; 0 where it never followed, or where it is negative."""
        wanted = rows * self.vocab + np.maximum(tokens, 0)
        at = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        return np.where((self.pairs[at] == wanted) & (tokens >= 0), self.sums[at], 0.0)


def contexts_of(tokens: np.ndarray, length: int) -> np.ndarray:
    """The context of ``length`` tokens that ends at each position, as a number; zeros stand before the first."""
    padded = np.concatenate([np.zeros(length - 1, np.uint64), tokens.astype(np.uint64)])
    numbers = np.zeros(len(tokens), np.uint64)
    for age in range(length):
        numbers += padded[length - 1 - age : len(padded) - age] * np.uint64(BASE**age)
    return numbers


def count(tokens: np.ndarray, ids: np.ndarray, weights: np.ndarray, length: int, vocab: int) -> Counts:
    """Counts of contexts of one length.

    Parameters
    ----------
    tokens : [n] of a text.
    ids, weights : [n, k] likely tokens after each position, and how likely they are.
    """
    contexts, rows = np.unique(contexts_of(tokens, length), return_inverse=True)
    pairs, index = np.unique((rows[:, None] * vocab + ids).ravel(), return_inverse=True)
    sums = np.bincount(index, weights=weights.ravel())
    order = np.lexsort((-sums, pairs // vocab))
    first = order[np.searchsorted(pairs[order] // vocab, np.arange(len(contexts)))]
    return Counts(vocab, pairs, sums, contexts, pairs[first] % vocab, sums[first])


def choose(counts: list[Counts], limit: int, rounds: int = 4) -> list[tuple[tuple[int, ...], int]]:
    """The ``limit`` most useful contexts, latest token first, and the token after each; most useful first.

    A context is worth how much likelier its best token is than the one that would be guessed without it, which is that
    of the longest chosen part of it. As that depends on the choice, it is made in rounds.

    Parameters
    ----------
    counts : of contexts of 1, 2, ... tokens.
    """
    chosen = [np.ones(len(c.contexts), bool) for c in counts]
    for _ in range(rounds):
        worth = [c.best_sums - c.sums_of(np.arange(len(c.contexts)), _without(counts, chosen, index))
                 for index, c in enumerate(counts)]
        joined = np.concatenate(worth)
        order = np.argsort(-joined, kind="stable")[:limit]
        order = order[joined[order] > 0]
        flags = np.zeros(len(joined), bool)
        flags[order] = True
        starts = np.cumsum([0, *(len(w) for w in worth)])
        chosen = [flags[start:end] for start, end in zip(starts, starts[1:], strict=False)]
    lengths = np.searchsorted(starts, order, side="right")
    rows = order - starts[lengths - 1]
    return [(_digits(int(counts[length - 1].contexts[row]), length), int(counts[length - 1].best[row]))
            for length, row in zip(lengths.tolist(), rows.tolist(), strict=True)]


def _without(counts: list[Counts], chosen: list[np.ndarray], index: int) -> np.ndarray:
    """What would be guessed after each context of one length from shorter ones; -1 if nothing."""
    contexts = counts[index].contexts
    guesses = np.full(len(contexts), -1)
    for shorter in range(index):
        part = contexts % np.uint64(BASE ** (shorter + 1))
        rows = np.minimum(np.searchsorted(counts[shorter].contexts, part), len(counts[shorter].contexts) - 1)
        known = chosen[shorter][rows] & (counts[shorter].contexts[rows] == part)
        guesses = np.where(known, counts[shorter].best[rows], guesses)
    return guesses


def _digits(number: int, length: int) -> tuple[int, ...]:
    return tuple(number // BASE**age % BASE for age in range(length))
