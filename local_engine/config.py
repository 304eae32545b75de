"""The model's configuration, read strictly from either form of `config.json`.

The original form (openai/gpt-oss, `original/config.json`) has 16 keys; the Hugging Face form has those
under other names plus many that do not change the arithmetic. An unknown key is an error in both: a key
this engine does not know may change what the model computes. What fine-tuning tools are known to note there
about themselves is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from local_engine.errors import ConfigError

MXFP4_GROUP = 32
"""Values that share one MXFP4 scale."""

Format = Literal["original", "hf"]

HF_NAMES = {
    "num_hidden_layers": "num_hidden_layers",
    "num_local_experts": "num_experts",
    "num_experts_per_tok": "experts_per_token",
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "swiglu_limit": "swiglu_limit",
    "head_dim": "head_dim",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "sliding_window": "sliding_window",
}
"""Keys of the Hugging Face form that are ours under another (or the same) name."""

HF_FIXED: dict[str, Any] = {
    "model_type": "gpt_oss",
    "attention_bias": True,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
    "swiglu_alpha": 1.702,
}
"""Keys that may be absent, but whose value, when given, must be the one gpt-oss was trained with."""

HF_PLAIN: dict[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "pruned_heads": {},
    "tie_encoder_decoder": False,
}
"""Switches that any transformers configuration may spell out; on, they would be another architecture."""

HF_TOKENS = {"bos_token_id": 199998, "eos_token_id": 200002, "pad_token_id": 199999}

GENERATION_KEYS = frozenset(
    {
        "bad_words_ids",
        "begin_suppress_tokens",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "prefix",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "suppress_tokens",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    }
)
"""How to sample, which older tools wrote into the configuration: a request says that."""

HF_IRRELEVANT = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_experts_implementation",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        "base_model_name_or_path",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "experts_implementation",
        "finetuning_task",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "model_name",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "router_aux_loss_coef",
        "sep_token_id",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "use_cache",
        "use_return_dict",
        *GENERATION_KEYS,
    }
)
"""Keys of the Hugging Face form that do not change what the model computes at inference."""

TOOL_PREFIXES = ("unsloth_", "trl_", "axolotl_", "peft_", "transformers.js")
"""How keys begin in which fine-tuning and export tools note their own version and settings."""

HF_SHAPED = frozenset(
    {
        "experts_per_token",
        "initial_context_length",
        "layer_types",
        "max_position_embeddings",
        "quantization_config",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
    }
)
"""Keys of the Hugging Face form that are read one by one below."""

ROPE_KEYS = frozenset(
    {
        "rope_type",
        "type",
        "factor",
        "beta_fast",
        "beta_slow",
        "original_max_position_embeddings",
        "truncate",
        "rope_theta",
    }
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and constants of one gpt-oss model; field names are those of the original `config.json`.

    Raises `ConfigError` when the sizes cannot belong together.
    """

    num_hidden_layers: int
    num_experts: int
    experts_per_token: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    swiglu_limit: float
    head_dim: int
    num_attention_heads: int
    num_key_value_heads: int
    sliding_window: int
    initial_context_length: int
    rope_theta: float
    rope_scaling_factor: float
    rope_ntk_alpha: float
    rope_ntk_beta: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ConfigError(f"`{field.name}` must be above zero, not `{value}`")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"`num_attention_heads` (`{self.num_attention_heads}`) must be a multiple of "
                f"`num_key_value_heads` (`{self.num_key_value_heads}`)"
            )
        for name in ("hidden_size", "intermediate_size"):
            if getattr(self, name) % MXFP4_GROUP:
                raise ConfigError(
                    f"`{name}` (`{getattr(self, name)}`) must be a multiple of {MXFP4_GROUP}: "
                    "mxfp4 shares one scale among that many values"
                )
        if self.experts_per_token > self.num_experts:
            raise ConfigError(
                f"`experts_per_token` (`{self.experts_per_token}`) is above "
                f"`num_experts` (`{self.num_experts}`)"
            )
        if self.head_dim % 2:
            raise ConfigError(f"`head_dim` (`{self.head_dim}`) must be even: rope rotates pairs")
        if self.rope_scaling_factor < 1:
            raise ConfigError(f"`rope_scaling_factor` must be at least 1, not `{self.rope_scaling_factor}`")

    @property
    def max_context_tokens(self) -> int:
        """The longest sequence YaRN was scaled for: 131,072 on the released models."""
        return int(self.initial_context_length * self.rope_scaling_factor)

    @property
    def qkv_rows(self) -> int:
        """Rows of the fused projection, ordered q | k | v."""
        return self.head_dim * (self.num_attention_heads + 2 * self.num_key_value_heads)

    @property
    def q_rows(self) -> int:
        """Width of the queries, which is not the hidden size."""
        return self.head_dim * self.num_attention_heads

    @property
    def kv_rows(self) -> int:
        """Width of the keys, and of the values."""
        return self.head_dim * self.num_key_value_heads

    def window_of(self, layer: int) -> int | None:
        """The attention window of a layer in tokens, itself included; None is full attention."""
        return self.sliding_window if layer % 2 == 0 else None

    @property
    def released_name(self) -> str | None:
        """`gpt-oss-20b` or `gpt-oss-120b` when the sizes are exactly those, else None."""
        shape = (self.num_hidden_layers, self.num_experts, self.hidden_size, self.intermediate_size)
        return {(24, 32, 2880, 2880): "gpt-oss-20b", (36, 128, 2880, 2880): "gpt-oss-120b"}.get(shape)

    def to_original(self) -> dict[str, int | float]:
        """The original form."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_hf(self) -> dict[str, Any]:
        """The Hugging Face form, as transformers reads it."""
        ours = self.to_original()
        return {
            "architectures": ["GptOssForCausalLM"],
            **HF_FIXED,
            **{theirs: ours[name] for theirs, name in HF_NAMES.items()},
            "initial_context_length": self.initial_context_length,
            "max_position_embeddings": self.max_context_tokens,
            "layer_types": layer_types(self.num_hidden_layers),
            "rope_theta": self.rope_theta,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": self.rope_scaling_factor,
                "beta_fast": self.rope_ntk_beta,
                "beta_slow": self.rope_ntk_alpha,
                "original_max_position_embeddings": self.initial_context_length,
                "truncate": False,
            },
            "quantization_config": {
                "quant_method": "mxfp4",
                "modules_to_not_convert": [
                    "model.layers.*.self_attn",
                    "model.layers.*.mlp.router",
                    "model.embed_tokens",
                    "lm_head",
                ],
            },
            # transformers refuses ids outside the vocabulary, which small ones made here do not reach.
            **{key: token for key, token in HF_TOKENS.items() if token < self.vocab_size},
            "torch_dtype": "bfloat16",
        }


def layer_types(layers: int) -> list[str]:
    """Attention kinds as the Hugging Face form spells them: even layers slide, odd layers see everything."""
    return ["sliding_attention" if layer % 2 == 0 else "full_attention" for layer in range(layers)]


def read_config(path: Path) -> tuple[ModelConfig, Format]:
    """Reads a `config.json` of either form. Raises `ConfigError` naming the file and the key at fault."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"`{path}` does not exist: point at a checkpoint's own directory") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"`{path}` cannot be read as json: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"`{path}` must hold one json object")
    try:
        return parse_config(raw)
    except ConfigError as error:
        raise ConfigError(f"`{path}`: {error}") from None


