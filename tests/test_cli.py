"""The command ``tritloom`` against a device in a thread that runs the golden model, and every way to use it wrongly."""

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from host.checkpoint import synthetic_checkpoint
from host.cli import main
from host.compiler import compile_checkpoint
from host.image import Image
from host.importer import load_checkpoint
from host.session import DEFAULT_MODEL, inverse_temperature, read_image, tokenizer_of
from host.synthetic import TOKENIZER
from rtl.config import RESIDENT, TINY
from rtl.csr_map import Message
from sim.fixed import Scalar
from sim.golden import Golden
from tests.fake_device import FakeDevice
from tests.shapes import SHAPES, WORDS

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def image() -> Image:
    return read_image(DEFAULT_MODEL, None)


@pytest.fixture(scope="module")
def short_image() -> Image:
    """The same model on hardware with a context so short that a test fills it quickly."""
    return compile_checkpoint(load_checkpoint(DEFAULT_MODEL), replace(RESIDENT, name="short", context=32))


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image file of a random model on the smallest configuration, with a real tokenizer."""
    tokenizer = TOKENIZER.read_bytes()
    path = tmp_path_factory.mktemp("tiny") / "tiny.trit"
    compile_checkpoint(replace(synthetic_checkpoint(SHAPES["tiny"]), tokenizer=tokenizer), TINY).save(path)
    return path


class GoldenDevice(FakeDevice):
    """A device that computes what it should.

    Parameters
    ----------
    image : the model it holds.
    wrong_at : position at which it samples a wrong token.
    options : further ones of `FakeDevice`.
    """

    def __init__(self, image: Image, *, wrong_at: int | None = None, **options: object) -> None:
        settings = {"geometry": image.geometry, "image_id": image.image_id, "context": image.context,
                    "token_cycles": image.predicted_cycles}
        super().__init__(step=self._golden_step, **settings | options)
        self._golden = Golden(image)
        self._wrong_at = wrong_at

    def _do_run(self, body: bytes) -> tuple:
        _, _, mantissa, exponent, seed, _, _, _ = struct.unpack("<HHHhIIHH", body)
        self._golden.reset(seed=seed, temperature=Scalar(mantissa, exponent) if mantissa else None)
        return super()._do_run(body)

    def _golden_step(self, token: int, position: int) -> int:
        sampled = self._golden.step(token, position)
        return sampled ^ 1 if position == self._wrong_at else sampled


@pytest.fixture
def device(image: Image) -> Iterator[GoldenDevice]:
    with GoldenDevice(image) as started:
        yield started


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Output of a command that must exit with 0 and say nothing on the error stream but progress."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return captured.out


def fail(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a command that must exit with 1."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 1, error
    assert "Traceback" not in error
    line = error.splitlines()[-1]
    assert line.startswith("tritloom: ")
    return line


class TestRun:
    def test_text_streams_and_the_table_follows(self, capsys: pytest.CaptureFixture[str], image: Image,
                                                device: GoldenDevice) -> None:
        out = succeed(capsys, "run", "--port", device.port, "--prompt", PROMPT, "-n", "20")
        tokenizer = tokenizer_of(image)
        prompt = tokenizer.encode(PROMPT)
        story = tokenizer.decode(prompt + Golden(image).generate(prompt, 20))
        assert out.startswith(story + "\n")
        table = " ".join(out[len(story):].split())
        assert "measured on a board" in table
        assert "tokens generated │ 20" in table
        assert "tokens equal the golden model │ yes" in table
        assert "passes exactly as predicted │ 20 of 20" in table

    def test_json_is_one_object_with_every_key(self, capsys: pytest.CaptureFixture[str], image: Image,
                                               device: GoldenDevice) -> None:
        result = json.loads(succeed(capsys, "run", "--port", device.port, "--prompt", PROMPT, "-n", "12", "--json"))
        prompt = tokenizer_of(image).encode(PROMPT)
        assert result["tokens"] == Golden(image).generate(prompt, 12)
        assert result["text"].startswith(PROMPT)
        assert result["golden_equal"] is True
        predicted = [image.predicted_cycles(len(prompt) - 1 + index) for index in range(12)]
        assert result["cycles_per_token"] == result["predicted_cycles_per_token"] == predicted
        assert set(result["sdram"]) == {"weight_bytes", "other_bytes", "cycles", "refresh_cycles", "peak_fraction"}
        assert set(result["stalls"]) == {"issue", "weight"}
        assert result["provenance"] == "measured on a board"

    def test_sampling_follows_the_seed(self, capsys: pytest.CaptureFixture[str], image: Image,
                                       device: GoldenDevice) -> None:
        prompt = tokenizer_of(image).encode(PROMPT)
        for seed in (1, 2):
            result = json.loads(succeed(capsys, "run", "--port", device.port, "--prompt", PROMPT, "-n", "15", "--json",
                                        "--temperature", "0.5", "--seed", str(seed)))
            expected = Golden(image).generate(prompt, 15, temperature=inverse_temperature(0.5), seed=seed)
            assert result["tokens"] == expected
            assert result["golden_equal"] is True

    def test_wrong_token_is_named(self, capsys: pytest.CaptureFixture[str], image: Image) -> None:
        """A device that computes something else must not pass for a storyteller."""
        with GoldenDevice(image, wrong_at=9) as device:
            line = fail(capsys, "run", "--port", device.port, "--prompt", PROMPT, "-n", "10")
        assert "position 9: the device sampled token" in line

    def test_empty_prompt_starts_from_nothing(self, capsys: pytest.CaptureFixture[str], device: GoldenDevice) -> None:
        result = json.loads(succeed(capsys, "run", "--port", device.port, "-n", "3", "--json"))
        assert len(result["tokens"]) == 3

    def test_full_context_stops_with_a_note(self, capsys: pytest.CaptureFixture[str], short_image: Image,
                                            tmp_path: Path) -> None:
        path = tmp_path / "short.trit"
        short_image.save(path)
        with GoldenDevice(short_image) as device:
            out = succeed(capsys, "run", "--port", device.port, "--model", path, "--prompt", PROMPT, "--json")
        result = json.loads(out)
        prompt = tokenizer_of(short_image).encode(PROMPT)
        assert len(result["tokens"]) == short_image.context - len(prompt) + 1
        assert result["stopped"] == "the context of 32 positions is full; --slide goes on"

    def test_sliding_context_goes_on_with_its_last_half(self, capsys: pytest.CaptureFixture[str], short_image: Image,
                                                        tmp_path: Path) -> None:
        path = tmp_path / "short.trit"
        short_image.save(path)
        with GoldenDevice(short_image) as device:
            out = succeed(capsys, "run", "--port", device.port, "--model", path, "--prompt", PROMPT, "-n", "50",
                          "--json", "--slide")
            assert device.executed.count(Message.RUN) == 3
        result = json.loads(out)
        tokens = tokenizer_of(short_image).encode(PROMPT)
        generated: list[int] = []
        for count in (28, 17, 5):
            generated += Golden(short_image).generate(tokens, count)
            tokens = (tokens + generated)[-16:]
        assert result["tokens"] == generated
        assert result["golden_equal"] is True
        assert result["stopped"] is None

    def test_other_image_is_loaded_first(self, capsys: pytest.CaptureFixture[str], image: Image) -> None:
        with GoldenDevice(image, image_id=0) as device:
            succeed(capsys, "run", "--port", device.port, "-n", "1")
            assert device.image_id == image.image_id
            assert len(device.words) == sum(len(words) for _, _, words in image.load_words())

    @pytest.mark.parametrize(("arguments", "message"), [
        ((), "name the device: --sim .* or --port DEV"),
        (("--sim", "--port", "/dev/ttyUSB0"), "name the device"),
        (("--port", "/dev/ttyNONE"), "/dev/ttyNONE: no such serial port"),
        (("--sim", "--prompt", "word " * 300), "the prompt has [0-9]+ tokens, the context holds 256"),
        (("--sim", "--config", "huge"), "no configuration 'huge'; choose nano, tiny, pocket, sparse, resident"),
        (("--sim", "--config", "tiny"), "tiny has no model of its own; name one with --model"),
        (("--sim", "--config", "nano", "--prompt", "Once"), "the model knows no 'O', only abcdefghijklmnopqrstuvwxyz"),
        (("--sim", "--config", "nano", "--prompt", "abcdefghijklmnop"), "the prompt has 17 tokens, the context holds"),
        (("--sim", "--model", "/none"), "/none: no such model directory"),
        (("--port", "/dev/ttyNONE", "--trace", "wave.vcd"), "--trace and --max-cycles need --sim"),
        (("--sim", "--prompt", "a\0b"), "NUL"),
    ])
    def test_wrong_use_is_one_line(self, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...],
                                   message: str) -> None:
        line = fail(capsys, "run", *arguments)
        assert pytest.raises(AssertionError, match=message).matches(AssertionError(line)), line

    @pytest.mark.parametrize("temperature", ["nan", "-1", "1e-9", "1e9"])
    def test_impossible_temperature(self, capsys: pytest.CaptureFixture[str], device: GoldenDevice,
                                    temperature: str) -> None:
        line = fail(capsys, "run", "--port", device.port, "--temperature", temperature)
        assert "is out of range; use 0 or 0.01 to 100" in line

    def test_busy_port(self, capsys: pytest.CaptureFixture[str], device: GoldenDevice) -> None:
        from serial import Serial

        with Serial(device.port, exclusive=True):
            assert "busy; close the other program" in fail(capsys, "run", "--port", device.port)

    def test_board_of_other_geometry(self, capsys: pytest.CaptureFixture[str], image: Image) -> None:
        with GoldenDevice(image, geometry=0xBAD) as device:
            assert "the device is 00000bad" in fail(capsys, "run", "--port", device.port)


class TestSimulatedChip:
    """The whole way: command, link, firmware, gateware and back, in the smallest configuration."""

    @pytest.mark.parametrize("arguments", [(), ("--temperature", "0.9", "--seed", "7")], ids=["greedy", "sampled"])
    def test_tokens_and_cycles_are_exact(self, capsys: pytest.CaptureFixture[str], tiny_file: Path,
                                         arguments: tuple[str, ...]) -> None:
        result = json.loads(succeed(capsys, "run", "--sim", "--model", tiny_file, "--prompt", "Once", "-n", "20",
                                    "--json", *arguments))
        assert result["golden_equal"] is True
        assert result["cycles_per_token"] == result["predicted_cycles_per_token"]
        assert result["provenance"] == "simulated"

    def test_words_slide_past_their_context(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The smallest model on the configuration that is its own, which nobody named: a context of 16, 40 letters."""
        result = json.loads(succeed(capsys, "run", "--sim", "--model", WORDS, "--temperature", "0.8", "-n", "40",
                                    "--slide", "--json"))
        assert result["golden_equal"] is True and result["stopped"] is None
        assert result["cycles_per_token"] == result["predicted_cycles_per_token"]
        assert len(result["tokens"]) == 40 and max(result["cycles_per_token"]) <= 1000
        assert "\n" in result["text"] and set(result["text"]) <= set("abcdefghijklmnopqrstuvwxyz\n")
        assert "device  ok: " in succeed(capsys, "selftest", "--sim", "--model", WORDS)

    def test_selftest_passes(self, capsys: pytest.CaptureFixture[str], tiny_file: Path) -> None:
        assert "device  ok: " in succeed(capsys, "selftest", "--sim", "--model", tiny_file)

    def test_simulation_that_ends_early_is_one_line(self, capsys: pytest.CaptureFixture[str],
                                                    tiny_file: Path) -> None:
        line = fail(capsys, "run", "--sim", "--model", tiny_file, "-n", "20", "--max-cycles", "30000")
        assert "the simulated chip stopped: stopped after" in line


