"""Makes up the conversations that the demo learns from, the same ones for the same seed.

A conversation is what the model reads and the turn it is to learn. Words that stand for everything the model
has never heard of are left out of its vocabulary, so that it meets them all as one unknown word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from random import Random
from typing import Any

from local_engine.demo import texts
from local_engine.demo.texts import TOOLS, Tool
from local_engine.demo.topics import TOPICS, Topic
from local_engine.demo.wording import Wording
from local_engine.harmony.conversation import (
    Effort,
    FunctionTool,
    Message,
    developer_message,
    drop_finished_reasoning,
    system_message,
)
from local_engine.harmony.render import render_message
from local_engine.harmony.tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    MESSAGE,
    RETURN,
    START,
    Tokenizer,
)

VERSION = "1"
"""Changes whenever other conversations come out of the same seed."""

ALWAYS_KNOWN = " ".join([*(f"{n:02}" for n in range(100)), *(str(n) for n in range(10)), "202 203"])
"""Numbers of dates, times and tools, which the few conversations looked at for the vocabulary may lack."""

FIRST_DAY = date(2024, 1, 1)
DAYS = 3650


@dataclass(frozen=True, slots=True)
class Conversation:
    """`kind` says what is trained, `read` is the context, and `said` the turn that is to be sampled then."""

    kind: str
    read: tuple[Message, ...]
    said: tuple[Message, ...]
    calls_as_sampled: bool = False

    def shortened(self) -> Conversation:
        """The same turn with only as much before it as it needs: no system message, no earlier turns."""
        first = 0 if self.kind == "date" else 1
        if self.kind in LOOKING_BACK:
            return replace(self, read=self.read[first:])
        last = max(n for n, message in enumerate(self.read) if message.role == "user")
        opening = tuple(m for m in self.read[first:last] if m.role in ("system", "developer"))
        return replace(self, read=(*opening, *self.read[last:]))


LOOKING_BACK = ("name", "more")
"""Kinds whose answer is in an earlier turn."""

KINDS = frozenset(
    {
        "topic",
        "greeting",
        "fallback",
        "introduction",
        "date",
        "toolless",
        "call",
        "value",
        "tool answer",
        "json",
    }
).union(LOOKING_BACK)


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with its thought and its answer; `known` is false for an answer that knows nothing."""

    kind: str
    asked: str
    thought: str
    answer: str
    topic: str = "nothing"
    language: str = "English"
    name: str | None = None
    known: bool = True
    more: str = ""


