"""One step of training: on an accelerator a recorded graph of kernels, replayed without the interpreter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.training.optim import StudentOptimisers
from models.training.student import Student, product_type

WARM_UP_STEPS = 3          # before a graph is recorded: these make what lives as long as the optimisers


class TargetLoss(nn.Module):
    """Cross entropy of the student against dense targets."""

    def __init__(self, model: Student) -> None:
        super().__init__()
        self.model, self.dtype = model, product_type(model.cos.device)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """inputs [w, T], targets [w*T, V] -> scalar."""
        return nn.functional.cross_entropy(self.model(inputs, self.dtype), targets)


class Step:
    """Loss, gradients and update.

    Parameters
    ----------
    loss : from inputs and targets to a scalar.
    optimisers : of its parameters.
    """

    def __init__(self, loss: nn.Module, optimisers: StudentOptimisers) -> None:
        self._loss, self._optimisers = loss, optimisers
        self._graph: torch.cuda.CUDAGraph | None = None
        self._steps = 0

    def __call__(self, inputs: Tensor, targets: Tensor, progress: float) -> float:
        """Take one step on a batch at this share of the run; returns its loss. All batches have one shape."""
        self._optimisers.set_rates(progress)
        if not inputs.is_cuda:
            return self._run(inputs, targets).item()
        if self._steps == 0:
            self._inputs, self._targets = torch.empty_like(inputs), torch.empty_like(targets)
            self._stream = torch.cuda.Stream()
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        if self._steps < WARM_UP_STEPS:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._value = self._run(self._inputs, self._targets)
            torch.cuda.current_stream().wait_stream(self._stream)
        else:
            if self._graph is None:
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph, stream=self._stream):
                    self._value = self._run(self._inputs, self._targets)
            self._graph.replay()
        self._steps += 1
        return self._value.item()

    def _run(self, inputs: Tensor, targets: Tensor) -> Tensor:
        value = self._loss(inputs, targets)
        value.backward()
        self._optimisers.step()
        return value.detach()
