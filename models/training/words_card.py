"""The card of the model of words, written from its training record and the published files."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import torch

from models.training.student import Student
from models.training.words import LETTERS, SEPARATOR

SAMPLES, SAMPLES_JUDGED, LINE = 32, 1000, 110
SEED = 1
TEMPERATURE = 0.8

CARD = """# words4k

A language model with {parameters:,} weights that writes words letter by letter: size and task of microGPT, with ternary
weights. The projections are one trit plane, the embedding three (integers -13..13), the output head two (integers
-4..4), with one float scale per tensor. The checkpoint is {bytes:,} bytes.

## Shape

One layer, hidden size 16, 4 heads of 4, feed-forward 48 with squared-ReLU gate, vocabulary 27 (token 0 separates words,
1 to 26 are the letters), context 16, rotary embedding, RMS norm without gain, untied head, no biases. The quantisers
are those of `models/stories1m` and were in the loop during training.

| | microGPT | words4k |
|---|---|---|
| embedding and head | 2 x 27 x 16 = 864 | 864 |
| positions | 16 x 16 = 256, learned | 0, rotary |
| queries, keys, values, output | 4 x 16 x 16 = 1,024 | 1,024 |
| feed-forward | 2 x 16 x 64 = 2,048 | 3 x 16 x 48 = 2,304, with a gate |
| together | 4,192 | {parameters:,} |

## Held-out loss

| Predictor | Parameters | Nats per character |
|---|---|---|
| words4k (float arithmetic on the published integers) | {parameters:,} | {model:.4f} |
| every token alike | 0 | {uniform:.4f} |
| frequency of letters | 27 | {letters:.4f} |
| frequency of pairs, each counted once more than seen | 729 | {pairs:.4f} |
| frequency of triples, starting from that of pairs | 19,683 | {triples:.4f} |

Over {held_out:,} words that training left out ({train:,} were trained on), each from an empty context to the separator
after it. On the words of the training the model has {model_on_training_words:.4f}: it is too small to learn them by
heart.

## Samples

Temperature {temperature}, the first {count} of seed {seed}:

> {samples}

Of {judged:,} such words {known:.0%} are words of the stories, {new:.0%} are not.

    tritloom run --sim --model models/words4k --temperature {temperature} --slide -n 64

## Data and training

The {both:,} distinct words of 3 to 12 letters of the TinyStories text that `models/stories1m` was trained and judged
on, without the parts of words with an apostrophe, each as often as any other; those whose CRC-32 is a multiple of ten
are held out. {steps:,} steps of {batch:,} characters, {seconds:.0f} seconds on a share of one CPU core. `training.json`
records every option, the hashes of the data and the versions used.

    scripts/train --words --data FOLDER --steps {steps}

## Limits

It invents words that look English, and knows nothing of what they mean; one of them may be rude.

## Licences

- Words: TinyStories (Eldan and Li), CDLA-Sharing-1.0. The text is not part of the checkpoint.
- The checkpoint and `tokenizer.bin`: Apache-2.0, as the rest of the project.
"""


@torch.no_grad()
def sample(model: Student, count: int) -> list[str]:
    """Words, cut where the context ends."""
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.full((count, 1), SEPARATOR)
    for _ in range(model.config.context):
        logits = model(tokens).view(count, tokens.shape[1], -1)[:, -1]
        chosen = torch.multinomial((logits / TEMPERATURE).softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, chosen], 1)
    alphabet = " " + LETTERS
    return ["".join(alphabet[token] for token in row).split(" ")[0] for row in tokens[:, 1:].tolist()]


def write_card(record: dict[str, Any], model: Student, known: set[str], path: Path) -> None:
    """The card beside the checkpoint: numbers from the record, samples from the model."""
    options, counts = record["options"], record["words"]
    samples = sample(model, SAMPLES_JUDGED)
    share = sum(word in known for word in samples) / SAMPLES_JUDGED
    shown = "\n> ".join(textwrap.wrap(" ".join(samples[:SAMPLES]), LINE))
    path.write_text(CARD.format(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=(path.parent / "model.safetensors").stat().st_size,
        **record["nats_per_character"], **counts, both=sum(counts.values()),
        temperature=TEMPERATURE, count=SAMPLES, seed=SEED, samples=shown, judged=SAMPLES_JUDGED,
        known=share, new=1 - share, steps=options["steps"], batch=options["windows"] * model.config.context,
        seconds=record["training_seconds"],
    ))