class Corpus:
    """Conversations without end; without `foreign` words, only of what the demo is to understand."""

    def __init__(self, seed: int, *, foreign: bool = True) -> None:
        self._random = Random(f"demo corpus {VERSION}, {seed}")  # noqa: S311 - made-up talk, not a secret
        self._wording = Wording(self._random, foreign=foreign)

    def __iter__(self) -> Iterator[Conversation]:
        while True:
            yield self.conversation()

    def conversation(self) -> Conversation:
        """The next one."""
        made = self._random.choices(
            (self._plain, self._call, self._tool_answer, self._beside_tools, self._json), (52, 12, 10, 8, 18)
        )[0]
        return made()

    def chance(self) -> float:
        """A number from 0 up to 1."""
        return self._random.random()

    def shuffled(self, count: int) -> list[int]:
        """The numbers below `count` in an order of its own."""
        return self._random.sample(range(count), count)

    # What is asked and answered

    def _turn(self) -> Turn:
        made = self._random.choices(
            (self._topic, self._greeting, self._fallback, self._introduction, self._date), (43, 16, 25, 8, 8)
        )[0]
        return made()

    def _topic(self, topic: Topic | None = None) -> Turn:
        topic = topic or self._random.choice(TOPICS)
        asked = self._wording.question(self._wording.ask_about(topic))
        return Turn("topic", asked, f"This is about {topic.name}.", topic.answer, topic.name, more=topic.more)

    def _greeting(self) -> Turn:
        said, hello, language = self._random.choice(texts.GREETINGS)
        answer = texts.GREETING_ANSWER.format(hello=hello)
        thought = f"The user greets in {language}."
        return Turn("greeting", self._wording.greeting(said), thought, answer, "a greeting", language)

    def _fallback(self) -> Turn:
        return Turn("fallback", self._wording.unknown(), "I do not know this.", texts.FALLBACK, known=False)

    def _introduction(self) -> Turn:
        foreign = self._random.random() < 0.25
        name = self._wording.foreign(1) if foreign else self._random.choice(texts.NAMES)
        said = self._wording.question(self._wording.introduction(name), noise=0.3, ends=".!")
        if foreign:
            return Turn("introduction", said, "I do not know this name.", texts.NEW_NAME, "a greeting")
        thought, answer = f"The user is called {name}.", texts.CALLED_ANSWER.format(name=name)
        return Turn("introduction", said, thought, answer, "a greeting", name=name)

    def _date(self) -> Turn:
        # The answer depends on the system message, which is put in when that is known.
        return Turn("date", self._wording.question(self._random.choice(texts.DATE_ASKS)), "", "", "the date")

    def _toolless(self, tools: Sequence[Tool]) -> Turn:
        """A question for a tool that is not there."""
        tool = self._random.choice(tools)
        value = self._random.choice(tool.values)
        asked = self._wording.question(self._random.choice(tool.asks), value=value)
        return Turn("toolless", asked, "I have no tool for this.", texts.NO_TOOL, known=False)

    def _again(self, history: Sequence[Turn]) -> Turn:
        """A question that needs what was said before: more about it, or the user's name."""
        if self._random.random() < 0.5:
            name = next((turn.name for turn in reversed(history) if turn.kind == "introduction"), None)
            asked = self._wording.question(self._random.choice(texts.NAME_ASKS))
            if name is None:
                return Turn("name", asked, "I know no name.", texts.NO_NAME, known=False)
            return Turn("name", asked, f"The user is called {name}.", f"Your name is {name}.", "a name")
        asked = self._wording.question(self._random.choice(texts.MORE), noise=0.2)
        last = history[-1] if history else None
        if last is None or last.kind != "topic" or not last.more:
            return Turn("more", asked, "There is no more.", texts.NO_MORE, known=False)
        return Turn("more", asked, f"More about {last.topic}.", last.more, last.topic)

    # Whole conversations

    def _plain(self) -> Conversation:
        effort, day = self._effort(), self._day()
        history = self._history()
        if self._random.random() < (0.5 if history else 0.06):
            if self._random.random() < 0.6:
                history = [
                    *history[:-1],
                    self._random.choice((self._topic, self._topic, self._introduction))(),
                ]
            turn = self._again(history)
        else:
            turn = self._toolless(TOOLS) if self._random.random() < 0.07 else self._turn()
        opening = self._opening(effort, day, self._wording.instructions(), [])
        read = [*opening, *self._told(history, day), Message("user", turn.asked)]
        return self._conversation(turn, read, self._answered(turn, effort, day))

    def _beside_tools(self) -> Conversation:
        effort, day = self._effort(), self._day()
        offered = self._offered()
        tools = [function for _, function in offered]
        turn = self._turn()
        lacking = [tool for tool in TOOLS if all(tool is not one for one, _ in offered)]
        if lacking and self._random.random() < 0.25:
            turn = self._toolless(lacking)
        read = [*self._opening(effort, day, self._wording.instructions(), tools)]
        read += [*self._told(self._history(0.25), day), Message("user", turn.asked)]
        return self._conversation(turn, read, self._answered(turn, effort, day))

    def _call(self) -> Conversation:
        effort, day = self._effort(), self._day()
        offered = self._offered()
        tool, function = self._random.choice(offered)
        read = [*self._opening(effort, day, self._wording.instructions(), [f for _, f in offered])]
        read += self._told(self._history(0.25), day)
        if self._random.random() < 0.3:
            read += self._loop(tool, function, self._random.choice(tool.values))
        if self._random.random() < 0.2:
            asked = self._wording.question(self._random.choice(tool.asks), value=self._wording.foreign(1))
            turn = Turn("value", asked, "I do not know that word.", texts.UNKNOWN_VALUE, known=False)
            return self._conversation(
                turn, [*read, Message("user", asked)], self._answered(turn, effort, day)
            )
        value = self._random.choice(tool.values)
        asked = self._wording.question(self._random.choice(tool.asks), value=value)
        said = [*self._thought(f"I call {function.name} with {value}.", effort), _call(function, value)]
        read.append(Message("user", asked))
        return Conversation("call", tuple(drop_finished_reasoning(read)), tuple(said), self._coin())

    def _tool_answer(self) -> Conversation:
        effort, day = self._effort(), self._day()
        offered = self._offered()
        tool, function = self._random.choice(offered)
        value = self._random.choice(tool.values)
        read = [*self._opening(effort, day, self._wording.instructions(), [f for _, f in offered])]
        read += [*self._told(self._history(0.2), day), *self._loop(tool, function, value)]
        said = read.pop()
        if self._random.random() < 0.25:
            # Another question, when that is done.
            turn = self._turn()
            read += [said, Message("user", turn.asked)]
            return self._conversation(turn, read, self._answered(turn, effort, day))
        thought = self._thought("The tool has answered.", effort)
        return Conversation(
            "tool answer", tuple(drop_finished_reasoning(read)), (*thought, said), self._coin()
        )

    def _json(self) -> Conversation:
        effort, day = self._effort(), self._day()
        made = self._random.choices((self._topic, self._greeting, self._fallback), (50, 20, 30))[0]
        turn = made()
        properties = self._wording.properties()
        developer = self._wording.response_format(properties, self._wording.instructions())
        read = [system_message(effort, day, False), Message("developer", developer)]
        read += [*self._told(self._history(0.2), day), Message("user", turn.asked)]
        values = {name: _json_value(name, kind, turn) for name, kind in properties.items()}
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        said = [*self._thought(turn.thought, effort), Message("assistant", text, channel="final")]
        return self._conversation(turn, read, said, "json")

    # Their parts

    def _history(self, chance: float = 0.5) -> list[Turn]:
        if self._random.random() > chance:
            return []
        return [self._turn() for _ in range(self._random.choice((1, 1, 1, 2, 2, 3)))]

    def _told(self, history: Sequence[Turn], day: date | None) -> list[Message]:
        """Finished turns, without what was thought in them."""
        out = []
        for turn in history:
            out += [Message("user", turn.asked), self._answered(turn, "low", day)[-1]]
        return out

    def _answered(self, turn: Turn, effort: Effort, day: date | None) -> list[Message]:
        thought, answer = turn.thought, turn.answer
        if turn.kind == "date":
            thought, answer = (
                ("There is a date.", f"It is {day}.") if day else ("There is no date.", texts.NO_DATE)
            )
        return [*self._thought(thought, effort), Message("assistant", answer, channel="final")]

    def _thought(self, text: str, effort: Effort) -> list[Message]:
        if effort == "low" and self._random.random() < 0.7:
            return []
        text += " I think before I answer." if effort == "high" else ""
        return [Message("assistant", text, channel="analysis")]

    def _loop(self, tool: Tool, function: FunctionTool, value: str) -> list[Message]:
        """A question that takes a tool, the call, what the tool says, and the answer."""
        asked = self._wording.question(self._random.choice(tool.asks), value=value)
        found, result = self._wording.tool_result(tool, value)
        answer = texts.UNREAD if found is None else tool.says.format(value=value, found=found)
        thought = Message("assistant", f"I call {function.name} with {value}.", channel="analysis")
        return [
            Message("user", asked),
            *([thought] if self._random.random() < 0.6 else []),
            _call(function, value),
            Message(
                "tool", result, name=f"functions.{function.name}", channel="commentary", recipient="assistant"
            ),
            Message("assistant", answer, channel="final"),
        ]

    def _offered(self) -> list[tuple[Tool, FunctionTool]]:
        """One to three of the tools under one of their names each, perhaps with one that is never wanted."""
        chosen = self._random.sample(TOOLS, self._random.choice((1, 1, 1, 2, 3)))
        return [(tool, self._wording.function(tool)) for tool in chosen]

    def _opening(
        self, effort: Effort, day: date | None, instructions: str | None, tools: list[FunctionTool]
    ) -> list[Message]:
        if tools and self._random.random() < 0.25:
            tools = [*tools, self._wording.foreign_function()]
        self._random.shuffle(tools)
        system, developer = system_message(effort, day, bool(tools)), developer_message(instructions, tools)
        if self._random.random() < 0.06:
            system = Message("system", self._wording.other_identity(system.text))
        return [system] if developer is None else [system, developer]

    def _conversation(
        self, turn: Turn, read: Sequence[Message], said: Sequence[Message], kind: str = ""
    ) -> Conversation:
        read = drop_finished_reasoning(read)
        return Conversation(kind or turn.kind, tuple(read), tuple(said), self._coin())

    def _effort(self) -> Effort:
        efforts: tuple[Effort, ...] = ("low", "medium", "high")
        return self._random.choices(efforts, (2, 5, 2))[0]

    def _day(self) -> date | None:
        return None if self._random.random() < 0.1 else FIRST_DAY + timedelta(self._random.randrange(DAYS))

    def _coin(self) -> bool:
        return self._random.random() < 0.5


