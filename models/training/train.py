"""Train the student: ``python -m models.training.train --minutes 60``.

The training target of each position mixes the true next token with the teacher's distribution;
a share of the windows comes from stories that the teacher sampled. The learning rate warms up, then
falls to zero at the end of the budget, counted in steps (reproducible) or in minutes (ends on time on
any machine). Weights may be floats at first and be quantised by and by.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from torch import Tensor, nn

from models.training import data as corpora
from models.training.card import RECORD_FILE, write_card, write_plot
from models.training.corpus import Corpus
from models.training.data import Tokenizer
from models.training.evaluate import HELD_OUT_TOKENS, held_out_stream, mean_loss, student_loss, teacher_loss
from models.training.export import export, start_from
from models.training.optim import Average, StudentOptimisers
from models.training.options import Options
from models.training.settling import Settling
from models.training.step import Step
from models.training.student import SHAPES, Student, product_type
from models.training.teacher import Teacher, sampled_stories, soft_targets

ROOT = Path(__file__).resolve().parents[2]
MONITOR_WINDOWS = 48
SAMPLED_LENGTH = 512


def save_whole(value: object, path: Path) -> None:
    """Write a file that is replaced atomically: nobody finds a part of it."""
    partial = path.with_suffix(".part")
    torch.save(value, partial)
    partial.replace(path)


class Run:
    """A training run that can be saved and resumed."""

    def __init__(self, options: Options, device: torch.device) -> None:
        self.options, self.device = options, device
        torch.manual_seed(options.seed)
        self.model = Student(replace(SHAPES[options.shape], sparse=options.sparse))
        if options.start:
            start_from(self.model, Path(options.start))
        self.model.to(device)
        self.average = Average(self.model, options.span)        # what is published
        self.settling = Settling(self.model, self.average.model) if options.settle_share else None
        self.optimisers = StudentOptimisers(self.model, options)
        self.rng = np.random.default_rng(options.seed)
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict[str, float]] = []

    @property
    def tokens(self) -> int:
        """Training tokens seen."""
        return self.step * self.options.windows * self.model.config.context

    def save(self, path: Path) -> None:
        """Write the whole state."""
        state = {
            "options": asdict(self.options),
            "model": self.model.state_dict(),
            "averaged": self.average.model.state_dict(),
            "optimisers": self.optimisers.state(),
            "settling": self.settling.state() if self.settling else None,
            "rng": self.rng.bit_generator.state,
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
        }
        save_whole(state, path)

    @classmethod
    def resume(cls, path: Path, device: torch.device) -> Run:
        """Continue from a saved state, with its options.

        Raises
        ------
        ValueError: it was saved by another version of the trainer.
        """
        state = torch.load(path, weights_only=False, map_location=device)
        try:
            run = cls(Options(**state["options"]), device)
            run.model.load_state_dict(state["model"])
            run.average.model.load_state_dict(state["averaged"])
            run.optimisers.load_state(state["optimisers"])
            if run.settling:
                run.settling.load_state(state["settling"])
            run.rng.bit_generator.state = state["rng"]
            run.step, run.seconds, run.curve = state["step"], state["seconds"], state["curve"]
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} was saved by another version of the trainer; begin anew") from error
        return run

    def batch(self, text: Corpus, sampled: Corpus) -> tuple[Tensor, Tensor]:
        """Inputs [w, T] and targets [w*T, V] of one step."""
        o, config = self.options, self.model.config
        from_teacher = int(self.rng.binomial(o.windows, o.sampled_share))
        parts = [corpus.sample(self.rng, windows, config.context, o.opening_share)
                 for corpus, windows in ((text, o.windows - from_teacher), (sampled, from_teacher)) if windows]
        inputs, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        return inputs, targets.flatten(0, 1)

    def advance(self, step: Step, text: Corpus, sampled: Corpus) -> float:
        """Take one step; returns its loss."""
        progress = self.options.progress(self.step, self.seconds)
        self.model.quantise(self.options.quantised(progress))
        loss = step(*self.batch(text, sampled), progress)
        self.step += 1
        self.average.step(self.step)
        if self.settling:
            self.settling.step(self.options.settling(self.options.progress(self.step, self.seconds)))
        return loss


class TargetLoss(nn.Module):
    """Cross entropy of the student against dense targets."""

    def __init__(self, model: Student) -> None:
        super().__init__()
        self.model, self.dtype = model, product_type(model.cos.device)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """inputs [w, T], targets [w*T, V] -> scalar."""
        return nn.functional.cross_entropy(self.model(inputs, self.dtype), targets)


def prepared(teacher: Teacher, data: Path, work: Path, options: Options, progress: Progress) -> tuple[Corpus, Corpus]:
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
            teacher, options.sampled_streams, SAMPLED_LENGTH, 1, lambda n: progress.advance(task, n))

    sampled = kept(f"sampled-{options.sampled_streams}.pt", write)
    return Corpus(*kept("text.pt", read), options.label_share), Corpus(*sampled, 0.0)


def device_name(device: torch.device) -> str:
    """What trains, for the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU core"


