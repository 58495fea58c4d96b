"""The accelerator: sequencer, units and memories of one engine clock domain."""

from amaranth import Cat, Elaboratable, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from host.image import Image
from rtl.attention import Attention
from rtl.beat_queue import BeatQueue
from rtl.config import ADDRESS_BITS, Config
from rtl.csr_map import Space, Speculation
from rtl.drafter import Drafter
from rtl.embedding import Embedding
from rtl.kv_cache import KvCache
from rtl.op_layout import LOAD_ADDRESS_BITS, SCALAR
from rtl.register_copy import RegisterCopy
from rtl.rotary import Rotary
from rtl.sampler import Sampler
from rtl.scalar_unit import ScalarUnit
from rtl.sequencer import Sequencer
from rtl.slot_engine import SlotEngine
from rtl.tile_engine import TileEngine
from rtl.token_loop import TOKEN_RECORD
from rtl.trit_decoder import TritDecoder
from rtl.vector_memory import VectorMemory
from rtl.vector_unit import VectorUnit
from rtl.weight_memory import WeightMemory
from sim.fixed import ONE

UNITS = ("engine", "vector", "scalar", "attention", "sampler", "rotary")


class Core(wiring.Component):
    """Executes the image's token program, token after token.

    Made for a clock domain without a reset: every part has its own copy of ``reset``, which as one register would have
    thousands of loads all over the chip. What is registered between the parts follows its input, and needs none.

    Latency: `host.predict.predict` per token.

    Parameters
    ----------
    config : the geometry.
    image : initial contents of every memory; compiled for ``config``.
    primitives : ``"ecp5"`` instantiates carry chains and multiplier blocks, ``"portable"`` infers them.

    Members
    -------
    reset : ends a run and everything that is under way, a cycle later; memories keep what they hold.
    start, stop, tokens, position, running, done, finished, fault : the run, see `Sequencer`.
    prompt, records : tokens in and out, see `Sequencer`.
    sampling, temperature : sample by the Gumbel-max trick at an inverse temperature, else argmax.
    seed : of the sampler, taken when a run starts.
    speculation : who fills slots with drafts, see `Speculation`; nobody in a configuration without a drafter.
    load_enable, load_space, load_address, load_data : loader writes, one word per clock.
    words : weights from SDRAM (stream configuration only).
    busy : one bit per unit, in the order of ``UNITS``; each unit is also an attribute of that name.
    issue_stall, weight_stall : cycles in which the program, or the engine for want of weights, waits.
    """

    def __init__(self, *, config: Config, image: Image, primitives: str = "portable") -> None:
        self._config, self._primitives = config, primitives
        sections = image.require(config).sections
        self.streaming = config.weight_source == "sdram"
        self.sequencer = Sequencer(config=config, program=sections["program"])
        self.engine = (SlotEngine if config.slots > 1 else TileEngine)(config=config, primitives=primitives)
        self.vector = VectorUnit(
            lanes=config.lanes, head_dim=config.head_dim, vector_depth=config.vector_depth,
            activation_depth=config.activation_depth, vocab=config.vocab, embed_beats=config.embed_beats,
            embed_planes=config.embed_planes, bank_beats=config.bank_beats, gain_rows=config.gain_rows,
            has_products=config.has_products, has_silu=config.has_silu, has_sigmoid=config.has_recurrence,
            slot_bits=config.slot_bits, primitives=primitives)
        self.scalar = ScalarUnit(has_history=config.has_recurrence, slot_bits=config.slot_bits)
        self.attention = Attention(config=config, primitives=primitives)
        self.sampler = Sampler(config=config)
        self.rotary = Rotary(context_log2=config.context_log2, head_dim=config.head_dim, init=sections["rotary"])
        self.memory = VectorMemory(lanes=config.lanes, rows=config.lanes if config.slots > 1 else config.rows,
                                   depth=config.vector_beats, attention_beat=config.attention_beat,
                                   bank_beats=config.bank_beats, slot_bits=config.slot_bits, primitives=primitives)
        self.cache = KvCache(config=config, primitives=primitives)
        self.embedding = Embedding(config=config, init=sections["embedding"])
        self.source = (TritDecoder(config=config) if self.streaming
                       else WeightMemory(config=config, init=sections["weights"], primitives=primitives))
        self.drafter = Drafter(config=config, init=sections["drafts"]) if config.draft_sets else None
        members = {
            "reset": In(1), "start": In(1), "stop": In(1), "tokens": In(16), "position": In(16),
            "running": Out(1), "done": Out(1), "finished": Out(1), "fault": Out(8),
            "prompt": In(stream.Signature(16)),
            "records": Out(stream.Signature(TOKEN_RECORD)),
            "sampling": In(1), "temperature": In(SCALAR), "seed": In(32), "speculation": In(2),
            "load_enable": In(1), "load_space": In(4), "load_address": In(LOAD_ADDRESS_BITS), "load_data": In(32),
            "busy": Out(len(UNITS)), "issue_stall": Out(1), "weight_stall": Out(1),
        }
        if self.streaming:
            members["words"] = In(stream.Signature(32))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parts = {name: getattr(self, name) for name in (
            "sequencer", *UNITS, "memory", "cache", "embedding", "source")}
        for name, part in parts.items():
            m.submodules[name] = self._resettable(m, name, part)
        sequencer, engine, vector, scalar, attention, sampler, rotary, memory, cache, embedding, source = parts.values()
        self._run(m, sequencer)
        ops = sequencer.ops
        for port, user in ((ops.matvec, engine.op), (ops.vector, vector.op), (ops.embed, vector.embed),
                           (ops.scalar, scalar.op), (ops.attend, attention.op), (ops.sample, sampler.op),
                           (ops.rotary, rotary.op),
                           (vector.memory_write, memory.write_beats), (vector.bank_write, memory.write_bank),
                           (memory.attention, attention.read), (vector.memory_read, memory.read[0]),
                           (sampler.memory_read, memory.read[1]), (vector.activation, engine.activation),
                           (vector.query, attention.query), (vector.cache, cache.write),
                           (vector.embedding, embedding.read), (attention.cache, cache.read),
                           (vector.result, scalar.results[1]),
                           (attention.result, scalar.results[2]), (vector.scalar_read, scalar.read[0]),
                           (sampler.scalar_read, scalar.read[1]), (source.tiles, engine.tiles)):
            connect(m, port, user)
        self._results(m, parts)
        m.d.comb += [
            vector.rotary.eq(rotary.factors), vector.token.eq(sequencer.token),
            rotary.position.eq(sequencer.now[: self._config.context_log2]), cache.position.eq(sequencer.now),
            attention.position.eq(sequencer.now),
            sampler.greedy.eq(~self.sampling), sampler.seed.eq(self.seed), sampler.reseed.eq(sequencer.begin),
            sequencer.sampled.eq(sampler.token), sequencer.busy.eq(self.busy),
            self.weight_stall.eq(engine.starved),
        ]
        # Constant while a run lasts, and far from where it is read.
        m.d.sync += [
            scalar.temperature.mantissa.eq(Mux(self.sampling, self.temperature.mantissa, ONE.mantissa)),
            scalar.temperature.exponent.eq(Mux(self.sampling, self.temperature.exponent, ONE.exponent)),
        ]
        if self._config.has_recurrence:
            m.d.sync += scalar.history.eq(sequencer.now != 0)       # while a token lasts
        loads = {Space.PROGRAM: sequencer.load, Space.EMBEDDING: embedding.load, Space.ROTARY: rotary.load}
        self._slots(m, sequencer, engine, sampler, loads)
        if self.streaming:
            connect(m, flipped(self.words), source.words)
        else:
            connect(m, engine.fetch, source.fetch)
            loads[Space.WEIGHTS] = source.load
        self._load(m, loads)
        return m

    def _resettable(self, m: Module, name: str, part: wiring.Component) -> Elaboratable:
        """The part, behind a copy of the reset that is its own."""
        m.submodules[f"{name}_reset"] = copy = RegisterCopy(width=1, primitives=self._primitives)
        m.d.comb += copy.i.eq(self.reset)
        return ResetInserter(copy.o)(part)

    def _results(self, m: Module, parts: dict) -> None:
        """What the engine writes, and how long."""
        engine, memory, scalar = parts["engine"], parts["memory"], parts["scalar"]
        m.d.comb += self.busy.eq(Cat(parts[unit].busy for unit in UNITS))
        if self._config.slots == 1:
            connect(m, engine.write, memory.write_rows)
            connect(m, engine.result, scalar.results[0])
            return
        rows, result = memory.write_rows, scalar.results[0]
        beats = BeatQueue(lanes=self._config.lanes, address_bits=len(rows.address))
        m.submodules.beats = self._resettable(m, "beats", beats)
        m.d.comb += [
            beats.i.enable.eq(engine.write.enable), beats.i.data.eq(engine.write.data),
            beats.i.address.eq(Cat(engine.write.beat[:ADDRESS_BITS], engine.write.slot)),
            beats.hold.eq(memory.write_beats.enable),
            rows.enable.eq(beats.o.enable), rows.part.eq(1), rows.data.eq(beats.o.data),
            rows.address.eq(beats.o.address), self.busy[UNITS.index("engine")].eq(engine.busy | beats.busy),
            result.valid.eq(engine.result.valid), engine.result.ready.eq(result.ready),
            result.payload.register.eq(Cat(engine.result.payload.register, engine.result_slot)),
            result.payload.value.eq(engine.result.payload.value),
            result.payload.exponent.eq(engine.result.payload.exponent),
        ]

    def _slots(self, m: Module, sequencer: Sequencer, engine: TileEngine | SlotEngine, sampler: Sampler,
               loads: dict) -> None:
        """What only passes of several tokens need, and the drafter."""
        if self._config.slots > 1:
            m.d.comb += [engine.slots.eq(sequencer.active), sampler.rewind.eq(sequencer.rewind),
                         sampler.rewind_slot.eq(sequencer.rewind_slot)]
        elif self.streaming:
            m.d.comb += engine.fetch.ready.eq(1)
        if self.drafter is not None:
            drafter = self.drafter
            m.submodules.drafter = self._resettable(m, "drafter", drafter)
            connect(m, sequencer.drafts.text, drafter.tokens)
            connect(m, drafter.drafts, sequencer.drafts.guesses)
            # Constant while a run lasts, and far from where it is read.
            m.d.sync += [sequencer.drafts.enable.eq(self.speculation != Speculation.OFF), drafter.uses_text.eq(1),
                         drafter.uses_table.eq(self.speculation == Speculation.DRAFT)]
            loads[Space.DRAFTS] = drafter.load

    def _run(self, m: Module, sequencer: Sequencer) -> None:
        """Connect the run control."""
        connect(m, flipped(self.prompt), sequencer.prompt)
        connect(m, sequencer.records, flipped(self.records))
        m.d.comb += [
            sequencer.start.eq(self.start), sequencer.stop.eq(self.stop), sequencer.tokens.eq(self.tokens),
            sequencer.position.eq(self.position), self.running.eq(sequencer.running), self.done.eq(sequencer.done),
            self.finished.eq(sequencer.finished), self.fault.eq(sequencer.fault),
            self.issue_stall.eq(sequencer.issue_stall),
        ]

    def _load(self, m: Module, loads: dict) -> None:
        """Hand each loader write to its memory; the memories lie far apart, so each has registers on the way."""
        enable, space = Signal(), Signal(4)
        address, word = Signal(LOAD_ADDRESS_BITS), Signal(32)
        m.d.sync += [enable.eq(self.load_enable), space.eq(self.load_space), address.eq(self.load_address),
                     word.eq(self.load_data)]
        for target, port in loads.items():
            write = Cat(enable & (space == target), address, word)
            m.submodules[f"load_{target.name.lower()}"] = way = RegisterCopy(
                width=len(write), primitives=self._primitives)
            m.d.comb += [way.i.eq(write), Cat(port.enable, port.address, port.data).eq(way.o)]
