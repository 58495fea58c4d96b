"""The drafter: guesses the tokens that follow a text, from the text itself and from a learned table."""

import numpy as np
from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.config import DRAFT_TAG_BITS, DRAFT_TOKENS, DRAFT_WAYS, RECENT_TAG_BITS, RECENT_TOKENS, Config
from rtl.crc32 import after_byte
from rtl.one_port_memory import OnePortMemory
from rtl.op_layout import DRAFT, NEXT_TOKEN, load_port
from rtl.wide_load import wide_write
from sim.drafter import context_key

PROBE_STAGES = 3           # key, memory, comparison
PROBE_CYCLES = DRAFT_TOKENS + PROBE_STAGES
CRC_INIT = 0xFFFF_FFFF


class LearnedTable(wiring.Component):
    """Block RAM with the sets of learned contexts.

    A loaded set takes the place of a read.

    Latency: the set follows its address by one cycle.

    Parameters
    ----------
    config : with ``draft_sets``.
    init : uint32 [draft_sets, DRAFT_WAYS] words; all zero without it.

    Members
    -------
    address : of a set, read in every cycle.
    ways : its words.
    load : address ``set | piece``, 32 bits of a set each, low bits first; the last piece writes the set.

    Raises
    ------
    ValueError: ``init`` has another shape, or a word that is too wide.
    """

    def __init__(self, *, config: Config, init: np.ndarray | None = None) -> None:
        self._sets = config.draft_sets
        self.entry = data.StructLayout({"token": config.token_bits, "tag": DRAFT_TAG_BITS})
        shape, bits = (config.draft_sets, DRAFT_WAYS), self.entry.size
        if init is not None and init.shape != shape:
            raise ValueError(f"init must have shape {shape}, got {init.shape}")
        if init is not None and int(init.max(initial=0)) >> bits:
            raise ValueError(f"init has a word {init.max()}, which does not fit {bits} bits")
        self._words = [] if init is None else [
            sum(word << bits * way for way, word in enumerate(ways)) for ways in init.tolist()]
        super().__init__({
            "address": In(ceil_log2(config.draft_sets)),
            "ways": Out(data.ArrayLayout(self.entry, DRAFT_WAYS)),
            "load": In(load_port())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = len(self.ways.as_value())
        m.submodules.sets = sets = OnePortMemory(shape=unsigned(width), depth=self._sets, init=self._words)
        enable, address, word = wide_write(m, self.load, width)
        m.d.comb += [
            sets.write.eq(enable), sets.write_data.eq(word), sets.read.eq(1),
            sets.address.eq(Mux(sets.write, address, self.address)),
            self.ways.as_value().eq(sets.read_data),
        ]
        return m


class Drafter(wiring.Component):
    """Knows the text so far, and guesses how it goes on; see `sim.drafter.Drafter`, to which it is equal.

    Contexts of one to ``DRAFT_TOKENS`` tokens are looked up one after the other, each by the CRC of the one before and
    a further token; what is found last counts. A token starts a new chain of drafts: one that is offered in that cycle
    is withdrawn.

    Latency: `rtl.timing.remember_cycles` from a token to its first draft and to the next token, `DRAFT_CYCLES` from a
    draft to the next draft or token.

    Parameters
    ----------
    config : with ``draft_sets``.
    init : uint32 [draft_sets, DRAFT_WAYS], the learned table at power-up; see `host.drafts.draft_table`.

    Members
    -------
    tokens : the text as it grows, given and sampled tokens alike; ``first``, of the first token of every text, forgets
        what was before.
    drafts : guesses at what follows; each is part of the context of the next. Not ``known``: nothing was found, and
        the token is 0.
    uses_text, uses_table : where guesses come from.
    load : loader port of the learned table; only while no drafts are asked for.
    """

    def __init__(self, *, config: Config, init: np.ndarray | None = None) -> None:
        self._config = config
        self._learned = LearnedTable(config=config, init=init)
        self._place_bits = ceil_log2(config.recent_words) + RECENT_TAG_BITS
        super().__init__({
            "tokens": In(stream.Signature(NEXT_TOKEN)),
            "drafts": Out(stream.Signature(DRAFT)),
            "uses_text": In(1), "uses_table": In(1),
            "load": In(load_port())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        c = self._config
        text = Signal(data.ArrayLayout(c.token_bits, DRAFT_TOKENS), reset_less=True)    # the last, the latest first
        ahead = Signal.like(text)                                       # the same with the drafts so far
        started, restarted = Signal(), Signal()                         # a token came; no draft has since
        crc = Signal(32, reset_less=True)
        step = Signal(range(max(c.recent_words, PROBE_CYCLES + 1)))
        # Where the token after the text will be remembered: found on the way to its draft.
        after_nothing = [context_key((0,) * length) & (1 << self._place_bits) - 1 for length in RECENT_TOKENS]
        held = Signal(data.ArrayLayout(self._place_bits, len(RECENT_TOKENS)), init=after_nothing,
                      reset_less=True)
        m.submodules.recent = recent = OnePortMemory(shape=self._recent_layout, depth=c.recent_words)
        place = ~crc[: self._place_bits]
        context_token, half = Signal(16), Signal(32)
        m.d.comb += [
            context_token.eq(ahead[step[: ceil_log2(DRAFT_TOKENS)]]), half.eq(after_byte(crc, context_token[:8])),
            recent.address.eq(place), recent.read.eq(1), recent.write_data.token.eq(text[0]),
            recent.write_data.valid.eq(1),
        ]
        m.d.sync += step.eq(step + 1)
        with m.FSM() as fsm:
            with m.State("READY"):
                m.d.comb += [self.tokens.ready.eq(1), self.drafts.valid.eq(started)]
                m.d.sync += [step.eq(0), crc.eq(CRC_INIT)]
                with m.If(self.tokens.valid):
                    before = Mux(self.tokens.payload.first, 0, text.as_value())
                    grown = Cat(self.tokens.payload.token[: c.token_bits], before)[: len(text.as_value())]
                    m.d.sync += [text.eq(grown), ahead.eq(grown), started.eq(1), restarted.eq(1)]
                    m.next = "REMEMBER"
                    with m.If(self.tokens.payload.first):
                        m.d.sync += held.eq(Cat(Const(value, self._place_bits) for value in after_nothing))
                        m.next = "FORGET"
                with m.Elif(self.drafts.valid & self.drafts.ready):
                    grown = Cat(self.drafts.payload.token[: c.token_bits], ahead)[: len(text.as_value())]
                    m.d.sync += [ahead.eq(grown), restarted.eq(0)]
                    m.next = "PROBE"
            with m.State("FORGET"):
                m.d.comb += [recent.address.eq(step), recent.write.eq(1), recent.write_data.as_value().eq(0)]
                with m.If(step == c.recent_words - 1):
                    m.d.sync += step.eq(0)
                    m.next = "REMEMBER"
            with m.State("REMEMBER"):
                m.d.comb += [recent.write.eq(1), Cat(recent.address, recent.write_data.tag).eq(held[step[0]])]
                with m.If(step == len(RECENT_TOKENS) - 1):
                    m.d.sync += step.eq(0)
                    m.next = "PROBE"
            with m.State("PROBE"):
                with m.If(step < DRAFT_TOKENS):
                    m.d.sync += crc.eq(after_byte(half, context_token[8:]))
                for index, length in enumerate(RECENT_TOKENS):
                    with m.If(restarted & (step == length)):
                        m.d.sync += held[index].eq(place)
                with m.If(step == PROBE_CYCLES - 1):
                    m.next = "READY"
        self._compare(m, fsm.ongoing("PROBE"), step, ~crc, recent)
        return m

    @property
    def _recent_layout(self) -> data.StructLayout:
        return data.StructLayout({"token": self._config.token_bits, "tag": RECENT_TAG_BITS, "valid": 1})

    def _compare(self, m: Module, probing: Value, step: Signal, key: Value, recent: OnePortMemory) -> None:
        """Words a cycle after their key, then hits, then the draft; that of the longest context remains."""
        m.submodules.learned = learned = self._learned
        wiring.connect(m, wiring.flipped(self.load), learned.load)
        m.d.comb += learned.address.eq(key)
        k_learned_tag, k_recent_tag = Signal(DRAFT_TAG_BITS), Signal(RECENT_TAG_BITS)
        m.d.sync += [k_learned_tag.eq(key >> len(learned.address)), k_recent_tag.eq(key >> len(recent.address))]

        token = unsigned(self._config.token_bits)
        hit = Signal(data.StructLayout({"recent": 1, "learned": DRAFT_WAYS}))
        hit_tokens = Signal(data.StructLayout({"recent": token, "learned": data.ArrayLayout(token, DRAFT_WAYS)}),
                            reset_less=True)
        remembered = recent.read_data
        # The words that are there in a step belong to the context of one token less.
        may_be_recent = self.uses_text & Cat(step == length + 1 for length in RECENT_TOKENS).any()
        m.d.sync += [hit.recent.eq(may_be_recent & remembered.valid & (remembered.tag == k_recent_tag)),
                     hit_tokens.recent.eq(remembered.token)]
        for way, word in enumerate(learned.ways):
            m.d.sync += [hit.learned[way].eq(self.uses_table & (word.tag == k_learned_tag)),
                         hit_tokens.learned[way].eq(word.token)]

        found = self.drafts.payload
        with m.If(probing & (step == 0)):
            m.d.sync += found.as_value().eq(0)
        with m.Elif(probing & (step >= PROBE_STAGES)):
            for way in reversed(range(DRAFT_WAYS)):
                with m.If(hit.learned[way]):
                    m.d.sync += [found.token.eq(hit_tokens.learned[way]), found.known.eq(1)]
            with m.If(hit.recent):
                m.d.sync += [found.token.eq(hit_tokens.recent), found.known.eq(1)]
