"""Weight tiles from a stream of base-3 words."""

from amaranth import C, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.config import CODE_BITS, CODE_TERMS, SIGN, Config
from rtl.tile_layout import TRIT, relative_signs, tile_layout, trits_layout
from rtl.timing import BASE3_WORD_TRITS

DIGIT_BITS = 2             # a base-3 digit is trit + 1
BYTE_DIGITS = 5
WORD_BYTES = 4
POWERS = [3**index for index in range(BYTE_DIGITS)]
BYTE_TABLE = [sum(byte // power % 3 << DIGIT_BITS * index for index, power in enumerate(POWERS)) for byte in range(256)]
TRITS_BY_DIGIT = [TRIT.const(fields).as_bits() for fields in (
    {"nonzero": 1, "negative": 1}, {"nonzero": 0, "negative": 0}, {"nonzero": 1, "negative": 0})]
TRIT_TABLE = [sum(TRITS_BY_DIGIT[byte // power % 3] << DIGIT_BITS * index for index, power in enumerate(POWERS))
              for byte in range(256)]


class CodeEncoder(wiring.Component):
    """Three base-3 digits to a table code with its absolute sign.

    Latency: none, combinational.

    Members
    -------
    digits : first in the low bits.
    code : table code.
    """

    digits: In(DIGIT_BITS * CODE_TERMS)
    code: Out(CODE_BITS)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.Switch(self.digits):
            for number in range(3**CODE_TERMS):
                digits = sum(number // 3**index % 3 << DIGIT_BITS * index for index in range(CODE_TERMS))
                value = number - (3**CODE_TERMS - 1) // 2
                with m.Case(digits):
                    m.d.comb += self.code.eq(abs(value) | (value < 0) << SIGN)
        return m


class TritDecoder(wiring.Component):
    """Turns words of four base-3 bytes, five trits each, low power first, into tiles.

    An engine with slots looks nothing up: its tiles are the trits themselves, as the tables of bytes hold them.
    Whether a tile is taken becomes known late, so it only decides what a spare register holds.

    Latency: ``2 + rows * columns / 20`` cycles from the first word of a tile to the tile; one word per cycle. While
    tiles are not taken, it holds three of them and one word more.

    Parameters
    ----------
    config : geometry.

    Members
    -------
    words : stream from SDRAM.
    tiles : the tiles, `tile_layout` or, with slots, `trits_layout`.

    Raises
    ------
    ValueError: a tile is not a whole number of words.
    """

    def __init__(self, *, config: Config) -> None:
        trits = config.rows * config.columns
        if trits % BASE3_WORD_TRITS:
            raise ValueError(f"rows * columns must be a multiple of {BASE3_WORD_TRITS}, got {trits}")
        self._config = config
        self._tile_words = trits // BASE3_WORD_TRITS
        layout = trits_layout(config.columns) if config.slots > 1 else tile_layout(config.rows, config.codes)
        super().__init__({"words": In(stream.Signature(32)), "tiles": Out(stream.Signature(layout))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        digits = Signal(DIGIT_BITS * BASE3_WORD_TRITS * self._tile_words, reset_less=True)
        filled = Signal(range(self._tile_words + 1))
        decoded, decoded_valid = Signal(DIGIT_BITS * BASE3_WORD_TRITS), Signal()

        full = filled == self._tile_words
        # The latest tile, and the one before it while that is not taken.
        latest, spare = (Signal(self.tiles.payload.shape(), name=name, reset_less=True) for name in ("latest", "spare"))
        latest_valid, spare_valid = Signal(), Signal()
        release = full & (~latest_valid | ~spare_valid)
        append = decoded_valid & (~full | release)
        m.d.comb += self.words.ready.eq(~decoded_valid | append)
        with m.If(self.words.ready):
            m.d.sync += decoded_valid.eq(self.words.valid)
        with_slots = self._config.slots > 1
        contents = TRIT_TABLE if with_slots else BYTE_TABLE
        for byte in range(WORD_BYTES):
            table = Memory(shape=DIGIT_BITS * BYTE_DIGITS, depth=len(contents), init=contents,
                           attrs={"rom_style": "block"})
            m.submodules[f"table_{byte}"] = table
            read = table.read_port()
            m.d.comb += [read.addr.eq(self.words.payload.word_select(byte, 8)), read.en.eq(self.words.ready),
                         decoded.word_select(byte, DIGIT_BITS * BYTE_DIGITS).eq(read.data)]

        with m.If(append):
            m.d.sync += [digits.eq(Cat(digits, decoded)[len(decoded) :])]
        with m.If(release):
            m.d.sync += filled.eq(append)
        with m.Elif(append):
            m.d.sync += filled.eq(filled + 1)

        m.d.comb += [self.tiles.valid.eq(latest_valid | spare_valid),
                     self.tiles.payload.eq(Mux(spare_valid, spare, latest))]
        with m.If(~spare_valid):
            m.d.sync += [spare.eq(latest), spare_valid.eq(latest_valid & ~self.tiles.ready)]
        with m.Elif(self.tiles.ready):
            m.d.sync += spare_valid.eq(0)
        with m.If(~latest_valid | ~spare_valid):
            m.d.sync += [latest.eq(digits if with_slots else self._codes(m, digits)), latest_valid.eq(full)]
        return m

    def _codes(self, m: Module, digits: Signal) -> Cat:
        """Every row's codes; digits beyond the last column count as zero trits."""
        c = self._config
        padding = [1] * (c.codes * CODE_TERMS - c.columns)
        rows = []
        for row in range(c.rows):
            columns = digits[row * c.columns * DIGIT_BITS :][: c.columns * DIGIT_BITS]
            padded = Cat(columns, *(C(digit, DIGIT_BITS) for digit in padding))
            codes = []
            for index in range(c.codes):
                m.submodules[f"encoder_{row}_{index}"] = encoder = CodeEncoder()
                m.d.comb += encoder.digits.eq(padded.word_select(index, DIGIT_BITS * CODE_TERMS))
                codes.append(encoder.code)
            signs = relative_signs([code[SIGN] for code in codes])
            rows += [Cat(code[:SIGN], sign) for code, sign in zip(codes, signs, strict=True)]
        return Cat(rows)
