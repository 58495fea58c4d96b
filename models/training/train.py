"""Train the student: ``python -m models.training.train --minutes 60``.

The training target of each position mixes the true next token with the teacher's distribution;
a share of the windows comes from stories that the teacher sampled. The learning rate warms up, then
falls to zero at the end of the budget, counted in steps (reproducible) or in minutes (ends on time on
any machine). Weights may be floats at first and be quantised by and by.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from torch import Tensor

from host.errors import TritloomError
from models.training import data as corpora
from models.training.corpus import Corpus
from models.training.data import Tokenizer, Vocabulary
from models.training.options import Options
from models.training.run import Run, save_whole
from models.training.step import Step, TargetLoss
from models.training.student import SHAPES
from models.training.teacher import Teacher, sampled_stories, soft_targets
from models.training.trial import Trial

ROOT = Path(__file__).resolve().parents[2]
SAMPLED_LENGTH = 512


def prepared(teacher: Teacher, data: Path, work: Path, options: Options, vocabulary: Vocabulary, progress: Progress
             ) -> tuple[Corpus, Corpus]:
    """The training text and the teacher's stories with what it expects; where that takes minutes, kept in ``work``."""
    def kept(name: str, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        path = work / name
        if teacher.device.type == "cuda":
            return make()
        if path.exists():
            return torch.load(path, mmap=True)
        made = make()
        save_whole(made, path)
        return made

    def read() -> tuple[Tensor, Tensor]:
        tokenizer = Tokenizer(data / corpora.TOKENIZER_FILE)
        tokens = corpora.token_stream(tokenizer, corpora.training_stories(data))
        stream = torch.from_numpy(tokens.astype(np.int16)).to(teacher.device)
        task = progress.add_task("teacher reads the text", total=len(tokens) // (teacher.context // 2))
        return stream, soft_targets(teacher, stream, lambda n: progress.advance(task, n))

    def write() -> tuple[Tensor, Tensor]:
        task = progress.add_task("teacher writes stories", total=SAMPLED_LENGTH * options.sampled_streams)
        return sampled_stories(
            teacher, options.sampled_streams, SAMPLED_LENGTH, options.sampled_seed, lambda n: progress.advance(task, n))

    sampled = kept(f"sampled-{options.sampled_streams}-{options.sampled_seed}.pt", write)
    return Corpus(*kept("text.pt", read), options.label_share, vocabulary), Corpus(*sampled, 0.0, vocabulary)


def train(run: Run, step: Step, texts: tuple[Corpus, Corpus], trial: Trial, publish: Callable[[], None], *,
          export_every: float, report_every: int, progress: Progress) -> None:
    """Take steps until the budget is used.

    Parameters
    ----------
    publish : saves the run and publishes its model, every ``export_every`` minutes and at the end.
    report_every : steps between points of the loss curve.
    """
    task = progress.add_task("training", total=1.0)
    started, last_export, losses = time.monotonic() - run.seconds, run.seconds, []
    while run.options.progress(run.step, run.seconds) < 1.0:
        losses.append(run.advance(step, *texts))
        run.seconds = time.monotonic() - started
        share = run.options.progress(run.step, run.seconds)
        progress.update(task, completed=share, description=f"step {run.step} loss {losses[-1]:.3f}")
        if run.step == 1 or run.step % report_every == 0 or share == 1.0:
            seen = {"step": run.step, "seconds": round(run.seconds), "train": round(float(np.mean(losses)), 4),
                    "held_out": trial.monitored(run.average.model)}
            run.curve.append(seen)
            losses = []
            progress.console.log(f"{seen} {run.tokens / run.seconds:.0f} tokens/s {share:.1%}")
        if run.seconds - last_export > 60 * export_every and share < 1.0:
            last_export = run.seconds
            publish()
    publish()


def main(
    shape: Annotated[str, typer.Option(help=f"Which model: {' or '.join(SHAPES)}.")] = Options.shape,
    minutes: Annotated[float, typer.Option(help="Budget by the clock; ignored when --steps is given.")] = 60.0,
    steps: Annotated[int, typer.Option(help="Budget in optimiser steps, for a reproducible run.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of initial weights and batches.")] = 1,
    data: Annotated[Path, typer.Option(help="Folder with the corpora and the teacher.")] = ROOT.parent / "shared/data",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the published model.", show_default="models/SHAPE[-sparse]")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for soft targets and the resumable state.", show_default="build/training"),
    ] = None,
    export_every: Annotated[float, typer.Option(help="Minutes between published checkpoints.")] = 10.0,
    report_every: Annotated[int, typer.Option(help="Steps between points of the loss curve.")] = 100,
    resume: Annotated[bool, typer.Option(help="Continue from the state in the work folder, with its options.")] = False,
    compiled: Annotated[bool, typer.Option(help="Use torch.compile (needs a C++ compiler).")] = True,
    threads: Annotated[int, typer.Option(help="Threads of the tensor library.")] = 1,
    windows: Annotated[int, typer.Option(help="Windows of the context's length in a step.")] = Options.windows,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda for an accelerator.", show_default="cuda if there is one")
    ] = "cuda" if torch.cuda.is_available() else "cpu",
    matrix_lr: Annotated[float, typer.Option(help="Peak learning rate of the matrices.")] = Options.matrix_lr,
    matrix_decay: Annotated[float, typer.Option(help="Decay of the matrices.")] = Options.matrix_decay,
    adam: Annotated[
        bool, typer.Option("--adam", help="Adam for the matrices too, in place of Muon; takes far lower rates.")
    ] = Options.adam,
    span: Annotated[
        float, typer.Option(help="Share of the run whose weights make most of the published average.", min=0, max=1)
    ] = Options.span,
    descent: Annotated[float, typer.Option(help="Power of the way down of all rates; 1 is a straight line.", min=1)
                       ] = Options.descent,
    float_share: Annotated[
        float, typer.Option(help="Share of the run until weights are quantised: floats, then ever less so.",
                            min=0, max=0.9)
    ] = Options.float_share,
    settle_share: Annotated[
        float, typer.Option(help="Share of the run at its end in which integers are decided for good, one after the "
                                 "other.", min=0, max=1)
    ] = Options.settle_share,
    embed_lr: Annotated[float, typer.Option(help="Peak learning rate of the embedding (Adam).")] = Options.embed_lr,
    head_lr: Annotated[float, typer.Option(help="Peak learning rate of the head (Adam).")] = Options.head_lr,
    label_share: Annotated[float, typer.Option(help="Weight of the true tokens.")] = Options.label_share,
    sampled_share: Annotated[float, typer.Option(help="Share of sampled windows.")] = Options.sampled_share,
    sampled_streams: Annotated[
        int, typer.Option(help="Streams of 512 tokens that the teacher samples; 0.5 MB of memory each.")
    ] = Options.sampled_streams,
    sampled_seed: Annotated[int, typer.Option(help="Seed of what the teacher samples.")] = Options.sampled_seed,
    start: Annotated[str, typer.Option(help="Folder of a published model of this shape to train on from.")] = "",
    sparse: Annotated[bool, typer.Option(help="One zero in each four weights: the 3:4-sparse twin.")] = False,
) -> None:
    """Train the ternary student and publish it."""
    torch.set_num_threads(threads)
    if shape not in SHAPES:
        raise typer.BadParameter(f"there is no model {shape!r}; choose {', '.join(SHAPES)}")
    if sparse and settle_share:
        raise typer.BadParameter("--settle-share decides one integer at a time, and --sparse has groups of four that "
                                 "belong together; leave out one of the two")
    name = f"{shape}-sparse" if sparse else shape
    out, work = out or ROOT / f"models/{name}", work or ROOT / "build/training"
    work.mkdir(parents=True, exist_ok=True)
    state = work / f"{name}.pt"
    options = Options(
        shape=shape, seed=seed, steps=steps, minutes=minutes, windows=windows,
        matrix_lr=matrix_lr, matrix_decay=matrix_decay, adam=adam, span=span, descent=descent,
        float_share=float_share, settle_share=settle_share, embed_lr=embed_lr, head_lr=head_lr,
        label_share=label_share, sampled_share=sampled_share,
        sampled_streams=sampled_streams, sampled_seed=sampled_seed, start=start, sparse=sparse,
    )  # fmt: skip
    place = torch.device(device)
    if resume and not state.exists():
        raise typer.BadParameter(f"there is no state {state} to resume from")
    try:
        run = Run.resume(state, place) if resume else Run(options, place)
        teacher = Teacher(data / corpora.TEACHER_FILE, place)
        trial = Trial(data, teacher, run.model.config)
    except (OSError, ValueError, TritloomError) as error:
        raise typer.BadParameter(f"cannot begin: {error}") from error
    loss: Any = TargetLoss(run.model)
    console = Console()

    def publish() -> None:
        run.save(state)
        console.log(f"held-out loss {trial.publish(run, out)}, teacher {trial.teacher_nats}")

    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress:
        train(run, Step(torch.compile(loss) if compiled else loss, run.optimisers),
              prepared(teacher, data, work, run.options, trial.vocabulary, progress), trial, publish,
              export_every=export_every, report_every=report_every, progress=progress)


if __name__ == "__main__":
    typer.run(main)