def parse_config(raw: Mapping[str, Any]) -> tuple[ModelConfig, Format]:
    """Tells the two forms apart by their keys and parses strictly. Raises `ConfigError`.

    Another architecture is refused by its name, before its keys could be called unknown.
    """
    if {"model_type", "architectures", "num_local_experts"} & raw.keys():
        return _from_hf(raw), "hf"
    return _from_original(raw), "original"


def _from_original(raw: Mapping[str, Any]) -> ModelConfig:
    known = {field.name for field in fields(ModelConfig)}
    _refuse_unknown(raw, known)
    return _build(raw)


def _from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    _refuse_other_architectures(raw)
    fixed = HF_FIXED | HF_PLAIN
    known = HF_NAMES.keys() | fixed.keys() | HF_IRRELEVANT | HF_SHAPED
    _refuse_unknown({key: value for key, value in raw.items() if not key.startswith(TOOL_PREFIXES)}, known)
    for key, wanted in fixed.items():
        if raw.get(key, wanted) != wanted:
            raise ConfigError(f"`{key}` is `{raw[key]}`; this engine runs gpt-oss, where it is `{wanted}`")
    quantization = raw.get("quantization_config") or {"quant_method": "mxfp4"}
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "mxfp4":
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise ConfigError(
            f"`quantization_config.quant_method` is `{method}`: experts must be `mxfp4`, or not quantised "
            "at all"
        )
    values = {ours: raw[theirs] for theirs, ours in HF_NAMES.items() if theirs in raw}
    if raw.get("experts_per_token", values.get("experts_per_token")) != values.get("experts_per_token"):
        raise ConfigError("`experts_per_token` and `num_experts_per_tok` disagree: make them equal")
    layers = values.get("num_hidden_layers")
    if "layer_types" in raw and isinstance(layers, int) and raw["layer_types"] != layer_types(layers):
        raise ConfigError(
            "`layer_types` must alternate `sliding_attention`, `full_attention`, one per layer, sliding first"
        )
    values |= _rope_of(raw)
    config = _build(values)
    longest = raw.get("max_position_embeddings", config.max_context_tokens)
    if longest != config.max_context_tokens:
        raise ConfigError(
            f"`max_position_embeddings` is `{longest}`, but rope is scaled for `{config.max_context_tokens}`"
        )
    return config


