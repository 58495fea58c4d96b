"""The sampler: the next token from the logits, greedily or by the Gumbel-max trick."""

from amaranth import Array, C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.config import ADDRESS_BITS, ELEMENT_BITS, Config
from rtl.isa import SCALE_SHIFT_STEP, Opcode
from rtl.lane_factor import FACTOR_BITS, SHIFT_STEPS_BITS, LaneFactor
from rtl.op_layout import SCALAR, elements, op_layout, read_port
from sim.fixed import GUMBEL, GUMBEL_ENTRIES, noise_seed

STATE_BITS = 32
NOISE_BITS = 12
KEY_BITS = ELEMENT_BITS + 1
KEY_LOWEST = -1 << KEY_BITS - 1      # below every scaled logit with noise
TOKEN_BITS = 16
COUNT_BITS = 13
# Stages of a chunk, in cycles since its address was given.
READ, BEAT, LOGIT, PRODUCT, ROUNDED, SHIFTED, SATURATED, KEY = range(1, 9)
ADVANCE = SATURATED - 3              # then follow generator state, table output, noise


class GumbelNoise(wiring.Component):
    """Gumbel-distributed noise of one or more sampler lanes: a xorshift32 generator each, and a shared table.

    Latency: three cycles from ``advance`` to ``noise``; one sample per lane and cycle.

    Parameters
    ----------
    lanes : generators.
    slots : states that can be kept.

    Members
    -------
    reseed : take ``seed``; not together with ``advance``.
    slot : place of states to keep or to restore; only with several slots, like the next two.
    keep, restore : keep the states of this cycle, or take the kept ones; neither together with ``advance``.
    advance : next state of all generators; without it the ``noise`` of this cycle is zero.
    noise : signed, ``GUMBEL_FRACTION`` fraction bits.
    """

    def __init__(self, *, lanes: int, slots: int = 1) -> None:
        self._lanes, self._slots = lanes, slots
        super().__init__({
            "seed": In(STATE_BITS), "reseed": In(1), "advance": In(1),
            "noise": Out(data.ArrayLayout(signed(NOISE_BITS), lanes))}
            | ({"slot": In(range(slots)), "keep": In(1), "restore": In(1)} if slots > 1 else {}))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.table = table = memory.Memory(
            shape=signed(NOISE_BITS), depth=GUMBEL_ENTRIES, init=GUMBEL.tolist(), attrs={"rom_style": "block"})
        advanced, looked_up = Signal(), Signal()
        m.d.sync += [advanced.eq(self.advance), looked_up.eq(advanced)]
        states = [Signal(STATE_BITS, name=f"state{lane}", init=noise_seed(0, lane)) for lane in range(self._lanes)]
        kept = self._keep(m, states) if self._slots > 1 else None
        for lane, state in enumerate(states):
            first, second, third = (Signal(STATE_BITS, name=f"{step}{lane}") for step in ("left", "right", "next"))
            m.d.comb += [
                first.eq(state ^ state << 13), second.eq(first ^ first >> 17), third.eq(second ^ second << 5)]
            with m.If(self.reseed):
                mixed = self.seed ^ noise_seed(0, lane)
                m.d.sync += state.eq(Mux(mixed == 0, 1, mixed))
            with m.Elif(self.advance):
                m.d.sync += state.eq(third)
            if kept is not None:
                with m.If(self.restore):
                    m.d.sync += state.eq(kept[lane])
            port = table.read_port()
            m.d.comb += [port.addr.eq(state >> STATE_BITS - ceil_log2(GUMBEL_ENTRIES)), port.en.eq(advanced)]
            m.d.sync += self.noise[lane].eq(Mux(looked_up, port.data, 0))
        return m

    def _keep(self, m: Module, states: list[Signal]) -> data.View:
        """Memory of states by slot."""
        m.submodules.kept = kept = memory.Memory(
            shape=data.ArrayLayout(STATE_BITS, self._lanes), depth=self._slots, init=[],
            attrs={"ram_style": "distributed"})
        write, read = kept.write_port(), kept.read_port(domain="comb")
        m.d.comb += [write.en.eq(self.keep), write.addr.eq(self.slot), write.data.eq(Cat(states)),
                     read.addr.eq(self.slot)]
        return read.data


