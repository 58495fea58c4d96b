"""What a checkpoint says of its architecture, in config.json or GGUF metadata, and what of it cannot run yet."""

from collections.abc import Mapping
from dataclasses import dataclass

from host.checkpoint import Shape
from host.gguf_file import ARCHITECTURE_KEY, GgufArray

MAX_DIMENSION = 1 << 20
MAX_GROUPS = 1 << 10
MAX_FRACTION = 14
OWN_ARCHITECTURE = "TritloomForCausalLM"
# Whose floats, unless they are ternary already, stand for themselves and may be quantised after training.
ORDINARY = ("LlamaForCausalLM", "llama", "llama2.c")
# Decoders of the Llama shape whose projections may be ternary. BitNet 2B4T, its predecessor by 1bitLLM, TriLM.
LLAMA_SHAPED = (OWN_ARCHITECTURE, "BitNetForCausalLM", "BitnetForCausalLM", "LlamaForCausalLM")
# The MatMul-free language model (arXiv 2406.02528).
HGRN_ARCHITECTURE = "HGRNBitForCausalLM"
HUGGING_FACE = (*LLAMA_SHAPED, HGRN_ARCHITECTURE)
# What transformers takes where config.json does not say, and a `Shape` would have something else.
DEFAULTS = {"BitNetForCausalLM": {"num_key_value_heads": 5, "rope_theta": 500000.0},
            "LlamaForCausalLM": {"rms_norm_eps": 1e-6}}
