"""The model card and the loss curve plot, both written from the training record alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from safetensors import safe_open

from host.drafts import DRAFTS_FILE
from models.training.data import Tokenizer, sha256
from models.training.evaluate import sample_texts
from models.training.export import load
from models.training.options import Options
from models.training.student import StudentConfig

RECORD_FILE = "loss_curve.json"

CARD = """# {name}

A language model with {parameters:,} weights that tells short children's stories in English. Every
weight is ternary: the projections are one trit plane, the embedding three (integers -13..13), the
output head two (integers -4..4), with one float scale per tensor. The checkpoint is
{kilobytes} kB.

## Shape

{layers} layers, hidden size {hidden}, {heads} query heads and {kv_heads} key-value heads of {head_dim}, feed-forward
{ff} with squared-ReLU gate, vocabulary {vocab}, context {context}, rotary embedding on interleaved pairs,
RMS norm without gain, untied head, no biases.{residual} {weights},
int8 absmax activations per token, `y = dot * weight_scale / act_scale`. Keys and values are int8
with one power-of-two exponent per token, queries with one per pair of heads {{g, 2+g}}. All of these
quantisers were in the loop during training.{float_share}

## Held-out loss

| Model | Nats per token |
|---|---|
| {name} (this checkpoint, float arithmetic on the published integers) | {student:.4f} |
| stories260K (fp32 teacher) | {teacher:.4f} |

Both by one procedure, over the first {tokens:,} tokens of held-out TinyStories text: stories split at
their usual openings, each encoded with BOS and a leading space, concatenated, cut into consecutive
windows of {context} tokens that are judged without context from before the window. The curve below
uses other held-out tokens, after the first {tokens:,}.

![Loss curve](loss_curve.png)

## Samples

{samples}

## Data and training

Trained for {steps:,} steps of {batch:,} tokens ({seen:.1f} million tokens, {minutes:.0f} minutes on
{device}) with {optimisers}.{average}{settled}{start}{note} The text is 4,041 TinyStories (1.71 million
tokens). The target of each position is {label:.0%} true next token and {soft:.0%} distribution of the
teacher; {sampled:.0%} of the windows come from stories that the teacher sampled at temperature 1, where
the teacher's distribution is the whole target. `loss_curve.json` records every option, the
hashes of the data and the versions used.

To retrain, put the data files into a folder and run, from the root of the repository:

    scripts/train --data FOLDER --minutes {minutes:.0f}{further}

`--steps {steps}` in place of `--minutes` makes the schedule independent of the machine's speed.

{drafts}## Limits

Stories of a few paragraphs in the vocabulary of a small child, and often without sense; nothing else.
It has no notion of facts and no safety tuning.

## Licences

- Training and held-out text: TinyStories (Eldan and Li), CDLA-Sharing-1.0.
- Teacher stories260K and the tokenizer `tokenizer.bin`: Andrej Karpathy's tinyllamas and llama2.c,
  MIT; the notice is in `LICENSE.llama2.c-MIT.txt`.
- The checkpoint: Apache-2.0, as the rest of the project.
"""


DRAFTS = """## Drafts

`drafts.safetensors` lists contexts of one to four tokens, most useful first, and the token that this model
finds likeliest after each at temperature 0.8, summed over training text that it read. Accelerators with
a drafter guess by them. They belong to these weights: `scripts/train --drafts --data FOLDER` makes them
again.

