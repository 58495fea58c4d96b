"""What decides a training run."""

from __future__ import annotations

from dataclasses import dataclass

from models.training.optim import Rates


@dataclass(frozen=True, kw_only=True)
class Options(Rates):
    """Everything that decides a run besides the data."""

    seed: int
    steps: int
    minutes: float
    shape: str = "stories1m"
    windows: int = 16
    label_share: float = 0.5
    sampled_share: float = 0.25
    opening_share: float = 0.25
    sampled_streams: int = 1024
    sampled_seed: int = 1
    span: float = 0.1
    float_share: float = 0.0
    settle_share: float = 0.0
    start: str = ""
    sparse: bool = False

    def quantised(self, progress: float) -> float:
        """How far weights are quantised: in the first half of ``float_share`` not at all, then ever more, then to 1."""
        return min(1.0, max(0.0, 2 * progress / self.float_share - 1)) if self.float_share else 1.0

    def settling(self, progress: float) -> float:
        """Up to which doubt integers are settled: 0 before the last ``settle_share`` of the run, 1 at its end."""
        return max(0.0, 1 - (1 - progress) / self.settle_share) if self.settle_share else 0.0

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget used."""
        return min(1.0, step / self.steps if self.steps else seconds / (60 * self.minutes))