class TestOtherCommands:
    def test_load_then_load_again(self, capsys: pytest.CaptureFixture[str], image: Image) -> None:
        with GoldenDevice(image, image_id=0) as device:
            assert "loaded and verified" in succeed(capsys, "load", "--port", device.port)
            assert "is already there" in succeed(capsys, "load", "--port", device.port)

    def test_info(self, capsys: pytest.CaptureFixture[str], image: Image, device: GoldenDevice) -> None:
        out = succeed(capsys, "info", "--port", device.port)
        assert f"{image.geometry:08x} (resident)" in out
        assert f"{image.image_id:08x}" in out

    def test_selftest_passes(self, capsys: pytest.CaptureFixture[str], device: GoldenDevice) -> None:
        out = succeed(capsys, "selftest", "--port", device.port)
        assert [line.split()[:2] for line in out.splitlines()] == [["host", "ok:"], ["link", "ok:"], ["device", "ok:"]]

    def test_selftest_blames_the_device(self, capsys: pytest.CaptureFixture[str], image: Image) -> None:
        with GoldenDevice(image, wrong_at=12) as device:
            assert "the device is at fault: token" in fail(capsys, "selftest", "--port", device.port)

    def test_selftest_blames_the_memory(self, capsys: pytest.CaptureFixture[str], image: Image) -> None:
        with GoldenDevice(image, streams=True, memory_fault=77) as device:
            line = fail(capsys, "selftest", "--port", device.port, "--memory-words", "1000")
        assert "the device is at fault: 1 of 1000 SDRAM words differ, first 0x4d" in line

    def test_selftest_blames_the_link(self, capsys: pytest.CaptureFixture[str], image: Image) -> None:
        count = iter(range(1000))

        def mangle(kind: int, wire: bytes) -> bytes:
            return b"\x05noise\0" + wire if kind == Message.COUNTERS | 0x80 and next(count) == 5 else wire

        with GoldenDevice(image, mangle=mangle) as device:
            assert "the link is at fault: 1 damaged frames" in fail(capsys, "selftest", "--port", device.port)

    def test_compile_list_and_run_from_the_file(self, capsys: pytest.CaptureFixture[str], image: Image, tmp_path: Path,
                                                device: GoldenDevice) -> None:
        path = tmp_path / "model.trit"
        assert f"image {image.image_id:08x} for resident" in succeed(capsys, "compile", DEFAULT_MODEL, "-o", path)
        listing = succeed(capsys, "list", path)
        assert listing == image.listing() + "\n"
        succeed(capsys, "run", "--port", device.port, "--model", path, "-n", "1")

    def test_damaged_image_file(self, capsys: pytest.CaptureFixture[str], image: Image, tmp_path: Path) -> None:
        path = tmp_path / "model.trit"
        image.save(path)
        data = bytearray(path.read_bytes())
        data[-1000] ^= 1
        path.write_bytes(data)
        assert "model.trit: damaged image" in fail(capsys, "run", "--sim", "--model", path)
        path.write_bytes(data[:-2000])
        assert "model.trit: damaged image" in fail(capsys, "list", path)

    def test_image_for_another_configuration(self, capsys: pytest.CaptureFixture[str], image: Image,
                                             tmp_path: Path) -> None:
        path = tmp_path / "model.trit"
        image.save(path)
        line = fail(capsys, "run", "--sim", "--model", path, "--config", "stream")
        assert "compiled for geometry" in line

    def test_output_that_cannot_be_written(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        target = tmp_path / "none" / "model.trit"
        assert "cannot be written" in fail(capsys, "compile", DEFAULT_MODEL, "-o", target)

    def test_unknown_option_is_a_usage_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["run", "--colour"])
        assert ended.value.code == 2
        assert "No such option" in capsys.readouterr().err
