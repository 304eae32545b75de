"""Both forms of config.json are read strictly, and what cannot be run exactly is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GptOssConfig

from local_engine.config import ModelConfig, parse_config, read_config
from local_engine.errors import ConfigError
from local_engine.inspection import count_parameters
from local_engine.presets import GPT_OSS_20B, PRESETS, TINY

RELEASED_20B: dict[str, Any] = {
    "num_hidden_layers": 24,
    "num_experts": 32,
    "experts_per_token": 4,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "swiglu_limit": 7.0,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "initial_context_length": 4096,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
}

RELEASED_20B_HF: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "transformers_version": "4.55.0.dev0",
    "use_cache": True,
    "vocab_size": 201088,
}


def test_both_released_forms_are_the_same_model() -> None:
    assert parse_config(RELEASED_20B) == (GPT_OSS_20B, "original")
    assert parse_config(RELEASED_20B_HF) == (GPT_OSS_20B, "hf")
    assert GPT_OSS_20B.max_context_tokens == 131072
    assert [GPT_OSS_20B.window_of(layer) for layer in range(4)] == [128, None, 128, None]


@pytest.mark.parametrize("config", [preset.config for preset in PRESETS.values()], ids=list(PRESETS))
def test_what_is_written_in_either_form_is_read_back(config: ModelConfig) -> None:
    assert parse_config(json.loads(json.dumps(config.to_original()))) == (config, "original")
    assert parse_config(json.loads(json.dumps(config.to_hf()))) == (config, "hf")


def test_what_transformers_writes_itself_is_read() -> None:
    written = json.loads(GptOssConfig(**TINY.to_hf()).to_json_string(use_diff=False))
    assert "rope_parameters" in written

    assert parse_config(written) == (TINY, "hf")


def test_parameter_counts_are_those_of_the_model_card() -> None:
    small = count_parameters(PRESETS["20b-shape"].config)
    large = count_parameters(PRESETS["120b-shape"].config)

    assert [round(n / 1e9, 1) for n in (small.total, small.active)] == [20.9, 3.6]
    assert [round(n / 1e9, 1) for n in (large.total, large.active)] == [116.8, 5.1]
    assert PRESETS["20b-shape"].config.released_name == "gpt-oss-20b"
    assert PRESETS["120b-shape"].config.released_name == "gpt-oss-120b"
    assert TINY.released_name is None


def changed(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """`base` with values replaced; None removes a key, `rope__x` reaches into `rope_scaling`."""
    raw = json.loads(json.dumps(base))
    for key, value in changes.items():
        place = raw["rope_scaling"] if key.startswith("rope__") else raw
        place[key.removeprefix("rope__")] = value
        if value is None:
            del place[key.removeprefix("rope__")]
    return raw  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (changed(RELEASED_20B, attn_scale=2), "unknown key `attn_scale`"),
        (changed(RELEASED_20B, head_dim=None), "`head_dim` is missing"),
        (changed(RELEASED_20B, head_dim="64"), "`head_dim` must be a whole number, not `'64'`"),
        (changed(RELEASED_20B, head_dim=True), "`head_dim` must be a whole number, not `True`"),
        (changed(RELEASED_20B, head_dim=63), "`head_dim` (`63`) must be even"),
        (changed(RELEASED_20B, rope_theta="x"), "`rope_theta` must be a number"),
        (changed(RELEASED_20B, vocab_size=0), "`vocab_size` must be above zero"),
        (changed(RELEASED_20B, num_key_value_heads=7), "must be a multiple of `num_key_value_heads` (`7`)"),
        (changed(RELEASED_20B, hidden_size=2881), "`hidden_size` (`2881`) must be a multiple of 32"),
        (changed(RELEASED_20B, intermediate_size=40), "`intermediate_size` (`40`) must be a multiple of 32"),
        (changed(RELEASED_20B, experts_per_token=33), "`experts_per_token` (`33`) is above `num_experts`"),
        (changed(RELEASED_20B, rope_scaling_factor=0.5), "`rope_scaling_factor` must be at least 1"),
        (changed(RELEASED_20B_HF, attn_scale=2), "unknown key `attn_scale`"),
        (changed(RELEASED_20B_HF, model_type="llama"), "`model_type` is `llama` (`GptOssForCausalLM`)"),
        (changed(RELEASED_20B_HF, rms_norm_eps=1e-6), "`rms_norm_eps` is `1e-06`"),
        (changed(RELEASED_20B_HF, tie_word_embeddings=True), "`tie_word_embeddings` is `True`"),
        (
            changed(RELEASED_20B_HF, quantization_config={"quant_method": "bitsandbytes"}),
            "`quantization_config.quant_method` is `bitsandbytes`: experts must be `mxfp4`, or not quantised",
        ),
        (
            changed(RELEASED_20B_HF, quantization_config="int4"),
            "`quantization_config.quant_method` is `int4`",
        ),
        (changed(RELEASED_20B_HF, pruned_heads={"0": [1]}), "`pruned_heads` is `{'0': [1]}`"),
        (changed(RELEASED_20B_HF, unsloth=1), "unknown key `unsloth`"),
        (changed(RELEASED_20B_HF, experts_per_token=2), "`num_experts_per_tok` disagree"),
        (changed(RELEASED_20B_HF, layer_types=["full_attention"] * 24), "`layer_types` must alternate"),
        (changed(RELEASED_20B_HF, max_position_embeddings=4096), "`max_position_embeddings` is `4096`"),
        (changed(RELEASED_20B_HF, initial_context_length=8192), "`initial_context_length` and"),
        (changed(RELEASED_20B_HF, rope_scaling=None), "exactly one of `rope_scaling`"),
        (changed(RELEASED_20B_HF, rope_scaling=[1]), "`rope_scaling` must be a json object"),
        (changed(RELEASED_20B_HF, rope__truncate=True), "`rope_scaling.truncate` must be `false`"),
        (changed(RELEASED_20B_HF, rope__truncate=None), "`rope_scaling.truncate` must be `false`"),
        (changed(RELEASED_20B_HF, rope__rope_type="linear"), "`rope_scaling.rope_type` must be `yarn`"),
        (changed(RELEASED_20B_HF, rope__mscale=1), "unknown key `rope_scaling.mscale`"),
        (changed(RELEASED_20B_HF, rope__factor=None), "`rope_scaling_factor` is missing"),
    ],
)
def test_a_configuration_that_cannot_be_run_exactly_is_refused_by_name(
    raw: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_config(raw)

    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "other",
    [
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "mlp_bias": False, "hidden_size": 64},
        {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "norm_topk_prob": True},
        {"model_type": "gpt_oss", "architectures": ["GptOssForSequenceClassification"]},
    ],
)
def test_another_architecture_is_refused_by_its_name_and_not_by_its_keys(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_config(other)

    assert str(refusal.value) == (
        f"`model_type` is `{other['model_type']}` (`{other['architectures'][0]}`): this engine runs gpt-oss "
        "(`GptOssForCausalLM`) only"
    )


@pytest.mark.parametrize(
    "noted",
    [
        {"unsloth_version": "2025.9.1", "unsloth_fixed": True, "model_name": "unsloth/gpt-oss-20b"},
        {"trl_version": "0.21", "peft_version": "0.17", "axolotl_config": "x.yaml"},
        {"_attn_implementation": "eager", "_attn_implementation_autoset": True, "attn_implementation": None},
        {"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}},
        {"tokenizer_class": "PreTrainedTokenizerFast", "torch_dtype": "float32"},
        {
            "torch_dtype": None,
            "dtype": "bfloat16",
            "max_length": 4096,
            "temperature": 0.7,
            "pruned_heads": {},
        },
        {"quantization_config": None},
    ],
    ids=lambda noted: next(iter(noted)),
)
def test_what_fine_tuning_tools_note_in_the_configuration_is_passed_over(noted: dict[str, Any]) -> None:
    assert parse_config(RELEASED_20B_HF | noted) == (GPT_OSS_20B, "hf")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "must hold one json object"), ("{", "cannot be read as json"), (None, "does not exist")],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(ConfigError) as refusal:
        read_config(path)

    assert str(path) in str(refusal.value)
    assert message in str(refusal.value)