"""
TERNARY = "Projections are BitNet b1.58: absmean trits"
SPARSE = """Projections are 3:4-sparse trits:
exactly one in each four weights of a row is zero, which leaves 32 ways and so takes five bits. The same
holds for both planes of the head. Each group drops what is smallest. Tensors have one scale each"""
PARALLEL = " Attention and feed-forward\nread the same norm, and both add to the residual stream."
WINDOWS = " Attention of the layers sees the last {windows}\npositions{none}."
NO_ATTENTION = "; 0 is a layer of\nfeed-forward only"
GROUPS = " The feed-forward of the layers is quantised in {groups} groups of {size}{none}."
NO_FEED_FORWARD = "; 0 is a layer of attention only"
SETTLED = """ In the last {share:.0%} of the run its
integers were decided for good, those that flipped most at last."""
FLOAT_SHARE = """ Those of the weights came by and by: in the first {half:.0%} of the run
weights were floats, and until {whole:.0%} ever less so."""
MUON, ADAM = "Muon on the matrices and Adam on embedding and head", "Adam"
AVERAGE = "\nThe weights are averages, mostly of the last {span:.0%} of the run, quantised."
STARTED = " It started from the checkpoint that lay in\n`{start}` at the commit that `loss_curve.json` names."
# Options that the card's command names where they are not the default.
FURTHER = {option: getattr(Options, option) for option in (
    "shape", "windows", "matrix_lr", "matrix_decay", "adam", "span", "descent", "float_share", "settle_share",
    "embed_lr", "head_lr",
    "label_share", "sampled_share", "sampled_streams", "sampled_seed", "start", "sparse")}


def residual(config: StudentConfig) -> str:
    """What is said of layers that are not plain decoder layers."""
    said = PARALLEL if config.parallel_residual else ""
    if config.attention_windows:
        said += WINDOWS.format(windows=", ".join(map(str, config.attention_windows)),
                               none=NO_ATTENTION if 0 in config.attention_windows else "")
    if config.feed_groups:
        said += GROUPS.format(groups=", ".join(map(str, config.feed_groups)),
                              size=config.intermediate_size // max(config.feed_groups),
                              none=NO_FEED_FORWARD if 0 in config.feed_groups else "")
    return said


def has_own_drafts(folder: Path) -> bool:
    """Whether there are drafts beside a model, and they are of these weights."""
    if not (folder / DRAFTS_FILE).exists():
        return False
    with safe_open(folder / DRAFTS_FILE, "numpy") as drafts:
        return drafts.metadata()["model_sha256"] == sha256(folder / "model.safetensors")


def write_plot(record: dict[str, Any], path: Path) -> None:
    """Training target and held-out loss over tokens seen."""
    curve = record["curve"]
    per_step = record["tokens_seen"] / max(1, record["steps_done"]) / 1e6
    seen = [point["step"] * per_step for point in curve]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(seen, [point["train"] for point in curve], label="training target (true and teacher mixed)")
    axes.plot(seen, [point["held_out"] for point in curve], label="held-out")
    teacher = record["held_out"]["teacher_nats_per_token"]
    axes.axhline(teacher, linestyle=":", color="grey", label="fp32 teacher, held-out")
    axes.set(xlabel="million tokens", ylabel="nats per token")
    axes.set_ylim(top=min(3.0, axes.get_ylim()[1]))
    axes.set_title(f"{path.parent.name}, seed {record['options']['seed']}")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write_card(folder: Path) -> None:
    """The card of a checkpoint beside it: numbers from its record, samples from the model."""
    record, model, path = json.loads((folder / RECORD_FILE).read_text()), load(folder), folder / "README.md"
    tokenizer = Tokenizer(folder / "tokenizer.bin")
    config, options = model.config, record["options"]
    samples = (
        f"{title}:\n\n" + "\n".join(f"> {line}" for line in text.splitlines())
        for title, text in sample_texts(model, tokenizer).items()
    )
    name = folder.name
    chosen = {option: options.get(option, default) for option, default in FURTHER.items()}
    chosen["windows"] *= options.get("accumulate", 1)      # earlier records are of steps in several parts
    further = [f" --{option.replace('_', '-')}" + ("" if value is True else f" {value}")
               for option, value in chosen.items() if value != FURTHER[option]]
    card = CARD.format(
        name=name,
        weights=SPARSE if config.sparse else TERNARY,
        drafts=DRAFTS if has_own_drafts(folder) else "",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        kilobytes=round((folder / "model.safetensors").stat().st_size / 1000),
        layers=config.num_layers,
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        ff=config.intermediate_size,
        vocab=config.vocab_size,
        context=config.context,
        student=record["held_out"]["student_nats_per_token"],
        teacher=record["held_out"]["teacher_nats_per_token"],
        tokens=record["held_out"]["tokens"],
        samples="\n\n".join(samples),
        steps=record["steps_done"],
        batch=record["tokens_seen"] // max(1, record["steps_done"]),
        seen=record["tokens_seen"] / 1e6,
        minutes=record["training_seconds"] / 60,
        device=record.get("device", "a share of one CPU core"),
        label=options["label_share"],
        soft=1 - options["label_share"],
        sampled=options["sampled_share"],
        residual=residual(config),
        float_share=FLOAT_SHARE.format(half=share / 2, whole=share) if (share := options.get("float_share")) else "",
        optimisers=ADAM if options.get("adam") else MUON,
        average=AVERAGE.format(span=options["span"]) if options.get("span") else "",
        settled=SETTLED.format(share=share) if (share := options.get("settle_share")) else "",
        start=STARTED.format(start=options["start"]) if options.get("start") else "",
        note="\n" + record["note"] if "note" in record else "",
        further="".join(further),
    )
    path.write_text(card)
