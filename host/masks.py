"""Sets the wait masks of a program from what its operations read and write."""

from dataclasses import replace

from host.hazards import Access, accesses, in_slots
from host.predict import timeline
from rtl.config import Config
from rtl.isa import JOINT, UNIT_OF, Op, Opcode, Unit
from rtl.timing import sample_delay
from sim.token_loop import Pass


def with_masks(config: Config, program: list[Op]) -> list[Op]:
    """The same operations, each with the least units to wait for whatever operations last.

    One waits for a unit if that may still be at work on an earlier operation whose end it needs: to read what that
    writes, to write what that reads or writes, or to use the same port of vector memory.
    """
    touched = accesses(config, program)
    # Three slots show what one does to the next while the last section's operations may still run.
    taken = Pass((0,) * min(config.slots, 3), 0, 1, reads=False)
    running: list[tuple[Access, Unit]] = []     # what is not known to have ended, and its units
    masks = [Unit(0)] * len(program)
    for index, op, slot in taken.operations(program):
        touches = in_slots(config, touched[index], range(len(taken.tokens)) if op.opcode in JOINT else [slot])
        mask = Unit(0)
        for earlier, busy in running:
            if earlier.clash(touches):
                mask |= busy
        unit = UNIT_OF[op.opcode]
        masks[index] |= mask & ~unit
        # It starts when these units and its own are idle.
        running = [(earlier, busy) for earlier, busy in running if not busy & (mask | unit)]
        running.append((touches, unit))
    ends = [op.opcode == Opcode.END or op.opcode == Opcode.SECTION and op.reads for op in program]
    return [op if end else replace(op, wait=mask) for op, end, mask in zip(program, ends, masks, strict=True)]


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
