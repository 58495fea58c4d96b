"""How the trainer learns: steps, rates, settling, starts from published models, runs that are resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.training.corpus import Corpus
from models.training.data import Vocabulary
from models.training.export import export, load, start_from
from models.training.optim import Average, Rates, StudentOptimisers
from models.training.options import Options
from models.training.quantisers import QuantisedWeight
from models.training.run import Run
from models.training.settling import MEMORY_STEPS, Settling
from models.training.step import Step, TargetLoss
from models.training.student import SHAPES, Student, window_attention
from tests.small_trainer import CPU, PIECES, SMALL, VOCAB, tokenizer_file, write_vocabulary


@pytest.mark.parametrize(("time", "window"), [(12, 4), (14, 4), (3, 4), (4, 4), (9, 8), (5, 1)])
def test_attention_sees_the_window_and_no_more(time: int, window: int) -> None:
    """A position too many or too few, at the seam of two chunks, before the first, or in one that is not full."""
    q, k, v = torch.randn(3, 2, 3, time, 4, generator=torch.Generator().manual_seed(time)).unbind()
    distance = torch.arange(time)[:, None] - torch.arange(time)
    scores = (q @ k.transpose(-1, -2)).masked_fill((distance < 0) | (distance >= window), -torch.inf)
    weights = torch.exp2(scores - scores.amax(-1, keepdim=True))
    torch.testing.assert_close(window_attention(q, k, v, window), weights / weights.sum(-1, keepdim=True) @ v)


def random_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of four windows, and a target for each that has nothing to do with them."""
    inputs = torch.randint(0, VOCAB, (4, SMALL.context))
    return inputs, torch.nn.functional.one_hot(torch.randint(0, VOCAB, (4 * SMALL.context,)), VOCAB).float()


def test_steps_lower_the_loss_and_a_rate_of_zero_changes_nothing() -> None:
    """Rates are set apart from the update, so that a recorded update can read them."""
    torch.manual_seed(1)
    model = Student(SMALL)
    step = Step(TargetLoss(model), StudentOptimisers(model, Rates(warmup=0.1)))
    inputs, targets = random_batch()
    before = [parameter.clone() for parameter in model.parameters()]
    losses = [step(inputs, targets, 0.0) for _ in range(2)]
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    losses += [step(inputs, targets, 0.1) for _ in range(30)]
    assert losses[0] == losses[1]
    assert losses[-1] < 0.7 * losses[0]


def test_adam_lowers_the_loss_of_the_matrices_too() -> None:
    """Matrices that no optimiser moves, or an embedding that theirs moves with them."""
    torch.manual_seed(1)
    model = Student(SMALL)
    step = Step(TargetLoss(model), StudentOptimisers(model, Rates(
        warmup=0.1, adam=True, matrix_lr=0.01, embed_lr=0.0, head_lr=0.0)))
    inputs, targets = random_batch()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    losses = [step(inputs, targets, 0.1) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(before[name], parameter) == name.startswith(("embed", "head")), name


@pytest.mark.parametrize(("descent", "expected"), [(1.0, 0.5), (2.0, 0.25), (3.0, 0.125)])
def test_rates_descend_by_a_power(descent: float, expected: float) -> None:
    """A descent that does not begin at the peak, does not end at zero, or is that of another power."""
    rates = Rates(warmup=0.2, descent=descent)
    assert [rates.rate(progress) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.5, 1, expected, 0])


