"""Sets the wait masks of a program from what its operations read and write."""

from dataclasses import replace

from host.hazards import accesses
from host.predict import timeline
from rtl.config import Config
from rtl.isa import UNIT_OF, Op, Opcode, Unit
from rtl.timing import sample_delay


def with_masks(config: Config, program: list[Op]) -> list[Op]:
    """The same operations, each with the least units to wait for whatever operations last.

    One waits for a unit if that may still be at work on an earlier operation whose end it needs: to read what that
    writes, to write what that reads or writes, or to use the same port of vector memory.
    """
    touched = accesses(config, program)
    running: dict[int, Unit] = {}       # operations not known to have ended, and their units
    masked = []
    for index, op in enumerate(program):
        mask = Unit(0)
        for earlier, unit in running.items():
            if touched[earlier].clash(touched[index]):
                mask |= unit
        unit = UNIT_OF[op.opcode]
        masked.append(op if op.opcode == Opcode.END else replace(op, wait=mask & ~unit))
        # It starts when these units and its own are idle.
        running = {earlier: busy for earlier, busy in running.items() if not busy & (mask | unit)}
        running[index] = unit
    return masked


def with_sampling_beside(config: Config, program: list[Op]) -> list[Op]:
    """The same operations, with a sampler that follows the engine through the logits where it never overtakes it.

    That the engine is fast enough is known if its weights are there at every clock, and that it is ahead if only units
    of fixed duration lie between the start of both.
    """
    last = max(index for index, op in enumerate(program) if op.opcode == Opcode.MATVEC)
    sample = max(index for index, op in enumerate(program) if op.opcode == Opcode.SAMPLE)
    if config.weight_source != "ebr":
        return program
    early = [*program]
    early[sample] = replace(program[sample], wait=program[sample].wait & ~Unit.ENGINE)
    spans = timeline(config, early, 0)
    delay = spans[sample].start - spans[last].start
    return early if delay >= sample_delay(config, program[last], program[sample]) else program