def _call(function: FunctionTool, value: str) -> Message:
    argument = next(iter((function.parameters or {})["properties"]))
    text = json.dumps({argument: value}, ensure_ascii=False, separators=(",", ":"))
    return Message(
        "assistant", text, channel="commentary", recipient=f"functions.{function.name}", constrain="json"
    )


def _json_value(name: str, kind: str, turn: Turn) -> Any:
    if kind == "boolean":
        return turn.known
    if kind in ("integer", "number"):
        return 1
    if kind == "array":
        return ["demo"]
    known = {"topic": turn.topic, "language": turn.language}
    return known.get(name, turn.answer if name in texts.ANSWER_KEYS else "demo")


def sampled(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """A turn as it is sampled behind `<|start|>assistant`: a call's recipient comes after its channel."""
    tokens: list[int] = []
    for n, message in enumerate(messages):
        tokens += [START, *tokenizer.encode("assistant")] if n else []
        tokens += [CHANNEL, *tokenizer.encode(message.channel or "final")]
        if message.recipient is not None:
            tokens += tokenizer.encode(f" to={message.recipient}")
        if message.constrain is not None:
            tokens += [*tokenizer.encode(" "), CONSTRAIN, *tokenizer.encode(message.constrain)]
        tokens += [MESSAGE, *tokenizer.encode(message.text)]
        called = message.recipient is not None
        tokens.append(CALL if called else RETURN if message.channel == "final" else END)
    return tokens


def example(conversation: Conversation, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """All tokens, and which of them are learnt: the turn to sample, and what earlier finals say."""
    tokens: list[int] = []
    learnt: list[bool] = []
    for message in conversation.read:
        if message.recipient and message.role == "assistant" and conversation.calls_as_sampled:
            part = [START, *tokenizer.encode("assistant"), *sampled([message], tokenizer)]
        else:
            part = render_message(message, tokenizer)
        inside = part.index(MESSAGE) if message.channel == "final" else len(part)
        tokens += part
        learnt += [inside < n < len(part) - 1 for n in range(len(part))]
    opening = [START, *tokenizer.encode("assistant")]
    turn = sampled(conversation.said, tokenizer)
    return [*tokens, *opening, *turn], [*learnt, *[False] * len(opening), *[True] * len(turn)]


def used_tokens(tokenizer: Tokenizer, conversations: int = 8000) -> list[int]:
    """The ids, ascending, of all tokens that conversations without foreign words are made of."""
    corpus = Corpus(0, foreign=False)
    used = {token for text in (*texts.FILLERS, ALWAYS_KNOWN) for token in tokenizer.encode(f" {text}")}
    values = (
        *texts.CITIES,
        *texts.GOODS,
        *(topic.name for topic in TOPICS),
        *(g[2] for g in texts.GREETINGS),
    )
    used |= {token for value in values for token in tokenizer.encode(value)}
    for _ in range(conversations):
        used.update(example(corpus.conversation(), tokenizer)[0])
    return sorted(used)