def test_weights_are_quantised_by_and_by() -> None:
    """Floats that are rounded from the beginning, or a model that is judged or published as floats."""
    torch.manual_seed(6)
    model = Student(SMALL)
    average, down = Average(model, 0.1).model, model.blocks[0].down_proj
    whole = down()[0].detach()
    for share in (0.0, 0.25, 1.0):
        model.quantise(share)
        integers, step = down()
        torch.testing.assert_close(integers.detach() * step, (1 - share) * down.weight + share * whole * step)
        integers.sum().backward()
        assert torch.allclose(down.weight.grad * step, torch.ones(()))
        down.weight.grad = None
        assert torch.equal(average.blocks[0].down_proj()[0], whole)
    options = Options(seed=1, steps=10, minutes=0, float_share=0.4)
    assert [options.quantised(progress) for progress in (0.0, 0.2, 0.3, 0.4, 1.0)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert replace(options, float_share=0.0).quantised(0.0) == 1


def test_integers_settle_the_doubtful_ones_last() -> None:
    """A weight that flips and is decided with those that stand still, or one that is decided and still moves."""
    torch.manual_seed(7)
    model = Student(SMALL)
    average, down = Average(model, 0.1).model, model.blocks[0].down_proj
    step, still = down.step(), down.integers()
    settling = Settling(model, average)
    moving = torch.zeros_like(still, dtype=torch.bool)
    moving[0] = True
    with torch.no_grad():
        for turn in range(8 * MEMORY_STEPS):        # every fourth time they are elsewhere
            down.weight.copy_(torch.where(moving, (turn % 4 > 0) * step, still * step))
            settling.step(0.0)
        assert not down.is_settled.any()
        settling.step(0.2)
        assert torch.equal(down.is_settled, ~moving)
        settling.step(1.0)
        assert down.is_settled.all()
        down.weight.fill_(-3.0)
    expected = torch.where(moving, 1.0, still)
    for module in (down, average.blocks[0].down_proj):
        integers, constant = module()
        assert torch.equal(integers.round(), expected) and constant == step


def test_integers_settle_at_the_end_of_a_run() -> None:
    """A run that settles at once, or is not done at its end."""
    options = Options(seed=1, steps=10, minutes=0, settle_share=0.25)
    assert [options.settling(progress) for progress in (0.0, 0.75, 0.875, 1.0)] == pytest.approx([0, 0, 0.5, 1])
    assert replace(options, settle_share=0.0).settling(1.0) == 0


@pytest.mark.parametrize("span", [0.0, 0.2])
def test_the_average_weighs_the_newest_steps(span: float) -> None:
    """Step t of n counts as t to the power of 1 / span - 1, and without a span the newest alone."""
    model = torch.nn.Linear(1, 1, bias=False)
    average, rng, seen = Average(model, span), np.random.default_rng(4), []
    for step in range(1, 301):
        seen.append(rng.normal())
        torch.nn.init.constant_(model.weight, seen[-1])
        average.step(step)
    counts = np.arange(1, 301) ** (1 / span - 1) if span else np.arange(1, 301) == 300
    assert average.model.weight.item() == pytest.approx(np.average(seen, weights=counts), abs=1e-3)


@pytest.fixture
def trained(tmp_path: Path) -> Student:
    """A published model, whose first layer has a feed-forward."""
    torch.manual_seed(3)
    shape = replace(SMALL, hidden_size=32, intermediate_size=48, num_layers=2, parallel_residual=True)
    export(Student(shape), tmp_path, b"")
    return load(tmp_path)


def weights(model: Student) -> dict[str, QuantisedWeight]:
    """All of them by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantisedWeight)}


def test_training_goes_on_from_the_published_integers(tmp_path: Path, trained: Student) -> None:
    """Weights that quantise to others than those of the run that they come from, or to another scale."""
    model = Student(trained.config)
    start_from(model, tmp_path)
    for name, weight in weights(model).items():
        integers, step = weight()
        expected, scale = weights(trained)[name]()
        assert torch.equal(integers.round(), expected), name
        assert abs(step / scale - 1) < 0.01, name


def test_integers_that_are_all_large_keep_their_step() -> None:
    """A step that follows their magnitude: an embedding of which all pieces are used came out a fifth larger."""
    weight, integers = QuantisedWeight(16, 16, 13, 1.0), torch.full((16, 16), 9.0)
    integers[::2] *= -1
    weight.start_from(integers, torch.tensor(0.3), sparse=False)
    found, step = weight()
    assert torch.equal(found.round(), integers) and step == 0.3


def test_a_wider_model_begins_as_the_narrower_one(tmp_path: Path, trained: Student) -> None:
    """New columns that add noise, or a feed-forward that is looked for where there is none."""
    wider = Student(replace(trained.config, intermediate_size=64, feed_groups=(0, 1)))
    start_from(wider, tmp_path)
    down, narrow = wider.blocks[1].down_proj()[0].round(), trained.blocks[1].down_proj()[0]
    assert torch.equal(down[:, :48], narrow) and not down[:, 48:].any()
    gate = wider.blocks[1].gate_proj()[0].round()
    assert torch.equal(gate[:48], trained.blocks[1].gate_proj()[0]) and gate[48:].any()
    assert not hasattr(wider.blocks[0], "down_proj")


def test_a_smaller_vocabulary_begins_with_its_own_pieces(tmp_path: Path, trained: Student) -> None:
    """Rows of other pieces, or steps that follow from the rows that are left."""
    (tmp_path / "tokenizer.bin").write_bytes(tokenizer_file(PIECES))
    smaller = Student(replace(trained.config, vocab_size=14))
    start_from(smaller, tmp_path)
    kept = [number for number, piece in enumerate(PIECES) if piece not in (b"<0x09>", b"<0x0B>")]
    for cut, of in ((smaller.embed, trained.embed), (smaller.head, trained.head)):
        (integers, step), (wanted, scale) = cut(), of()
        assert torch.equal(integers.round(), wanted[kept])
        torch.testing.assert_close(step, scale, rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="16 pieces cannot be cut to 17"):
        start_from(Student(replace(trained.config, vocab_size=17)), tmp_path)
    (tmp_path / "tokenizer.bin").write_bytes(tokenizer_file(PIECES[:-1]))
    with pytest.raises(ValueError, match="has a tokenizer of 15 pieces and a model of 16"):
        start_from(smaller, tmp_path)


def test_attention_sees_its_window_and_no_more() -> None:
    """A window that begins a position too early, or one of another layer."""
    torch.manual_seed(4)
    config = replace(SMALL, num_layers=1, attention_windows=(3,))
    model, tokens = Student(config), torch.randint(0, VOCAB, (1, 8))
    changed = tokens.clone()
    changed[0, 2] = (tokens[0, 2] + 1) % VOCAB
    differs = (model(tokens) - model(changed)).abs().amax(-1) > 0
    assert differs.nonzero().flatten().tolist() == [2, 3, 4]


def test_groups_have_scales_of_their_own() -> None:
    """One scale for all, or groups of neighbouring rows instead of columns."""
    torch.manual_seed(5)
    whole, grouped = (Student(replace(SMALL, parallel_residual=True, feed_groups=(groups,))) for groups in (1, 4))
    grouped.load_state_dict(whole.state_dict())
    tokens = torch.randint(0, VOCAB, (2, 8))
    largest = (whole(tokens) - grouped(tokens)).abs().max()
    assert 0 < largest < 0.1 * whole(tokens).abs().max()


@pytest.mark.parametrize(("change", "message"), [
    ({"attention_windows": (3,)}, "one per layer"), ({"feed_groups": (1,)}, "one per layer"),
    ({"feed_groups": (2, -1)}, "not negative"), ({"attention_windows": (0, 0)}, "not all 0"),
    ({"feed_groups": (0, 0)}, "not all 0"), ({"feed_groups": (3, 1)}, "16 is no multiple"),
    ({"feed_groups": (1, 0), "attention_windows": (3, 0)}, "needs attention or a feed-forward"),
    ({"feed_groups": (2, 2), "parallel_residual": False}, "need parallel_residual"),
    ({"attention_windows": (3, 0), "parallel_residual": False}, "need parallel_residual")], ids=str)
def test_shapes_that_no_machine_runs_are_refused(change: dict[str, object], message: str) -> None:
    """A run of hours whose model the importer refuses."""
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **{"num_layers": 2, "parallel_residual": True} | change)


def test_a_resumed_run_is_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An average, momenta or windows that begin anew."""
    monkeypatch.setitem(SHAPES, "small", SMALL)
    rng, whole = np.random.default_rng(5), write_vocabulary(tmp_path / "whole.bin")
    corpora = [Corpus(torch.from_numpy(rng.integers(0, VOCAB, 200).astype(np.int16)),
                      torch.from_numpy(rng.dirichlet(np.ones(VOCAB), 200)).half(), 0.5, Vocabulary(whole, VOCAB))
               for _ in range(2)]

    def go_on(run: Run, steps: int) -> Run:
        step = Step(TargetLoss(run.model), run.optimisers)
        for _ in range(steps):
            run.advance(step, *corpora)
        return run

    options = Options(seed=1, steps=10, minutes=0, shape="small", windows=4, float_share=0.9,
                      settle_share=0.9)
    unbroken, half = go_on(Run(options, CPU), 8), go_on(Run(options, CPU), 4)
    half.save(tmp_path / "state.pt")
    resumed = go_on(Run.resume(tmp_path / "state.pt", CPU), 4)
    for wanted, found in ((unbroken.model, resumed.model), (unbroken.average.model, resumed.average.model)):
        assert all(map(torch.equal, wanted.parameters(), found.parameters()))
        assert all(map(torch.equal, wanted.buffers(), found.buffers()))
    assert unbroken.model.blocks[0].down_proj.is_settled.any()


@pytest.mark.parametrize("change", [{"options": {"seed": 1, "colour": 3}}, {"model": {}}], ids=str)
def test_states_of_another_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
                                               ) -> None:
    """A traceback after an update of the trainer."""
    monkeypatch.setitem(SHAPES, "small", SMALL)
    path = tmp_path / "state.pt"
    Run(Options(seed=1, steps=10, minutes=0, shape="small"), CPU).save(path)
    Run.resume(path, CPU)
    torch.save(torch.load(path, weights_only=False) | change, path)
    with pytest.raises(ValueError, match="saved by another version of the trainer; begin anew"):
        Run.resume(path, CPU)


def test_a_start_that_lacks_a_layer_s_part_is_refused(tmp_path: Path) -> None:
    """A traceback, or a feed-forward that stays random under the name of a trained model."""
    shape = replace(SMALL, num_layers=2, parallel_residual=True)
    export(Student(replace(shape, feed_groups=(0, 1))), tmp_path, b"")
    with pytest.raises(ValueError, match=r"has no tensor model.layers.0.mlp.down_proj.weight"):
        start_from(Student(shape), tmp_path)


def test_a_start_of_another_shape_is_refused(tmp_path: Path, trained: Student) -> None:
    """Weights cut to size, which would be as good as random."""
    with pytest.raises(ValueError, match="has head_dim 4, not 2"):
        start_from(Student(replace(trained.config, head_dim=2)), tmp_path)
