"""Published kinds of models, from their files to the tokens of the simulated SoC."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from host.errors import TritloomError
from host.importer import load_checkpoint
from rtl.config import TINY
from rtl.isa import Opcode, VectorFn
from sim.golden import Golden
from sim.reference import Reference
from tests.small_models import KINDS, SMALL, SmallModel, small_model_image
from tests.test_golden import golden_logits
from tests.test_planes import divergence
from tests.test_soc import run

TOKENS = np.random.default_rng(7).integers(0, 512, 40)
# Nats. Ternary models differ by the fixed-point arithmetic, others by four trit planes instead of bf16 as well.
DIVERGENCE = {"bitnet": 0.01, "bitnet_2b4t": 0.01, "llama": 0.02}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("kind", KINDS)
def test_golden_model_computes_what_was_published(folder: Path, kind: str) -> None:
    """Any convention misread: pairs, gains, sub-norms, activation, ties, the scale of trits."""
    model = SmallModel(kind)
    golden = golden_logits(Golden(small_model_image(kind, folder)), TOKENS.tolist())
    assert divergence(model.logits(TOKENS), golden) < DIVERGENCE[kind]
    assert divergence(model.logits(TOKENS), np.roll(golden, 1, axis=0)) > 20 * DIVERGENCE[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_reference_agrees_with_the_golden_model(folder: Path, kind: str) -> None:
    """The reference, which judges quality, or the golden model wrong in the same layer."""
    golden = golden_logits(Golden(small_model_image(kind, folder)), TOKENS.tolist())
    checkpoint = load_checkpoint(SmallModel(kind).write(folder / kind), SMALL)
    assert divergence(Reference(checkpoint).logits(TOKENS), golden) < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_soc_equals_golden(folder: Path, tmp_path: Path, kind: str) -> None:
    """Any value or cycle of products, gains, SiLU or planes that gateware and golden model disagree on."""
    image = small_model_image(kind, folder)
    fns = {op.fn for op in image.program if op.opcode == Opcode.VECTOR}
    assert VectorFn.PRODUCT in fns and (VectorFn.SILU in fns) == (KINDS[kind].config["hidden_act"] == "silu")
    run(image, tmp_path, f"soc_{kind}", prompt=[1, 300], count=8)


def test_silu_needs_its_gateware(folder: Path) -> None:
    """A model of SiLU run with the square of ReLU."""
    path = SmallModel("llama").write(folder / "llama")
    with pytest.raises(TritloomError, match="the model gates by silu, tiny by relu2 only; use"):
        load_checkpoint(path, TINY)
    assert load_checkpoint(path, replace(TINY, has_silu=True)).shape.activation == "silu"
