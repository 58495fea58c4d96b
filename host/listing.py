"""The token program as text."""

from host.predict import predict
from rtl.config import Config
from rtl.isa import FIELDS, NO_SCALAR, Op, Opcode, ScalarFn, Target, Unit, VectorFn
from sim.fixed import Scalar

SCALAR_FIELDS = ("ra", "rb", "rc", "rd")
ENUMS = {("VECTOR", "fn"): VectorFn, ("VECTOR", "target"): Target, ("SCALAR", "fn"): ScalarFn}


def describe(op: Op) -> str:
    """One line: opcode, fields, and the units it waits for."""
    parts = []
    for name, _ in FIELDS[op.opcode]:
        value = op.fields[name]
        if enum := ENUMS.get((op.opcode.name, name)):
            parts.append(enum(value).name.lower())
        elif name in SCALAR_FIELDS:
            parts.append(f"{name}=one" if value == NO_SCALAR else f"{name}=s{value}")
        elif name == "mantissa":
            parts.append(f"x{float(Scalar(value, op.fields['exponent'])):.6g}")
        elif name != "exponent":
            parts.append(f"{name}={value}")
    waits = "+".join(unit.name.lower() for unit in Unit if unit & op.wait)
    return f"{op.opcode.name.lower():7} {' '.join(parts)}" + (f"  after {waits}" if waits else "")


def program_listing(config: Config, program: list[Op]) -> str:
    """Every operation with the cycles at which it is predicted to start and end, at the first and last position."""
    first, last = (predict(config, program, position) for position in (0, config.context - 1))
    lines = [f"; {config.name}: {len(program)} operations, {first.cycles} cycles at position 0, "
             f"{last.cycles} at position {config.context - 1}",
             "; op  start@0  end@0  start@last  end@last  operation"]
    for index, op in enumerate(program):
        end = "" if op.opcode == Opcode.END else first.done[index]
        end_last = "" if op.opcode == Opcode.END else last.done[index]
        lines.append(f"{index:4} {first.issue[index]:8} {end:>6} {last.issue[index]:11} {end_last:>9}  {describe(op)}")
    return "\n".join(lines)
