"""Compiles the C program of the soft core with the parts of an image, for `sim.softcore.run`."""

import math
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path

import numpy as np

from host.image import Image
from rtl.config import ADDRESS_BITS, SCORE_FRACTION, Config
from rtl.firmware_build import SOURCE as FIRMWARE
from rtl.firmware_build import FirmwareError, compile_program
from rtl.isa import FIELDS, NO_SCALAR, SCALARS, Opcode, ScalarFn, Target, VectorFn
from sim import fixed

SOURCE = Path(__file__).resolve().parent.parent.parent / "softcore"
OPTIMISE = "-O2"
OP_FIELDS = ("opcode", "matrix", *dict.fromkeys(name for fields in FIELDS.values() for name, _ in fields))
CODE_TRITS, CODE_BYTES = 4, 2      # a code is an offset in a table of 81 sums of two bytes
GROUPS_STEP = 10                   # softcore/engine.c looks up so many codes between two checks
SQUARES = 4095 + 127               # of the largest operands: a 12-bit probability and an int8 value


def build_program(image: Image, prompt: Sequence[int], passes: int, build_dir: Path, *, memory_bytes: int,
                  source: Path = SOURCE) -> bytes:
    """Contents of the soft core's RAM: the C program with an image's operations, weights and tables.

    Parameters
    ----------
    image : the model.
    prompt : tokens; later ones are what the core samples.
    passes : runs of the token program.
    build_dir : where generated sources go.
    memory_bytes : size of the RAM.
    source : folder of the C files.

    Raises
    ------
    FirmwareError: compiler missing, program and model do not fit the RAM, or the model has gains of norms.
    """
    if image.config.has_products:
        raise FirmwareError(f"the soft core knows no products of vectors, which {image.config.name} has; use an image "
                            "of another configuration")
    build_dir.mkdir(parents=True, exist_ok=True)
    parts = dict(_parts(image, prompt))
    lines = []
    for name, data in parts.items():
        (build_dir / f"{name}.bin").write_bytes(data)
        lines.append(f'.section .rodata.{name}\n.balign 4\n.global {name}\n{name}: .incbin "{name}.bin"\n')
    data = build_dir / "data.S"
    data.write_text("".join(lines))
    (build_dir / "geometry.h").write_text(_header(image.config, len(prompt), passes))
    sources = [FIRMWARE / "start.S", data, *sorted(source.glob("*.c"))]
    return compile_program("softcore", sources, [build_dir, source], build_dir, ram_bytes=memory_bytes,
                           optimise=OPTIMISE)


def _header(config: Config, prompt_tokens: int, passes: int) -> str:
    """``geometry.h``: sizes, the numbers of operations, and their record."""
    c = config
    sizes = {
        "LANES": c.lanes, "WORD_LANES": c.word_lanes, "HEAD_DIM": c.head_dim, "HEAD_PAIRS": c.head_dim // 2,
        "QUERY_GROUPS": c.query_groups, "CONTEXT": c.context, "CONTEXT_LOG2": c.context_log2, "KV_SLOTS": c.kv_slots,
        "VECTOR_DEPTH": 1 << ADDRESS_BITS, "ATTENTION_BEAT": c.attention_beat, "ACTIVATION_DEPTH": c.activation_depth,
        "EMBED_ELEMENTS": c.embed_beats * c.lanes, "FINE_POSITIONS": 1 << (c.context_log2 + 1) // 2,
        "ROTARY_FRACTION": fixed.ROTARY_FRACTION, "SCORE_FRACTION": SCORE_FRACTION, "SCALARS": SCALARS,
        "NO_SCALAR": NO_SCALAR, "SQUARES_ORIGIN": SQUARES, "GROUPS_STEP": GROUPS_STEP,
        "PROMPT_TOKENS": prompt_tokens, "PASSES": passes}
    names: dict[str, type[IntEnum]] = {"OPCODE": Opcode, "VECTOR": VectorFn, "TARGET": Target, "SCALAR": ScalarFn}
    numbers = {f"{prefix}_{member.name}": member.value for prefix, kind in names.items() for member in kind}
    defines = "".join(f"#define {name} {value}\n" for name, value in (sizes | numbers).items())
    return f"#pragma once\n{defines}struct op {{ int32_t {', '.join(OP_FIELDS)}; }};\n"


def _parts(image: Image, prompt: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """The binary constants that ``softcore/machine.h`` declares, by name."""
    records, headers, codes, size = [], [], [], 0
    matrices = image.matrices()
    for index, op in enumerate(image.program):
        fields = op.fields | {"opcode": int(op.opcode)}
        if op.opcode == Opcode.MATVEC:
            packed = pack_matrix(matrices[index], op.planes)
            fields["matrix"] = len(headers)
            headers.append((len(packed), packed.shape[2], size))
            codes.append(packed.tobytes())
            size += packed.size
        records.append([fields.get(name, 0) for name in OP_FIELDS])
    yield "program", _words(*records)
    yield "matrices", _words(*headers)
    yield "codes", b"".join(codes)
    yield "embedding", image.embedding().astype(np.int8).tobytes()
    yield "rotary", image.rotary().tobytes()
    yield "prompt", struct.pack(f"<{len(prompt)}H", *prompt)
    for name, base, drop in (("reciprocal_table", fixed.RECIPROCAL_BASE, fixed.RECIPROCAL_DROP),
                             ("rsqrt_table", fixed.RSQRT_BASE, fixed.RSQRT_DROP),
                             ("exp2_table", fixed.EXP_BASE, fixed.EXP_DROP)):
        yield name, _words(*zip(base, drop, strict=True))
    yield "square_table", _words(np.arange(-SQUARES, SQUARES + 1) ** 2 // 4)


def _words(*rows: Sequence[int] | np.ndarray) -> bytes:
    return np.array(rows, "<i4").tobytes()


def pack_matrix(weights: np.ndarray, planes: int) -> np.ndarray:
    """Codes uint8 [rows, planes, groups] of integers [rows, columns] of so many trit planes.

    Columns that no row uses at the end are left out: they pad a tile, which a processor does not have.
    """
    used = np.flatnonzero(weights.any(0))
    step = CODE_TRITS * GROUPS_STEP
    columns = step * math.ceil((used[-1] + 1 if used.size else 1) / step)
    rest = np.pad(weights.astype(np.int64), ((0, 0), (0, max(0, columns - weights.shape[1]))))[:, :columns]
    digits = []
    for _ in range(planes):
        digits.append((rest + 1) % 3 - 1)
        rest = (rest - digits[-1]) // 3
    trits = np.stack(digits[::-1], 1).reshape(len(weights), planes, -1, CODE_TRITS)
    return (CODE_BYTES * ((trits + 1) @ 3 ** np.arange(CODE_TRITS))).astype(np.uint8)