def _refuse_other_architectures(raw: Mapping[str, Any]) -> None:
    classes = raw.get("architectures") or ["GptOssForCausalLM"]
    kind = raw.get("model_type", HF_FIXED["model_type"])
    if kind != HF_FIXED["model_type"] or classes != ["GptOssForCausalLM"]:
        names = ", ".join(str(name) for name in classes) if isinstance(classes, list) else classes
        raise ConfigError(
            f"`model_type` is `{kind}` (`{names}`): this engine runs gpt-oss (`GptOssForCausalLM`) only"
        )


def _rope_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Rope constants from `rope_scaling` (+ `rope_theta`) or the newer `rope_parameters`."""
    given = [key for key in ("rope_scaling", "rope_parameters") if raw.get(key) is not None]
    if len(given) != 1:
        raise ConfigError("give exactly one of `rope_scaling` and `rope_parameters`")
    key = given[0]
    rope = raw[key]
    if not isinstance(rope, dict):
        raise ConfigError(f"`{key}` must be a json object")
    _refuse_unknown(rope, ROPE_KEYS, prefix=f"{key}.")
    if rope.get("rope_type", rope.get("type")) != "yarn":
        raise ConfigError(f"`{key}.rope_type` must be `yarn`")
    if rope.get("truncate", True) is not False:
        raise ConfigError(f"`{key}.truncate` must be `false`: gpt-oss does not round YaRN's bounds")
    start = rope.get("original_max_position_embeddings", raw.get("initial_context_length"))
    if raw.get("initial_context_length", start) != start:
        raise ConfigError(
            f"`initial_context_length` and `{key}.original_max_position_embeddings` disagree: make them equal"
        )
    found = {
        "rope_theta": raw.get("rope_theta", rope.get("rope_theta")),
        "rope_scaling_factor": rope.get("factor"),
        "rope_ntk_alpha": rope.get("beta_slow"),
        "rope_ntk_beta": rope.get("beta_fast"),
        "initial_context_length": start,
    }
    return {name: value for name, value in found.items() if value is not None}


def _refuse_unknown(raw: Mapping[str, Any], known: Any, prefix: str = "") -> None:
    for key in raw:
        if key not in known:
            raise ConfigError(
                f"unknown key `{prefix}{key}`: if it does not change what the model computes, remove it"
            )


def _build(values: Mapping[str, Any]) -> ModelConfig:
    checked: dict[str, Any] = {}
    for field in fields(ModelConfig):
        if field.name not in values:
            raise ConfigError(f"`{field.name}` is missing")
        value = values[field.name]
        wants_int = field.type == "int"
        allowed = int if wants_int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            kind = "a whole number" if wants_int else "a number"
            raise ConfigError(f"`{field.name}` must be {kind}, not `{value!r}`")
        checked[field.name] = value if wants_int else float(value)
    return ModelConfig(**checked)
