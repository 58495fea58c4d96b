"""Compiles a checkpoint for an accelerator: its packed weights, and their image with the token program."""

from dataclasses import asdict

import numpy as np

from host.checkpoint import Checkpoint, Shape
from host.drafts import draft_table
from host.errors import TritloomError
from host.gains import GainTable, gain_beats, gain_digits
from host.grouped_program import GroupedProgram
from host.hgrn_program import HgrnProgram
from host.image import PROGRAM_PIECES, Image
from host.layout import Layout
from host.masks import with_sampling_beside
from host.packing import codes_to_words, relative_signs, to_base3, to_codes
from host.parallel_program import ParallelProgram
from host.tiler import Tiler
from host.token_program import TokenProgram
from rtl.config import Config
from sim.fixed import rotary_table


def compile_checkpoint(checkpoint: Checkpoint, config: Config) -> Image:
    """The image of a checkpoint for one configuration.

    Raises
    ------
    TritloomError: the model does not fit; the message names the limit.
    """
    shape = checkpoint.shape
    layout = Layout(shape, config, gain_beats=gain_beats(checkpoint, config), gain_digits=gain_digits(config))
    tiler = Tiler(checkpoint, config)
    gains = GainTable(checkpoint, config, tiler.vector_by_query)
    program = _token_program(shape, config)(checkpoint, config, layout, tiler, gains).operations()
    program = with_sampling_beside(config, program)
    if len(program) > config.program_depth:
        raise TritloomError(f"the program has {len(program)} operations, {config.name} holds {config.program_depth}")
    words = [op.encode() for op in program]
    sections = {
        "program": np.array([[w >> 32 * i & 0xFFFFFFFF for i in range(PROGRAM_PIECES)] for w in words], np.uint32),
        "embedding": _embedding(checkpoint, config, gains),
        "rotary": rotary_table(config.context_log2, config.head_dim, shape.rope_theta),
        "tokenizer": np.frombuffer(checkpoint.tokenizer, np.uint8),
    }
    tiles = tiler.tiles()
    if config.weight_source == "ebr":
        if len(tiles) > config.weight_depth:
            raise TritloomError(f"{checkpoint.name} needs {len(tiles)} weight tiles, {config.name} holds "
                                f"{config.weight_depth}; use the stream configuration or a smaller model")
        sections["weights"] = codes_to_words(relative_signs(to_codes(tiles, config.code_trits))).reshape(len(tiles), -1)
    else:
        stream = to_base3(tiles)
        sections["stream"] = np.pad(stream, (0, -len(stream) % 4), constant_values=121)
    if config.draft_sets:
        sections["drafts"] = draft_table(config, checkpoint.drafts)
    model = {"name": checkpoint.name, **asdict(shape), "ternary_parameters": checkpoint.ternary_parameters}
    if checkpoint.quantised:
        model["quantised"] = checkpoint.quantised
    return Image(config, model, sections)


def _token_program(shape: Shape, config: Config) -> type[TokenProgram]:
    if shape.mixer == "hgrn":
        return HgrnProgram
    if not shape.is_parallel:
        return TokenProgram
    return GroupedProgram if shape.most_groups > 1 and config.slots == 1 else ParallelProgram


def _embedding(checkpoint: Checkpoint, config: Config, gains: GainTable) -> np.ndarray:
    """Offset-binary rows, padded to whole beats and to the embedding memory's row, and those of gains."""
    integers = checkpoint.tensors["embed"].integers
    width = config.embed_beats * config.lanes
    offset = (3**config.embed_planes - 1) // 2
    padded = np.pad(integers.astype(np.int16), ((0, config.vocab - len(integers)), (0, width - integers.shape[1])))
    return (np.concatenate([padded, gains.rows]) + offset).astype(np.uint8)