# GGUF does not store the activation function; it follows from the architecture.
ACTIVATIONS = ("relu2", "silu")
GGUF_ACTIVATIONS = {"bitnet": "silu", "bitnet-25": "relu2", "bitnet-b1.58": "relu2", "llama": "silu"}
# Nor how rotary pairs lie. Converters permute queries and keys of this architecture until pairs are neighbours; the
# others keep the halves of Hugging Face.
GGUF_INTERLEAVED = ("llama",)
HUGGING_FACE_KEYS = {
    "hidden": "hidden_size", "feed_forward": "intermediate_size", "layers": "num_hidden_layers",
    "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "head_dim": "head_dim", "vocab": "vocab_size",
    "context": "max_position_embeddings", "embed_planes": "embed_planes", "head_planes": "head_planes",
    "residual_fraction": "residual_fraction", "norm_epsilon": "rms_norm_eps", "rope_theta": "rope_theta",
}
GGUF_KEYS = {
    "hidden": "embedding_length", "feed_forward": "feed_forward_length", "layers": "block_count",
    "heads": "attention.head_count", "kv_heads": "attention.head_count_kv", "head_dim": "attention.key_length",
    "vocab": "vocab_size", "context": "context_length", "norm_epsilon": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
HGRN_ACTIVATIONS = ("swish", "silu")     # two names of one function
HGRN_SWITCHES = ("use_cache", "use_lower_bound")
HGRN_RATIO, HGRN_MULTIPLE = 4, 256      # of its feed-forward, whose size may be left out
MAX_RATIO = 64
PER_LAYER = ("attention_windows", "feed_forward_groups")
REQUIRED = ("hidden", "feed_forward", "layers", "heads", "vocab", "context")
REALS = ("norm_epsilon", "rope_theta")
NAMES = ("activation", "mixer", "is_parallel", "is_sparse", "feed_groups", "windows")
SPARSITY = "3:4"        # of four neighbours in a row three are not zero
OPTIONAL = (*NAMES, "embed_planes", "head_planes", "residual_fraction", *REALS)


@dataclass(frozen=True)
class Architecture:
    """A model's architecture.

    Members
    -------
    name : as the checkpoint spells it.
    shape : dimensions.
    tied : whether the head is the embedding.
    linear_class : which convention the scales of packed weights follow, or None.
    is_master : whether floating-point projections are master weights, to be quantised by the absmean rule.
    rotate_half : whether a rotary pair is an element and the one half a head further on, else two neighbours.
    lower_bounds : whether forget gates have them.
    objections : one line per setting that the program generator cannot run, naming its key.
    """

    name: str
    shape: Shape
    tied: bool
    linear_class: str | None
    is_master: bool
    rotate_half: bool
    objections: tuple[str, ...]
    lower_bounds: bool = False

    @property
    def is_ordinary(self) -> bool:
        """Whether projections may be of other weights than trits."""
        return self.name in ORDINARY and self.linear_class is None and not self.is_master


def from_config(config: Mapping[str, object]) -> Architecture:
    """The architecture in a Hugging Face config.json.

    Raises
    ------
    ValueError: it is of no known architecture, or a value is missing or out of range; the message names the key.
    """
    named = config.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or named[0] not in HUGGING_FACE:
        raise ValueError(f"architectures is {_show(named)}; supported: {', '.join(HUGGING_FACE)}")
    if named[0] == HGRN_ARCHITECTURE:
        return _from_hgrn_config(config)
    name, own = named[0], named[0] == OWN_ARCHITECTURE
    rope = config.get("rope_parameters")
    nested = {"rope_theta": rope["rope_theta"]} if isinstance(rope, dict) and "rope_theta" in rope else {}
    said = DEFAULTS.get(name, {}) | nested | dict(config)
    values = {field: said.get(key) for field, key in HUGGING_FACE_KEYS.items()}
    quantisation = config.get("quantization_config")
    quantisation = quantisation if isinstance(quantisation, dict) else {}
    # What transformers takes where a packed checkpoint does not say; early ones (Llama3-8B-1.58) do not.
    default_class = "bitlinear" if quantisation.get("quant_method") == "bitnet" else None
    linear_class = quantisation.get("linear_class", default_class)
    is_master = name.lower().startswith("bitnet") or quantisation.get("quantization_mode") == "online"
    activation = config.get("hidden_act")
    objections = [] if activation in ACTIVATIONS else [
        f"hidden_act is {_show(activation)} (supported: {', '.join(map(repr, ACTIVATIONS))})"]
    values["activation"] = activation if activation in ACTIVATIONS else ACTIVATIONS[0]
    parallel = config.get("use_parallel_residual", False)
    values["is_parallel"] = own and parallel is True
    if type(parallel) is not bool or (parallel and (not own or activation != "relu2")):
        objections.append(f"use_parallel_residual is {_show(parallel)} (supported: False"
                          f"{', and True with hidden_act relu2' if own else ''})")
    if own:
        values["windows"] = _per_layer(config, "attention_windows", MAX_DIMENSION)
        values["feed_groups"] = _per_layer(config, "feed_forward_groups", MAX_GROUPS)
        if not values["is_parallel"] and (values["feed_groups"] or 0 in values["windows"]):
            raise ValueError("feed_forward_groups, and attention_windows of 0, need use_parallel_residual true")
        if (0, 0) in zip(values["windows"], values["feed_groups"], strict=False):
            raise ValueError("attention_windows and feed_forward_groups are both 0 for a layer, which then has nothing")
    sparsity = config.get("weight_sparsity")
    values["is_sparse"] = own and sparsity == SPARSITY
    if own and sparsity not in (None, SPARSITY):
        objections.append(f"weight_sparsity is {_show(sparsity)} (supported: {SPARSITY!r})")
    interleaved = config.get("rope_interleaved", None if own else False)
    if type(interleaved) is not bool:
        objections.append(f"rope_interleaved is {_show(interleaved)} (supported: True, False)")
    tied = bool(config.get("tie_word_embeddings", False))
    objections += [f"{key} is {_show(config[key])} (supported: none)" for key in
                   ("attention_bias", "mlp_bias", "rope_scaling", "sliding_window", "num_local_experts",
                    *(() if own else PER_LAYER)) if config.get(key)]
    if isinstance(rope, dict) and rope.get("rope_type", "default") != "default":
        objections.append(f"rope_parameters.rope_type is {_show(rope['rope_type'])} (supported: 'default')")
    if config.get("partial_rotary_factor", 1) != 1:
        objections.append(f"partial_rotary_factor is {_show(config['partial_rotary_factor'])} (supported: 1)")
    if quantisation.get("use_rms_norm"):
        objections.append("quantization_config.use_rms_norm is true (supported: false)")
    return Architecture(
        name, _shape(values, HUGGING_FACE_KEYS), tied, linear_class if isinstance(linear_class, str) else None,
        is_master, interleaved is not True, tuple(objections))


def _per_layer(config: Mapping[str, object], key: str, most: int) -> tuple[int, ...]:
    """A number for each layer, up to ``most``; empty if the configuration says nothing."""
    numbers, layers = config.get(key), config.get("num_hidden_layers")
    if numbers is None:
        return ()
    if not isinstance(numbers, list) or len(numbers) != layers or any(
            type(number) is not int or not 0 <= number <= most for number in numbers) or not any(numbers):
        raise ValueError(f"{key} must list a number from 0 to {most} for each of {_show(layers)} layers, not all 0, "
                         f"got {_show(numbers)}")
    return tuple(numbers)


def _from_hgrn_config(config: Mapping[str, object]) -> Architecture:
    """The architecture in the config.json of a MatMul-free language model."""
    values = {field: config.get(key) for field, key in HUGGING_FACE_KEYS.items()}
    values |= {"heads": 1, "kv_heads": 1, "head_dim": values["hidden"], "head_planes": 1, "mixer": "hgrn",
               "activation": "silu"}
    if values["feed_forward"] is None:
        values["feed_forward"] = _hgrn_feed_forward(values["hidden"], config.get("hidden_ratio"))
    supported = {"hidden_act": HGRN_ACTIVATIONS, "attn_mode": ("fused_recurrent",), "expand_ratio": (1,),
                 "tie_word_embeddings": (False,), "quantization_config": (None,)}
    objections = [f"{key} is {_show(config[key])} (supported: {', '.join(map(repr, allowed))})"
                  for key, allowed in supported.items() if key in config and config[key] not in allowed]
    # Variants switch on what the published model has not: convolutions, experts, rotary embeddings.
    objections += [f"{_show(key)} is {_show(value)} (supported: False)" for key, value in config.items()
                   if key.startswith("use_") and key not in HGRN_SWITCHES and value]
    objections += [f"{key} is {_show(config[key])} (supported: none)" for key in PER_LAYER if config.get(key)]
    bounds = config.get("use_lower_bound", True)
    if type(bounds) is not bool:
        objections.append(f"use_lower_bound is {_show(bounds)} (supported: True, False)")
    return Architecture(HGRN_ARCHITECTURE, _shape(values, HUGGING_FACE_KEYS), False, None, True, False,
                        tuple(objections), bool(bounds))


def _hgrn_feed_forward(hidden: object, ratio: object) -> object:
    """Two thirds of ``ratio`` times the hidden size, rounded up to a multiple of 256; what is no size stays so."""
    ratio = HGRN_RATIO if ratio is None else ratio
    if type(ratio) not in (int, float) or not 0 < ratio <= MAX_RATIO:
        raise ValueError(f"hidden_ratio must be a number above 0 and at most {MAX_RATIO}, got {_show(ratio)}")
    if type(hidden) is not int or not 0 < hidden <= MAX_DIMENSION:
        return hidden
    return -(-int(hidden * ratio * 2 / 3) // HGRN_MULTIPLE) * HGRN_MULTIPLE


def from_metadata(metadata: Mapping[str, object], vocab: int, *, tied: bool) -> Architecture:
    """The architecture in GGUF metadata.

    Parameters
    ----------
    metadata : of the file.
    vocab : rows of its embedding, where the metadata names no vocabulary size.
    tied : whether the file has no head of its own.

    Raises
    ------
    ValueError: it is of no known architecture, or a value is missing or out of range; the message names the key.
    """
    name = metadata.get(ARCHITECTURE_KEY)
    if not isinstance(name, str) or name not in GGUF_ACTIVATIONS:
        raise ValueError(f"{ARCHITECTURE_KEY} is {_show(name)}; supported: {', '.join(GGUF_ACTIVATIONS)}")
    keys = {field: f"{name}.{key}" for field, key in GGUF_KEYS.items()}
    values = {field: metadata.get(key) for field, key in keys.items()}
    values["vocab"] = vocab
    values["activation"] = GGUF_ACTIVATIONS[name]
    shape = _shape(values, keys)
    wanted = {"rope.scaling.factor": 1, "rope.dimension_count": shape.head_dim, "expert_count": 0,
              "attention.value_length": shape.head_dim, "attention.sliding_window": 0}
    objections = [f"{name}.{key} is {_show(metadata[f'{name}.{key}'])} (supported: {value})"
                  for key, value in wanted.items() if metadata.get(f"{name}.{key}", value) != value]
    return Architecture(name, shape, tied, None, False, name not in GGUF_INTERLEAVED, tuple(objections))


def from_llama2c(sizes: Mapping[str, int], *, tied: bool) -> Architecture:
    """The architecture of a llama2.c file: a Llama whose rotary pairs are neighbours."""
    shape = _shape({**sizes, "activation": "silu"}, {field: field for field in GGUF_KEYS})
    return Architecture("llama2.c", shape, tied, None, False, False, ())


def _shape(values: dict[str, object], keys: Mapping[str, str]) -> Shape:
    values = {field: value for field, value in values.items() if value is not None}
    for field in REQUIRED:
        if field not in values:
            raise ValueError(f"{keys[field]} is missing")
    for field, value in values.items():
        if field in NAMES:
            continue
        if field in REALS:
            if type(value) not in (int, float) or not 0 < value < 1e12:
                raise ValueError(f"{keys[field]} must be a positive number, got {_show(value)}")
            values[field] = float(value)
        elif field == "residual_fraction":
            if type(value) is not int or not 0 <= value <= MAX_FRACTION:
                raise ValueError(f"{keys[field]} must be an integer from 0 to {MAX_FRACTION}, got {_show(value)}")
        elif type(value) is not int or not 1 <= value <= MAX_DIMENSION:
            raise ValueError(f"{keys[field]} must be an integer from 1 to {MAX_DIMENSION}, got {_show(value)}")
    values.setdefault("kv_heads", values["heads"])
    groups = max(values.get("feed_groups", ()), default=1)
    if values["feed_forward"] % groups:
        raise ValueError(f"{keys['feed_forward']} {values['feed_forward']} is not a multiple of {groups}, the largest "
                         "of feed_forward_groups")
    if values["heads"] % values["kv_heads"]:
        raise ValueError(f"{keys['heads']} {values['heads']} is not a multiple of {keys['kv_heads']} "
                         f"{values['kv_heads']}")
    if "head_dim" not in values and values["hidden"] % values["heads"]:
        raise ValueError(f"{keys['head_dim']} is missing and {keys['hidden']} {values['hidden']} is not a multiple of "
                         f"{keys['heads']} {values['heads']}")
    values.setdefault("head_dim", values["hidden"] // values["heads"])
    if values["head_dim"] % 2 and values.get("mixer") != "hgrn":
        raise ValueError(f"{keys['head_dim']} {values['head_dim']} is odd; rotary pairs need an even number")
    wanted = {*REQUIRED, "kv_heads", "head_dim", *OPTIONAL}
    return Shape(**{field: value for field, value in values.items() if field in wanted})


def _show(value: object) -> str:
    """A value of a foreign file in a message of one line."""
    if isinstance(value, GgufArray):
        return f"an array of {value.count}"
    return repr(value)[:60]