def record(run: Run, data: Path, held_out: dict[str, Any]) -> dict[str, Any]:
    """What made the checkpoint: options, versions, data hashes, held-out losses and the loss curve."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = (corpora.TRAIN_FILE, corpora.HELD_OUT_FILE, corpora.TEACHER_FILE, corpora.TOKENIZER_FILE)
    return {
        "options": asdict(run.options),
        "steps_done": run.step,
        "tokens_seen": run.tokens,
        "training_seconds": round(run.seconds),
        "git_commit": head.stdout.strip() or None,
        "products": str(product_type(run.device)),
        "device": device_name(run.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "sha256": {name: corpora.sha256(data / name) for name in files},
        "held_out": held_out,
        "curve": run.curve,
    }


def publish(run: Run, data: Path, out: Path, held_out: np.ndarray, teacher: float) -> float:
    """Export the averaged student, judge the exported files, write the record, the plot and the card."""
    export(run.average.model, out, (data / corpora.TOKENIZER_FILE).read_bytes())
    student = student_loss(out, held_out, run.device)
    losses = {"tokens": HELD_OUT_TOKENS, "student_nats_per_token": student, "teacher_nats_per_token": teacher}
    written = record(run, data, losses)
    (out / RECORD_FILE).write_text(json.dumps(written, indent=1) + "\n")
    write_plot(written, out / "loss_curve.png")
    write_card(out)
    return student


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
        sampled_streams=sampled_streams, start=start, sparse=sparse,
    )  # fmt: skip
    place = torch.device(device)
    if resume and not state.exists():
        raise typer.BadParameter(f"there is no state {state} to resume from")
    try:
        run = Run.resume(state, place) if resume else Run(options, place)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot begin: {error}") from error
    held_out = held_out_stream(Tokenizer(data / corpora.TOKENIZER_FILE), data)
    monitor = held_out[HELD_OUT_TOKENS:][: MONITOR_WINDOWS * run.model.config.context + 1]
    teacher = Teacher(data / corpora.TEACHER_FILE, place)
    teacher_nats = teacher_loss(teacher, held_out, run.model.config.context)
    loss: Any = TargetLoss(run.model)
    step = Step(torch.compile(loss) if compiled else loss, run.optimisers)
    console = Console()
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress:
        text, sampled = prepared(teacher, data, work, run.options, progress)
        task = progress.add_task("training", total=1.0)
        started, last_export, losses = time.monotonic() - run.seconds, run.seconds, []
        while run.options.progress(run.step, run.seconds) < 1.0:
            losses.append(run.advance(step, text, sampled))
            run.seconds = time.monotonic() - started
            share = run.options.progress(run.step, run.seconds)
            progress.update(task, completed=share, description=f"step {run.step} loss {losses[-1]:.3f}")
            if run.step == 1 or run.step % report_every == 0 or share == 1.0:
                seen = {"step": run.step, "seconds": round(run.seconds), "train": round(float(np.mean(losses)), 4)}
                seen["held_out"] = round(mean_loss(run.average.model, monitor, run.model.config.context, place), 4)
                run.curve.append(seen)
                losses = []
                console.log(f"{seen} {run.tokens / run.seconds:.0f} tokens/s {share:.1%}")
            if run.seconds - last_export > 60 * export_every and share < 1.0:
                last_export = run.seconds
                run.save(state)
                console.log(f"held-out loss {publish(run, data, out, held_out, teacher_nats)}, teacher {teacher_nats}")
    run.save(state)
    console.log(f"held-out loss {publish(run, data, out, held_out, teacher_nats)}, teacher {teacher_nats}")


if __name__ == "__main__":
    typer.run(main)
