"""A link to a device in a thread, which answers in milliseconds."""

from host.link import Link, Pace, SerialTransport
from tests.fake_device import FakeDevice

FAST = Pace(reply_seconds=0.1, verify_seconds=0.5, word_seconds=1e-4, event_seconds=0.3, attempts=4)


def connect(device: FakeDevice, pace: Pace = FAST) -> Link:
    """The host's end, on the device's pseudo-terminal."""
    return Link(SerialTransport(device.port), pace=pace)
