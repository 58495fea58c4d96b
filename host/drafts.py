"""Learned drafts: what usually follows which tokens, from a file beside a model, as the table of the drafter."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from host.errors import TritloomError
from host.safetensors_files import read_safetensors_file
from rtl.config import DRAFT_TAG_BITS, DRAFT_TOKENS, DRAFT_WAYS, Config
from sim.drafter import context_key, split_key

DRAFTS_FILE = "drafts.safetensors"
MAX_CONTEXTS = 1 << 16
TENSORS = {"contexts": "U16", "lengths": "U8", "drafts": "U16"}
DTYPES = {"U16": "<u2", "U8": "u1"}

Drafts = Mapping[tuple[int, ...], int]      # the token after a context, whose latest token comes first; best first


def read_drafts(path: Path, vocab: int) -> Drafts:
    """The contexts in a file: ``contexts`` [n, DRAFT_TOKENS], their ``lengths`` [n] and ``drafts`` [n].

    Raises
    ------
    TritloomError: the file is damaged, or is not of a model with that vocabulary.
    """
    entries = read_safetensors_file(path)
    if {name: entry.dtype for name, entry in entries.items()} != TENSORS:
        raise TritloomError(f"{path}: does not hold exactly {', '.join(TENSORS)}; train the drafts again")
    count = entries["lengths"].shape[0] if entries["lengths"].shape else 0
    shapes = {"contexts": (count, DRAFT_TOKENS), "lengths": (count,), "drafts": (count,)}
    if {name: entry.shape for name, entry in entries.items()} != shapes or count > MAX_CONTEXTS:
        raise TritloomError(f"{path}: shapes of its tensors contradict each other; train the drafts again")
    contexts, lengths, drafts = (
        np.frombuffer(bytes(entries[name].read()), DTYPES[dtype]).reshape(shapes[name])
        for name, dtype in TENSORS.items())
    if count and (max(contexts.max(), drafts.max()) >= vocab or lengths.min() < 1 or lengths.max() > DRAFT_TOKENS):
        raise TritloomError(f"{path}: holds tokens or lengths beyond the vocabulary of {vocab} and {DRAFT_TOKENS} "
                            "tokens; train the drafts again")
    return {tuple(context[:length]): draft for context, length, draft in
            zip(contexts.tolist(), lengths.tolist(), drafts.tolist(), strict=True)}


def draft_table(config: Config, drafts: Drafts) -> np.ndarray:
    """uint32 [draft_sets, DRAFT_WAYS]: as many contexts as find room, the best first.

    A word is ``tag << token_bits | token``. A word of zeros drafts token 0 after the few contexts whose tag is zero,
    which costs nothing: the slot would be idle.
    """
    table = np.zeros((config.draft_sets, DRAFT_WAYS), np.uint32)
    sets: list[dict[int, int]] = [{} for _ in range(config.draft_sets)]
    for context, token in drafts.items():
        place, tag = split_key(context_key(context), config.draft_sets, DRAFT_TAG_BITS)
        if len(sets[place]) < DRAFT_WAYS:
            sets[place].setdefault(tag, tag << config.token_bits | token)
    for place, words in enumerate(sets):
        table[place, : len(words)] = list(words.values())
    return table
