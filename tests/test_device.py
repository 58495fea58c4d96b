"""What the host does with a device, loading and runs, against one in a thread."""

import random
import struct

import pytest

from host.device import Device, MemoryFault, TokenEvent, watchdog_us
from host.errors import TritloomError
from host.link import LinkError, RefusedError
from rtl.csr_map import Message, Space
from sim.fixed import Scalar
from tests.fake_device import FakeDevice, count_up
from tests.fast_link import connect
from tests.small_image import SmallImage


def expected_run(prompt: list[int], count: int, position: int = 0) -> list[TokenEvent]:
    events, token = [], 0
    for index in range(len(prompt) + count - 1):
        token = count_up(prompt[index] if index < len(prompt) else token, position + index)
        events.append(TokenEvent(token, position + index, 1000 + position + index, index >= len(prompt) - 1))
    return events


class TestLoading:
    def test_words_reach_their_addresses(self) -> None:
        """The image and the device number spaces differently; names decide."""
        image = SmallImage()
        steps: list[tuple[int, int]] = []
        with FakeDevice() as device, connect(device) as link:
            assert Device(link).load(image, progress=lambda done, total: steps.append((done, total)))
            words = device.words
        expected = {Space[space.name] << 28 | address + index: int(word)
                    for space, address, run in image.load_words() for index, word in enumerate(run)}
        assert words == expected
        assert steps[-1] == (313, 313)
        assert steps == sorted(steps)

    def test_matching_image_is_not_sent(self) -> None:
        with FakeDevice(image_id=77) as device, connect(device) as link:
            assert not Device(link).load(SmallImage())
            assert Message.LOAD_BEGIN not in device.executed

    def test_transfer_is_resumed_where_it_stopped(self) -> None:
        """The host dies after some frames; the next one continues, and the CRC still covers every word."""
        sent: list[int] = []

        def mangle(kind: int, wire: bytes) -> bytes:
            return b"" if kind == Message.LOAD_DATA | 0x80 and len(sent) == 2 else wire

        with FakeDevice(mangle=mangle) as device:
            with connect(device) as link, pytest.raises(LinkError, match="does not answer LOAD_DATA"):
                Device(link).load(SmallImage(), progress=lambda done, total: sent.append(done))
            executed = device.executed.count(Message.LOAD_DATA)
            device.mangle = lambda kind, wire: wire
            with connect(device) as link:
                assert Device(link).load(SmallImage())
            assert device.image_id == 77
            assert len(device.words) == 313
            assert device.executed.count(Message.LOAD_DATA) - executed == 2, "only the rest is sent"

    def test_other_geometry_is_refused_before_sending(self) -> None:
        with FakeDevice(geometry=0x9999) as device, connect(device) as link:
            with pytest.raises(TritloomError, match="compiled for geometry 00001234, the device is 00009999"):
                Device(link).load(SmallImage())
            assert Message.LOAD_BEGIN not in device.executed

    @pytest.mark.parametrize("seed", range(5))
    def test_loads_over_a_bad_line(self, seed: int) -> None:
        """One frame in ten is damaged on its way to the host; every word still arrives, once."""
        print(f"seed {seed}")
        source = random.Random(seed)

        def mangle(kind: int, wire: bytes) -> bytes:
            return wire if source.random() > 0.1 else wire[: len(wire) // 2] + b"\x01\0"

        with FakeDevice(mangle=mangle) as device, connect(device) as link:
            assert Device(link).load(SmallImage())
            assert device.image_id == 77

    def test_memory_test_reports_the_first_fault(self) -> None:
        with FakeDevice(streams=True, memory_fault=9000) as device, connect(device) as link:
            tritloom = Device(link)
            assert tritloom.test_memory(8000, seed=3) is None
            assert tritloom.test_memory(20_000, seed=3) == MemoryFault(1, 9000, 3, 0xFFFFFFFC)

    def test_memory_test_without_memory(self) -> None:
        with FakeDevice() as device, connect(device) as link:
            with pytest.raises(RefusedError, match="no SDRAM"):
                Device(link).test_memory(10)


class TestRuns:
    @pytest.mark.parametrize(("prompt", "count", "position"),
                             [([1], 1, 0), ([1, 5, 9], 40, 0), (list(range(250)), 6, 1)])
    def test_every_pass_arrives(self, prompt: list[int], count: int, position: int) -> None:
        with FakeDevice(image_id=1, context=512) as device, connect(device) as link:
            events = list(Device(link).run(prompt, count, position=position))
        assert events == expected_run(prompt, count, position)

    def test_parameters_reach_the_device(self) -> None:
        with FakeDevice(image_id=1) as device, connect(device) as link:
            temperature = Scalar.from_float(1 / 0.8)
            list(Device(link).run([1], 2, temperature=temperature, seed=0xDEADBEEF, timeout_us=123_456))
            assert (device.mantissa, device.exponent) == (temperature.mantissa, temperature.exponent)
            assert (device.seed, device.timeout_us) == (0xDEADBEEF, 123_456)

    def test_run_past_the_context_is_refused(self) -> None:
        with FakeDevice(image_id=1, context=16) as device, connect(device) as link:
            with pytest.raises(TritloomError, match="17 positions do not fit the context of 16"):
                list(Device(link).run([1] * 8, 10))

    def test_lost_token_is_an_error(self) -> None:
        """Sequence numbers of events reveal a frame that vanished; silence about it would print a wrong story."""
        count = iter(range(1000))

        def mangle(kind: int, wire: bytes) -> bytes:
            return b"" if kind == Message.TOKEN and next(count) == 3 else wire

        with FakeDevice(image_id=1, mangle=mangle) as device, connect(device) as link:
            with pytest.raises(LinkError, match="1 frames of the run were lost"):
                list(Device(link).run([1], 10))

    def test_watchdog_is_reported_and_the_device_stays_usable(self) -> None:
        with FakeDevice(image_id=1, fault_after=3) as device, connect(device) as link:
            tritloom = Device(link)
            events = []
            with pytest.raises(RefusedError, match="no progress and was reset .status WATCHDOG, detail 0x3"):
                events.extend(tritloom.run([1], 10))
            device.fault_after = None
            assert list(tritloom.run([1], 4)) == expected_run([1], 4)

    def test_silence_in_a_run_is_an_error(self) -> None:
        with FakeDevice(image_id=1) as device, connect(device) as link:
            device.paused.set()
            with pytest.raises(LinkError, match="fell silent for 0.3 s"):
                list(Device(link).run([1], 10))

    def test_closing_the_iterator_stops_the_run(self) -> None:
        with FakeDevice(image_id=1) as device, connect(device) as link:
            tritloom = Device(link)
            run = tritloom.run([1], 200)
            assert [next(run) for _ in range(3)] == expected_run([1], 3)
            run.close()
            assert not tritloom.greet().state
            assert device.executed.count(Message.STOP) == 1
            assert list(tritloom.run([1], 4)) == expected_run([1], 4)

    def test_run_of_a_vanished_host_is_ended(self) -> None:
        """A host that died in a run leaves a device that talks; the next host must not read the old tokens."""
        with FakeDevice(image_id=1) as device:
            device.paused.set()
            with connect(device) as link:
                tritloom = Device(link)
                link.request(Message.PROMPT, struct.pack("<HH", 0, 7))
                link.request(Message.RUN, struct.pack("<HHHhIIHH", 100, 0, 0, 0, 0, 0, 1, 0))
                assert tritloom.greet().state == 1
            with connect(device) as link:
                tritloom = Device(link)
                device.paused.clear()
                assert list(tritloom.run([1], 4)) == expected_run([1], 4)

    def test_watchdog_timeout_scales_with_the_token(self) -> None:
        assert watchdog_us(64_000, 64_000_000) == 4_000 + 10_000


