"""What gpt-oss on Bedrock does differently from what its API description says, as one table.

Each quirk names the place where it was seen. `find_refusal` applies those that refuse a request; the ones
that shape an answer are applied in `answers.py` and listed here so that the table is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

from gateway.testing.bedrock.errors import AwsError, validation
from gateway.testing.bedrock.model import Call

RUNTIME_IDS: Final = frozenset({"openai.gpt-oss-20b-1:0", "openai.gpt-oss-120b-1:0"})
GOV_IDS: Final = frozenset(f"us-gov.{model_id}" for model_id in RUNTIME_IDS)

# Regions that serve gpt-oss under its bare id (AWS model card of gpt-oss, in-Region availability).
SERVING_REGIONS: Final = frozenset(
    {
        "us-east-1", "us-east-2", "us-west-2", "eu-central-1", "eu-north-1", "eu-south-1", "eu-west-1",
        "eu-west-2", "ap-northeast-1", "ap-south-1", "ap-southeast-2", "ap-southeast-3", "ap-southeast-4",
        "sa-east-1", "us-gov-west-1",
    }
)  # fmt: skip

MAX_OUTPUT_TOKENS: Final = 16_384

# The fields that the engine behind Bedrock deserialises; any other is an unknown field.
ENGINE_FIELDS: Final = (
    "messages", "model", "store", "reasoning_effort", "metadata", "frequency_penalty", "logit_bias",
    "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens", "n", "modalities", "prediction",
    "audio", "presence_penalty", "response_format", "seed", "service_tier", "stop", "stream",
    "stream_options", "temperature", "top_p", "tools", "tool_choice", "parallel_tool_calls", "user",
    "function_call", "functions",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quirk:
    """One observed behaviour: what it is and where it was reported."""

    behaviour: str
    source: str


QUIRKS: Final[Mapping[str, Quirk]] = MappingProxyType(
    {
        "stop-sequences-refused": Quirk(
            "`stopSequences`, even an empty list, is a ValidationException",
            "github.com/crewAIInc/crewAI/issues/3317, github.com/langchain4j/langchain4j/issues/3650",
        ),
        "reasoning-refused-in-history": Quirk(
            "`reasoningContent` in a past message is a ValidationException",
            "github.com/aws-samples/bedrock-engineer/issues/240",
        ),
        "unknown-additional-field-refused": Quirk(
            "an unknown key of `additionalModelRequestFields` is a ValidationException that lists "
            "the known ones",
            "github.com/BerriAI/litellm/issues/13959",
        ),
        "reasoning-effort-is-a-plain-string": Quirk(
            "`reasoning_effort` is the string low, medium or high, not an object",
            "github.com/aws-samples/amazon-bedrock-client-for-mac/issues/114",
        ),
        "logit-bias-refused": Quirk(
            "`logit_bias` is refused",
            "litellm/llms/bedrock/chat/chat_completions/transformation.py",
        ),
        "profile-prefix-refused": Quirk(
            "there is no us., eu., apac. or global. profile of gpt-oss: such an id is invalid; only "
            "GovCloud has one",
            "AWS model card of gpt-oss; docs.aws.amazon.com/bedrock/latest/userguide/models-regions.html",
        ),
        "tool-choice-accepted": Quirk(
            "`toolChoice` any and tool are accepted and answered with a tool call, though the API's "
            "text names others",
            "github.com/langchain-ai/langchain-aws/issues/1278",
        ),
        "wrong-region-is-invalid-id": Quirk(
            "an id that the region does not serve reads as `The provided model identifier is invalid.`",
            "AWS model card of gpt-oss; docs.aws.amazon.com/bedrock/latest/userguide/models-regions.html",
        ),
        "tools-in-history-need-tool-config": Quirk(
            "toolUse and toolResult blocks need a `toolConfig`",
            "github.com/vercel/ai/pull/7537, github.com/vxcontrol/pentagi/pull/196",
        ),
        "user-and-assistant-alternate": Quirk(
            "a conversation starts with the user, and the roles alternate",
            "github.com/langchain-ai/langchain-aws/issues/130, github.com/langgenius/dify/issues/12340",
        ),
        "blank-text-refused": Quirk(
            "a blank text block, or a message without content, is a ValidationException",
            "github.com/aws-samples/bedrock-engineer/issues/8, "
            "github.com/langchain-ai/langchain/issues/26968",
        ),
        "tokens-reserved-with-the-answer": Quirk(
            "a request reserves its input and `maxTokens`, or the model's maximum when unset, of the "
            "quota per minute",
            "github.com/aws/agent-toolkit-for-aws "
            "skills/core-skills/amazon-bedrock/references/quota-health.md",
        ),
        "reasoning-comes-first": Quirk(
            "the first content block is `reasoningContent`, the text comes after it",
            "github.com/spring-projects/spring-ai (a null text from reading block 0)",
        ),
        "no-start-for-text-blocks": Quirk(
            "a stream sends `contentBlockStart` for tool use only",
            "botocore service model (ContentBlockStart has no text member), "
            "github.com/maximhq/bifrost/issues/4262",
        ),
        "events-are-padded": Quirk(
            "stream events carry a padding member `p` that is not in the service model",
            "github.com/aws-amplify/amplify-category-api/pull/3115 (passes the member `p` on)",
        ),
        "service-tier-echoed": Quirk(
            "`serviceTier` comes back in the answer, in a stream with `metadata`",
            "botocore service model of bedrock-runtime",
        ),
    }
)

INVALID_MODEL = "The provided model identifier is invalid."


def served_models(region: str) -> frozenset[str]:
    """The ids of gpt-oss that a region serves; empty for one that serves none."""
    if region not in SERVING_REGIONS:
        return frozenset()
    return RUNTIME_IDS | GOV_IDS if region.startswith("us-gov-") else RUNTIME_IDS


def find_refusal(call: Call, models: frozenset[str]) -> AwsError | None:
    """The first refusal that gpt-oss on Bedrock would answer with; None when it would answer."""
    return next(refusals(call, models), None)


def refusals(call: Call, models: frozenset[str]) -> Iterator[AwsError]:
    members = call.members
    if call.model_id not in models:
        yield validation(INVALID_MODEL)
    config = members.get("inferenceConfig", {})
    if "stopSequences" in config:
        yield validation(
            "This model doesn't support the stopSequences field. Remove stopSequences and try again."
        )
    for name, ceiling in (("temperature", 1), ("topP", 1), ("maxTokens", MAX_OUTPUT_TOKENS)):
        if config.get(name, 0) > ceiling:
            yield validation(
                f"1 validation error detected: Value '{config[name]}' at 'inferenceConfig.{name}' "
                f"failed to satisfy "
                f"constraint: Member must have value less than or equal to {ceiling}"
            )
    yield from field_refusals(members.get("additionalModelRequestFields"))
    yield from message_refusals(members.get("messages", []), "toolConfig" in members)


def field_refusals(fields: Any) -> Iterator[AwsError]:
    """Refusals of `additionalModelRequestFields`, which the engine behind Bedrock deserialises itself."""
    if fields is None:
        return
    if not isinstance(fields, dict):
        yield validation("The additionalModelRequestFields must be a JSON object.")
        return
    prefix = "Failed to deserialize the JSON body into the target type: "
    for name in fields:
        if name not in ENGINE_FIELDS:
            known = ", ".join(f"`{field}`" for field in ENGINE_FIELDS)
            yield validation(f"{prefix}{name}: unknown field `{name}`, expected one of {known}")
    effort = fields.get("reasoning_effort")
    if effort is not None and not isinstance(effort, str):
        yield validation(f"{prefix}reasoning_effort: invalid type: map, expected a string")
    elif effort is not None and effort not in ("low", "medium", "high"):
        yield validation(
            f"{prefix}reasoning_effort: unknown variant `{effort}`, expected one of `minimal`, `low`, "
            f"`medium`, `high`"
        )
    if fields.get("logit_bias") is not None:
        yield validation("logit_bias is not supported by this model.")


def message_refusals(messages: list[dict[str, Any]], has_tools: bool) -> Iterator[AwsError]:
    """Refusals of the conversation itself."""
    if not messages or messages[0]["role"] != "user":
        yield validation(
            "A conversation must start with a user message. Try again with a conversation that "
            "starts with a user message."
        )
    for before, after in pairwise(messages):
        if before["role"] == after["role"]:
            yield validation(
                "A conversation must alternate between user and assistant roles. Make sure the "
                "conversation alternates "
                "between user and assistant roles and try again."
            )
    for m, message in enumerate(messages):
        if not message["content"]:
            yield validation(
                f"The content field in the Message object at messages.{m} is empty. Add a "
                f"ContentBlock object to the "
                "content field and try again."
            )
        for c, block in enumerate(message["content"]):
            where = f"messages.{m}.content.{c}"
            if "text" in block and not block["text"].strip():
                yield validation(
                    f"The text field in the ContentBlock object at {where} is blank. Add text to the "
                    f"text field, and try again."
                )
            if "reasoningContent" in block:
                field = "reasoningContent.reasoningText"
                yield validation(
                    f"This model doesn't support the {field} field. Remove {field} and try again."
                )
            if ("toolUse" in block or "toolResult" in block) and not has_tools:
                yield validation(
                    "The toolConfig field must be defined when using toolUse and toolResult content blocks."
                )
