"""A run of the trainer: model, average, optimisers and the dice, as one state that can be saved."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.training.corpus import Corpus
from models.training.export import start_from
from models.training.optim import Average, StudentOptimisers
from models.training.options import Options
from models.training.settling import Settling
from models.training.step import Step
from models.training.student import SHAPES, Student


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