class Best(wiring.Component):
    """Index of the greatest of many keys that come in chunks; the lowest index among equals.

    Latency: ``ceil_log2(lanes) + 1`` cycles from a chunk to ``index``, one chunk per cycle.

    Parameters
    ----------
    lanes : keys per chunk.

    Members
    -------
    clear : forget all keys.
    keys, valid : a chunk; its first key has the index that follows the chunk before.
    index : of the greatest key so far.
    """

    def __init__(self, *, lanes: int) -> None:
        self._lanes = lanes
        super().__init__({
            "clear": In(1),
            "keys": In(data.ArrayLayout(signed(KEY_BITS), lanes)), "valid": In(1),
            "index": Out(TOKEN_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid: Value = self.valid
        entries = [(self.keys[lane], C(lane, TOKEN_BITS)) for lane in range(self._lanes)]
        lane_bits = max(1, ceil_log2(self._lanes))
        for level in range(ceil_log2(self._lanes)):
            pairs = [entries[at : at + 2] for at in range(0, len(entries), 2)]
            entries = []
            for position, pair in enumerate(pairs):
                key = Signal(signed(KEY_BITS), name=f"key{level}_{position}", reset_less=True)
                lane = Signal(lane_bits, name=f"lane{level}_{position}", reset_less=True)
                (low_key, low_lane), (high_key, high_lane) = pair[0], pair[-1]
                high_wins = high_key > low_key
                m.d.sync += [key.eq(Mux(high_wins, high_key, low_key)), lane.eq(Mux(high_wins, high_lane, low_lane))]
                entries.append((key, lane))
            level_valid = Signal(name=f"valid{level}")
            m.d.sync += level_valid.eq(valid)
            valid = level_valid
        (key, lane), = entries
        base = Signal(TOKEN_BITS)
        greatest = Signal(signed(KEY_BITS), init=KEY_LOWEST)
        with m.If(self.clear):
            m.d.sync += [base.eq(0), greatest.eq(KEY_LOWEST)]
        with m.Elif(valid):
            m.d.sync += base.eq(base + self._lanes)
            with m.If(key > greatest):
                m.d.sync += [greatest.eq(key), self.index.eq(base + lane)]
        return m


class Sampler(wiring.Component):
    """Greatest logit, or greatest scaled logit plus Gumbel noise, as ``golden.sample``.

    Latency: busy for ``timing.sampler_cycles(config, op, greedy)`` cycles, ``sampler_lanes`` logits per cycle.

    Parameters
    ----------
    config : the geometry.

    Members
    -------
    op, busy : the operation.
    memory_read : beats of vector memory.
    scalar_read : the scale.
    greedy : neither scale nor add noise; taken with the operation.
    seed, reseed : new generator states; not while busy.
    rewind, rewind_slot : the samples of this slot and those after it were for nothing: take back their noise; not while
        busy, nor in the cycle that takes an operation; only with several slots.
    token : index of the winner, valid while idle.
    """

    def __init__(self, *, config: Config) -> None:
        self._config = config
        super().__init__({
            "op": In(stream.Signature(op_layout(Opcode.SAMPLE, config.slot_bits))),
            "busy": Out(1),
            "memory_read": Out(read_port(elements(config.lanes), ADDRESS_BITS + config.slot_bits)),
            "scalar_read": Out(read_port(SCALAR, 5 + config.slot_bits)),
            "greedy": In(1),
            "seed": In(STATE_BITS), "reseed": In(1),
            "token": Out(TOKEN_BITS)}
            | ({"rewind": In(1), "rewind_slot": In(range(config.slots))} if config.slots > 1 else {}))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self._config.sampler_lanes
        op = Signal.like(self.op.payload, reset_less=True)
        start, greedy = Signal(), Signal()
        m.d.comb += self.op.ready.eq(~self.busy)
        m.d.sync += start.eq(self.op.valid & self.op.ready)
        with m.If(self.op.ready):
            m.d.sync += [op.eq(self.op.payload), greedy.eq(self.greedy)]

        valid, chunk, read_next = self._read(m, op, start)
        for stage in range(1, KEY + 1):
            register = Signal(name=f"valid{stage}")
            m.d.sync += register.eq(valid[-1])
            valid.append(register)
        multiplier, steps = self._factor(m, op, start, greedy)
        scaled = self._scale(m, chunk, multiplier, steps)

        m.submodules.noise = noise = GumbelNoise(lanes=lanes, slots=self._config.slots)
        if self._config.slots > 1:
            rewind, rewind_slot = Signal(), Signal.like(self.rewind_slot, reset_less=True)      # from far away
            m.d.sync += [rewind.eq(self.rewind), rewind_slot.eq(self.rewind_slot)]
            m.d.comb += [noise.slot.eq(Mux(start, op.src[ADDRESS_BITS:], rewind_slot)), noise.keep.eq(start),
                         noise.restore.eq(rewind)]
        m.submodules.best = best = Best(lanes=lanes)
        remaining = Signal(COUNT_BITS, reset_less=True)
        with m.If(start):
            m.d.sync += remaining.eq(op.count)
        with m.Elif(valid[SATURATED]):
            m.d.sync += remaining.eq(remaining - lanes)
        m.d.comb += [
            noise.seed.eq(self.seed), noise.reseed.eq(self.reseed), noise.advance.eq(valid[ADVANCE] & ~greedy),
            best.clear.eq(start), best.valid.eq(valid[KEY]), self.token.eq(best.index),
        ]
        for lane in range(lanes):
            m.d.sync += best.keys[lane].eq(Mux(remaining > lane, scaled[lane] + noise.noise[lane], KEY_LOWEST))

        # The last chunk leaves its stages one by one; busy lasts until the winner is known.
        under_way = Signal(ceil_log2(lanes))
        m.d.sync += [
            under_way.eq(Cat(valid[KEY], under_way)),
            self.busy.eq((self.op.valid & self.op.ready) | read_next | Cat(valid, under_way)[:-1].any()),
        ]
        return m

    def _read(self, m: Module, op: Value, start: Value) -> tuple[list[Value], data.View, Value]:
        """Walk over the chunks: whether one is addressed, the logits of the one in stage LOGIT, whether more follow."""
        c = self._config
        lanes, chunks = c.sampler_lanes, c.lanes // c.sampler_lanes
        reading, more = Signal(), Signal()
        left = Signal(COUNT_BITS, reset_less=True)
        beat = Signal.like(self.memory_read.address, reset_less=True)
        chunk = Signal(range(chunks))
        read_chunk, beat_chunk = Signal.like(chunk), Signal.like(chunk)
        logits = Signal(data.ArrayLayout(signed(ELEMENT_BITS), lanes), reset_less=True)
        m.d.comb += [more.eq(left > lanes), self.memory_read.enable.eq(reading), self.memory_read.address.eq(beat)]
        with m.If(start):
            m.d.sync += [reading.eq(1), left.eq(op.count), beat.eq(op.src), chunk.eq(0)]
        with m.Elif(reading):
            m.d.sync += [reading.eq(more), left.eq(left - lanes), chunk.eq(chunk + 1)]
            with m.If(chunk == chunks - 1):
                m.d.sync += [chunk.eq(0), beat.eq(beat + 1)]
        m.d.sync += [read_chunk.eq(chunk), beat_chunk.eq(read_chunk)]
        for lane in range(lanes):
            choices = [self.memory_read.data[at * lanes + lane] for at in range(chunks)]
            m.d.sync += logits[lane].eq(Array(choices)[beat_chunk])
        return [reading], logits, start | (reading & more)

    def _factor(self, m: Module, op: Value, start: Value, greedy: Value) -> tuple[Signal, Signal]:
        """Multiplier and shift steps of the operation, from stage LOGIT of its first chunk on."""
        m.submodules.factor = factor = LaneFactor()
        given, computed = Signal(), Signal()
        multiplier, steps = Signal(FACTOR_BITS, reset_less=True), Signal(SHIFT_STEPS_BITS, reset_less=True)
        m.d.comb += [
            self.scalar_read.enable.eq(start), self.scalar_read.address.eq(op.ra),
            factor.scalar.eq(self.scalar_read.data)]
        m.d.sync += [given.eq(start), computed.eq(given)]
        with m.If(computed):
            m.d.sync += [multiplier.eq(Mux(greedy, 1, factor.multiplier)), steps.eq(Mux(greedy, 0, factor.steps))]
        return multiplier, steps

    def _scale(self, m: Module, logits: data.View, multiplier: Value, steps: Value) -> list[Signal]:
        """Scaled and saturated logits, in stage SATURATED."""
        shifts = range(0, SCALE_SHIFT_STEP << SHIFT_STEPS_BITS, SCALE_SHIFT_STEP)
        half = Array((1 << shift) >> 1 for shift in shifts)[steps]
        scaled = []
        for lane in range(self._config.sampler_lanes):
            product = Signal(signed(ELEMENT_BITS + FACTOR_BITS), name=f"product{lane}", reset_less=True)
            rounded = Signal(signed(len(product) + 1), name=f"rounded{lane}", reset_less=True)
            shifted = Signal.like(rounded, name=f"shifted{lane}", reset_less=True)
            saturated = Signal(signed(ELEMENT_BITS), name=f"saturated{lane}", reset_less=True)
            top = shifted[ELEMENT_BITS - 1 :]
            limit = Cat((~shifted[-1]).replicate(ELEMENT_BITS - 1), shifted[-1])
            m.d.sync += [
                product.eq(logits[lane] * multiplier),
                rounded.eq(product + half),
                shifted.eq(Array(rounded >> shift for shift in shifts)[steps]),
                saturated.eq(Mux(top.any() & ~top.all(), limit, shifted)),
            ]
            scaled.append(saturated)
        return scaled
