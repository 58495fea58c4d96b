"""Gains of norms as rows of the embedding memory: integers of a few digits, with one scale each."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from host.checkpoint import Checkpoint
from host.errors import TritloomError
from rtl.config import Config

GAIN_PLANES = 6                 # least trit planes of a gain: an error of at most 1/728 of the largest gain of its norm
GAIN_PEAK = 65000               # of gains in vector memory: 16 bits, so that a product loses no bit of the other factor


@dataclass(frozen=True)
class Gain:
    """The gain of one norm.

    Parameters
    ----------
    rows : first row of each digit in the embedding memory, most significant first; none if all gains are equal.
    largest : magnitude of the largest gain.
    """

    rows: tuple[int, ...]
    largest: float


def gain_digits(config: Config) -> int:
    """Digits of a gain; a digit is as wide as an element of the embedding."""
    return ceil(GAIN_PLANES / config.embed_planes)


def gain_beats(checkpoint: Checkpoint, config: Config) -> int:
    """Beats of the longest vector that is multiplied by gains; 0 if none is."""
    queries = ceil(checkpoint.shape.kv_heads / config.word_heads) * config.word_beats * config.query_groups
    by_query = checkpoint.shape.mixer == "attention"
    return max((queries if by_query and name.endswith(".o") else ceil(gain.size / config.lanes)
                for name, gain in checkpoint.gains.items() if not _is_uniform(gain)), default=0)


class GainTable:
    """The gains of a model, placed.

    Parameters
    ----------
    checkpoint : the model.
    config : the accelerator.
    by_query : puts what the output projection reads in the order in which the attention unit writes it.

    Members
    -------
    gains : by the name of what reads the norm, see `Checkpoint`.
    rows : integers [rows, embed_beats * lanes] that follow those of the vocabulary.

    Raises
    ------
    TritloomError: they need more rows than the configuration has.
    """

    def __init__(self, checkpoint: Checkpoint, config: Config, by_query: Callable[[np.ndarray], np.ndarray]) -> None:
        self.gains: dict[str, Gain] = {}
        width, digits = config.embed_beats * config.lanes, gain_digits(config)
        level = 3**config.embed_planes
        found: list[np.ndarray] = []
        count = 0
        for name, gain in checkpoint.gains.items():
            largest = float(np.abs(gain).max())
            if _is_uniform(gain):
                self.gains[name] = Gain((), largest)
                continue
            gain = by_query(gain) if name.endswith(".o") else gain
            integers = np.rint(gain / largest * (level**digits // 2)).astype(np.int64)
            starts = []
            for digit in range(digits - 1, -1, -1):
                part = (integers + level**digits // 2) // level**digit % level - level // 2
                padded = np.pad(part, (0, -len(part) % width)).reshape(-1, width)
                starts.append(config.vocab + count)
                count += len(padded)
                found.append(padded)
            self.gains[name] = Gain(tuple(starts), largest)
        if count > config.gain_rows:
            raise TritloomError(f"the gains of {checkpoint.name}'s norms need {count} rows of the embedding memory, "
                                f"{config.name} has {config.gain_rows}; use a configuration with more")
        empty = np.zeros((config.gain_rows - count, width), np.int64)
        self.rows = np.concatenate([*found, empty])


def _is_uniform(gain: np.ndarray) -> bool:
    return bool((gain == gain[0]).all() and gain[0] > 0)
