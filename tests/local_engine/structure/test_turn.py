"""What a turn allows at each place, to the token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from local_engine.errors import Fault
from local_engine.harmony.tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    FIRST_SPECIAL,
    MESSAGE,
    RETURN,
    START,
    VOCABULARY_SIZE,
)
from local_engine.structure.masks import WORDS, tokens_of
from local_engine.structure.request import FRAME_TOKENS, Structures, ToolSpec, reasoning_budget
from local_engine.structure.turn import Turn
from local_engine.vocabulary import Vocabulary
from tests.local_engine.scripted import encode
from tests.local_engine.structure.models import uniform

ORDINARY = set(range(FIRST_SPECIAL))
TRUTH = {"type": "boolean"}
TIME = ToolSpec("get_time", {"type": "object", "properties": {}})
WEATHER = ToolSpec(
    "get_weather",
    {"type": "object", "properties": {"hot": TRUTH}, "required": ["hot"], "additionalProperties": False},
    strict=True,
)
CALL_TIME = "<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>"


class Walk:
    """A turn that is led along text, special tokens spelled out."""

    def __init__(self, structures: Structures, vocabulary: Vocabulary, **request: Any) -> None:
        made = structures.for_request(**{"max_tokens": 1000, **request})
        assert made is not None
        self.turn: Turn = made()
        self._vocabulary = vocabulary

    def to(self, text: str) -> Walk:
        """Says `text`, each token of which must be allowed."""
        for token in encode(text, self._vocabulary):
            assert token in self.allowed(), self._vocabulary.token_bytes(token)
            self.turn.accept(token)
        return self

    def allowed(self) -> set[int]:
        """The tokens allowed next."""
        mask = np.full(WORDS, -1, np.int32)
        self.turn.fill(mask)
        return set(tokens_of(mask))

    def words(self) -> set[str]:
        """The same, spelled out."""
        return {self._vocabulary.token_bytes(token).decode("utf-8", "replace") for token in self.allowed()}


def prefixes(vocabulary: Vocabulary, *texts: str) -> set[int]:
    """All tokens that begin one of the texts."""
    starts = {text[:n].encode() for text in texts for n in range(1, len(text) + 1)}
    return {token for token in range(FIRST_SPECIAL) if vocabulary.token_bytes(token) in starts}


def test_a_response_format_allows_analysis_then_final_json_then_the_end(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    walk = Walk(structures, vocabulary, response_format=TRUTH)
    assert walk.words() == {"<|channel|>"}
    assert walk.to("<|channel|>").words() == {"analysis", "final"}
    assert walk.to("analysis").words() == {"<|message|>"}
    assert walk.to("<|message|>").allowed() == ORDINARY | {END}
    assert walk.to("hm, true?").allowed() == ORDINARY | {END}
    assert walk.to("<|end|>").words() == {"<|start|>"}
    assert walk.to("<|start|>").words() == {"assistant"}
    assert walk.to("assistant").words() == {"<|channel|>"}
    assert walk.to("<|channel|>").words() == {"final"}
    assert walk.to("final").words() == {"<|message|>", " "}
    assert walk.to(" ").words() == {"<|constrain|>"}
    assert walk.to("<|constrain|>").words() == {"json"}
    assert walk.to("json").words() == {"<|message|>"}
    assert walk.to("<|message|>").allowed() == prefixes(vocabulary, "true", "false")
    assert walk.to("tr").words() == {"ue"}, "text without a choice comes in the vocabulary's own tokens"
    assert walk.to("ue").allowed() == {RETURN}
    assert not walk.turn.ended
    walk.to("<|return|>")
    assert walk.turn.ended


def test_json_may_end_as_well_as_go_on_where_both_make_sense(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    walk = Walk(structures, vocabulary, response_format={"type": "integer", "minimum": 1, "maximum": 19})
    walk.to("<|channel|>final<|message|>1")
    assert walk.allowed() == {RETURN} | prefixes(vocabulary, *"0123456789")
    assert walk.to("7").allowed() == {RETURN}


def test_an_ended_turn_allows_its_end_only_and_takes_it_again(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    walk = Walk(structures, vocabulary, response_format=TRUTH).to("<|channel|>final<|message|>true<|return|>")
    assert walk.allowed() == {RETURN}
    assert walk.to("<|return|>").allowed() == {RETURN}
    with pytest.raises(AssertionError, match="token 1 is not allowed here"):
        walk.turn.accept(1)


def test_a_required_call_allows_no_final_message(structures: Structures, vocabulary: Vocabulary) -> None:
    walk = Walk(structures, vocabulary, tools=[TIME, WEATHER], tool_choice="required", parallel=False)
    commentary = vocabulary.token_bytes(vocabulary.encode("commentary")[0]).decode()
    assert walk.to("<|channel|>").words() == {"analysis", commentary}
    # The recipient makes a call; without one it is a preamble.
    assert walk.to("commentary").words() == {"<|message|>", " to"}
    assert walk.to(" to=functions.get").words() == {"_time", "_weather"}
    assert walk.to("_weather <|constrain|>json<|message|>").words() == {'{"'}
    assert walk.to('{"hot":false}').allowed() == {CALL}
    walk.to("<|call|>")
    assert walk.turn.ended


def test_a_named_call_is_the_only_one_that_can_be_addressed(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    walk = Walk(structures, vocabulary, tools=[TIME, WEATHER], tool_choice="get_time")
    assert walk.to("<|channel|>commentary to=functions.get").words() == {"_time"}
    walk.to("_time <|constrain|>json<|message|>")
    assert walk.words() == {"{}"}, "a function without parameters takes an empty object"


def test_a_preamble_comes_once_and_after_it_a_call(structures: Structures, vocabulary: Vocabulary) -> None:
    walk = Walk(structures, vocabulary, tools=[TIME], tool_choice="required")
    walk.to("<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>commentary<|message|>")
    assert walk.to("I will look.").allowed() == ORDINARY | {END}
    walk.to("<|end|><|start|>assistant<|channel|>commentary")
    assert walk.words() == {" to"}


def test_parallel_calls_may_follow_a_call_and_nothing_else_does(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    walk = Walk(structures, vocabulary, tools=[TIME], response_format=TRUTH, parallel=True)
    assert walk.to(CALL_TIME + "{}").allowed() == {CALL, END}
    assert walk.to("<|end|>").words() == {"<|start|>"}
    assert walk.to("<|start|>assistant<|channel|>commentary").words() == {" to"}
    walk.to(CALL_TIME.removeprefix("<|channel|>commentary") + "{}<|call|>")
    assert walk.turn.ended


def test_without_parallel_calls_a_call_ends_the_turn(structures: Structures, vocabulary: Vocabulary) -> None:
    walk = Walk(structures, vocabulary, tools=[TIME], tool_choice="required", parallel=False)
    assert walk.to(CALL_TIME + "{}").allowed() == {CALL}


def test_a_strict_function_under_auto_leaves_the_final_message_free(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    free = Walk(structures, vocabulary, tools=[WEATHER])
    assert free.to("<|channel|>final").words() == {"<|message|>"}
    assert free.to("<|message|>Warm.").allowed() == ORDINARY | {RETURN}
    assert free.turn.reasoning_tokens == 0
    free.to("<|return|>")
    held = Walk(structures, vocabulary, tools=[WEATHER])
    held.to("<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>")
    assert held.words() == {'{"'}


def test_a_function_that_is_not_strict_takes_any_object_beside_one_that_is(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    loose = ToolSpec("loose", {"type": "object", "properties": {"n": {"not": {}}}})
    walk = Walk(structures, vocabulary, tools=[WEATHER, loose])
    walk.to(
        '<|channel|>commentary to=functions.loose <|constrain|>json<|message|>{"n":[1,{"é":null}]}<|call|>'
    )
    assert walk.turn.ended


def test_the_client_is_shown_no_preamble_before_its_json(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    walk = Walk(structures, vocabulary, tools=[TIME], response_format=TRUTH)
    commentary = vocabulary.token_bytes(vocabulary.encode("commentary")[0]).decode()
    assert walk.to("<|channel|>").words() == {"analysis", "final", commentary}
    assert walk.to("commentary").words() == {" to"}


def test_a_spent_budget_leaves_only_the_end_of_the_message(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    max_tokens = FRAME_TOKENS + 6
    assert reasoning_budget(max_tokens) == 3
    walk = Walk(structures, vocabulary, tools=[TIME], tool_choice="required", max_tokens=max_tokens)
    walk.to("<|channel|>analysis<|message|>")
    for spent in range(3):
        assert walk.turn.reasoning_tokens == spent
        assert walk.allowed() == ORDINARY | {END}
        walk.turn.accept(5)
    assert walk.allowed() == {END}
    with pytest.raises(AssertionError):
        walk.turn.accept(5)
    walk.to("<|end|><|start|>assistant<|channel|>commentary")
    assert walk.words() == {" to"}, "a preamble would need tokens that are spent"


def test_analysis_and_preamble_share_one_budget(structures: Structures, vocabulary: Vocabulary) -> None:
    walk = Walk(structures, vocabulary, tools=[TIME], tool_choice="required", max_tokens=FRAME_TOKENS + 6)
    walk.to("<|channel|>analysis<|message|>a b<|end|><|start|>assistant<|channel|>commentary<|message|>")
    walk.turn.accept(5)
    assert walk.allowed() == {END}


@pytest.mark.parametrize("max_tokens", [1, FRAME_TOKENS, FRAME_TOKENS + 1])
def test_without_a_budget_no_reasoning_begins(
    structures: Structures, vocabulary: Vocabulary, max_tokens: int
) -> None:
    walk = Walk(structures, vocabulary, response_format=TRUTH, max_tokens=max_tokens)
    assert walk.to("<|channel|>").words() == {"final"}


@pytest.mark.parametrize("token", [START, CHANNEL, RETURN, ENDOFTEXT, VOCABULARY_SIZE - 1])
def test_a_special_token_out_of_place_is_an_error_of_the_engine(
    structures: Structures, vocabulary: Vocabulary, token: int
) -> None:
    walk = Walk(structures, vocabulary, response_format=TRUTH).to("<|channel|>analysis<|message|>a")
    with pytest.raises(AssertionError, match="the mask was not applied"):
        walk.turn.accept(token)


@pytest.mark.parametrize("said", ["<|channel|>final<|message|>", "<|channel|>final<|message|>tr"])
@pytest.mark.parametrize("token", [RETURN, END, CALL, MESSAGE, CONSTRAIN, 0])
def test_json_that_is_not_complete_cannot_be_closed(
    structures: Structures, vocabulary: Vocabulary, said: str, token: int
) -> None:
    walk = Walk(structures, vocabulary, response_format=TRUTH).to(said)
    with pytest.raises(AssertionError):
        walk.turn.accept(token)


def test_two_choices_of_one_request_go_their_own_ways(structures: Structures, vocabulary: Vocabulary) -> None:
    made = structures.for_request(response_format={"enum": ["left", "right"]}, max_tokens=100)
    assert made is not None
    one, other = made(), made()
    mask = np.zeros(WORDS, np.int32)
    for token in encode('<|channel|>final<|message|>"left', vocabulary):
        one.accept(token)
    other.fill(mask)
    assert tokens_of(mask) == [CHANNEL]
    for token in encode('<|channel|>final<|message|>"right', vocabulary):
        other.accept(token)
    for token in encode('"<|return|>', vocabulary):
        one.accept(token)
    assert (one.ended, other.ended) == (True, False)


def test_filling_twice_changes_nothing(structures: Structures, vocabulary: Vocabulary) -> None:
    turn = Walk(structures, vocabulary, response_format={"type": "object"}).turn
    draw = uniform(3)
    once, again = np.zeros(WORDS, np.int32), np.zeros(WORDS, np.int32)
    for _ in range(600):
        turn.fill(once)
        turn.fill(again)
        assert np.array_equal(once, again)
        turn.accept(draw(once))


def test_a_fill_writes_every_word(structures: Structures, vocabulary: Vocabulary) -> None:
    places = ["", "<|channel|>analysis<|message|>", '<|channel|>final<|message|>{"a":"']
    for place in places:
        walk = Walk(structures, vocabulary, response_format={"type": "object"}).to(place)
        ones, zeros = np.full(WORDS, -1, np.int32), np.zeros(WORDS, np.int32)
        walk.turn.fill(ones)
        walk.turn.fill(zeros)
        assert np.array_equal(ones, zeros)


@pytest.mark.parametrize(
    "mask",
    [np.zeros(WORDS + 1, np.int32), np.zeros(WORDS, np.int64), np.zeros((WORDS, 2), np.int32)[:, 0]],
    ids=["long", "wide", "gaps"],
)
def test_a_mask_of_another_shape_is_not_written_to(structures: Structures, mask: Any) -> None:
    made = structures.for_request(response_format=TRUTH, max_tokens=10)
    assert made is not None
    with pytest.raises(ValueError, match="a mask must be int32"):
        made().fill(mask)


def test_a_schema_that_forces_text_without_end_fails_the_request_when_the_mask_is_asked_for(
    structures: Structures, vocabulary: Vocabulary
) -> None:
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    walk = Walk(structures, vocabulary, response_format=schema).to('<|channel|>final<|message|>{"')
    for _ in range(2):
        with pytest.raises(Fault, match="a schema of the request became too complex to follow"):
            walk.allowed()
