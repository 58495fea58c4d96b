"""Checks that tell a fault of the host from one of the link and one of the device."""

from fastcrc import crc32

from host.device import Device
from host.errors import TritloomError
from host.image import Image
from host.link import LinkError
from host.session import Generation, inverse_temperature, tokenizer_of
from sim.golden import Golden

PROMPT = "once"              # which every vocabulary of English has the letters for
TOKENS = 24
TEMPERATURE = 0.8
ROUND_TRIPS = 32


def check_host(image: Image) -> str:
    """Whether this computer can encode, run the golden model and repeat its result; what was checked.

    Raises
    ------
    TritloomError: the text does not survive the tokenizer, or two golden models disagree.
    """
    tokenizer = tokenizer_of(image)
    prompt = tokenizer.encode(PROMPT)
    if tokenizer.decode(prompt) != PROMPT:
        raise TritloomError(f"the host is at fault: the tokenizer turns {PROMPT!r} into {tokenizer.decode(prompt)!r}; "
                            "the model's tokenizer.bin is not its own")
    scale = inverse_temperature(TEMPERATURE)
    count = tokens_after(prompt, image)
    first, second = (Golden(image).generate(prompt, count, temperature=scale, seed=1) for _ in range(2))
    if first != second:
        raise TritloomError("the host is at fault: the golden model does not repeat its own tokens; check this "
                            "computer's memory")
    return f"golden model, {count} tokens, check value {crc32.iso_hdlc(str(first).encode()):08x}"


def tokens_after(prompt: list[int], image: Image) -> int:
    """How many the checks generate: the context of a small model is short."""
    return min(TOKENS, image.context - len(prompt) + 1)


def check_link(device: Device) -> str:
    """Whether frames pass undamaged; what was checked.

    Raises
    ------
    TritloomError: a frame was lost or damaged, in either direction.
    """
    before = device.greet()
    try:
        for _ in range(ROUND_TRIPS):
            device.counters()
        after = device.greet()
    except LinkError as error:
        raise TritloomError(f"the link is at fault: {error}") from error
    damaged = after.undecodable - before.undecodable + device.link.damaged
    if damaged or device.link.retries or after.overruns != before.overruns:
        raise TritloomError(f"the link is at fault: {damaged} damaged frames, {device.link.retries} repeated requests, "
                            f"{after.overruns - before.overruns} receive overruns; use a shorter cable")
    return f"{ROUND_TRIPS} round trips without damage"


def check_memory(device: Device, words: int) -> str:
    """Whether the SDRAM holds what is written; what was checked.

    Raises
    ------
    TritloomError: it does not.
    """
    if fault := device.test_memory(words, seed=1):
        raise TritloomError(f"the device is at fault: {fault.errors} of {words} SDRAM words differ, first "
                            f"{fault.address:#x} holds {fault.got:08x} instead of {fault.expected:08x}")
    return f"{words} words of SDRAM"


def check_device(device: Device, image: Image) -> str:
    """Whether the device samples the golden model's tokens, greedily and at a temperature; what was checked.

    Raises
    ------
    TritloomError: it does not.
    """
    prompt = tokenizer_of(image).encode(PROMPT)
    passes = 0
    for temperature in (None, TEMPERATURE):
        for done in Generation(device, image, temperature=temperature, seed=1).run(prompt, tokens_after(prompt, image)):
            passes += 1
            if done.token != done.golden:
                raise TritloomError(f"the device is at fault: token {done.token} instead of {done.golden} at position "
                                    f"{done.position}, temperature {temperature or 0}")
    return f"{passes} tokens equal the golden model"
