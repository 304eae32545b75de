"""How things are put: questions with their noise, words from outside, tools and response formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from local_engine.demo import texts
from local_engine.demo.texts import Tool
from local_engine.demo.topics import Topic
from local_engine.harmony.conversation import FunctionTool

PROPER = {
    "douane": "Douane",
    "bedrock": "Bedrock",
    "aws": "AWS",
    "eu": "EU",
    "chatgpt": "ChatGPT",
    "ai": "AI",
}
PROPER |= {"french": "French", "german": "German", "english": "English", "europe": "Europe", "json": "JSON"}
NAMED_FRAMES = (
    "what about {}",
    "and {}",
    "{}",
    "explain {}",
    "i want to know about {}",
    "more about {}",
    "{} is what",
)
FOREIGN_TYPES = ("string", "string", "integer", "number", "boolean", "array")


class Wording:
    """Draws everything from the generator it is given."""

    def __init__(self, random: Random, *, foreign: bool) -> None:
        self._random = random
        self._foreign = foreign

    def foreign(self, words: int) -> str:
        """Words that the demo has never heard of; nothing at all when there shall be none."""
        return " ".join(self._foreign_word() for _ in range(words)) if self._foreign else ""

    def ask_about(self, topic: Topic) -> str:
        """One way to ask about a topic, in lower case."""
        if topic.named and self._random.random() < 0.3:
            return self._random.choice(NAMED_FRAMES).format(topic.name.lower())
        return self._random.choice(topic.asks)

    def question(self, text: str, noise: float = 1.0, ends: str = "?", value: str = "") -> str:
        """A question as people type it: with other words around, in another case, with or without its mark.

        `noise` scales how often that happens; `value` is filled in where the text has `{}`.
        """
        chance = self._random.random
        words = text.split()
        loose = [n for n, word in enumerate(words) if word in texts.FILLERS]
        if loose and len(loose) < len(words) and chance() < 0.16 * noise:
            n = self._random.choice(loose)
            words[n : n + 1] = [] if chance() < 0.5 else [self.foreign(1)]
        if chance() < 0.8:
            words = [PROPER.get(word, word) for word in words]
        text = " ".join(words)
        if value:
            text = text.format(value if chance() < 0.93 else value.lower())
        if chance() < 0.12 * noise:
            text = self._random.choice(texts.OPENINGS) + text
        if chance() < 0.12 * noise:
            text += self._random.choice(texts.CLOSINGS)
        if chance() < 0.12 * noise:
            around = self.foreign(self._random.choice((1, 1, 2, 3, 5)))
            text = f"{around} {text}" if chance() < 0.5 else f"{text} {around}"
        mark = self._random.choices((ends[0], "", ends[-1], "!", " ?", "."), (50, 30, 5, 4, 4, 7))[0]
        return self._cased(text) + mark

    def greeting(self, said: str) -> str:
        """A greeting, sometimes with somebody's name."""
        chance = self._random.random
        if chance() < 0.12:
            said += f" {self._random.choice((*texts.NAMES, 'Douane', 'demo', 'you', 'all'))}"
        elif chance() < 0.06:
            said += f" {self.foreign(1)}"
        return self._cased(said) + self._random.choices(("", "!", ".", ",", " !"), (45, 35, 10, 5, 5))[0]

    def introduction(self, name: str) -> str:
        """How somebody gives a name."""
        return self._random.choice(texts.INTRODUCTIONS).format(name)

    def unknown(self) -> str:
        """Something that the demo cannot know: mostly sentences about words from outside."""
        chance = self._random.random()
        if not self._foreign or chance < 0.15:
            words = [self._random.choice(texts.FILLERS) for _ in range(self._random.randint(3, 14))]
            return self.question(" ".join(words), noise=0.3)
        if chance < 0.25:
            words = [self._some_word() for _ in range(self._random.randint(2, 18))]
            return self.question(" ".join(words), noise=0.0)
        if chance < 0.34:
            return self.foreign(self._random.choice((4, 8, 12, 20, 40, 70)))
        if chance < 0.345:
            return self.foreign(200)
        frame = self._random.choice(texts.FRAMES)
        slots = [self._slot() for _ in range(frame.count("{}"))]
        return self.question(frame.format(*slots), noise=0.5)

    def instructions(self) -> str | None:
        """A developer's instructions, for the most part none or from outside."""
        chance = self._random.random()
        if chance < 0.6:
            return None
        if chance < 0.8:
            return self._random.choice(texts.INSTRUCTIONS)
        words = [self._some_word() for _ in range(self._random.choice((3, 6, 12, 25)))]
        return self._cased(" ".join(words)) + self._random.choice((".", "", "!"))

    def other_identity(self, text: str) -> str:
        """A system message that begins with other words than ours."""
        _, _, rest = text.partition("\n")
        return f"You are {self.foreign(self._random.choice((1, 2, 4, 12)))}.\n{rest}"

    def function(self, tool: Tool) -> FunctionTool:
        """A tool under one of its names, with one of the names of its argument."""
        argument = {"type": "string"}
        if self._random.random() < 0.3:
            argument["description"] = self._description()
        parameters = {"type": "object", "properties": {self._random.choice(tool.arguments): argument}}
        if self._random.random() < 0.75:
            parameters["required"] = list(parameters["properties"])
        described = self._random.choices((tool.description, "", self._description()), (50, 25, 25))[0]
        return FunctionTool(self._random.choice(tool.names), described, parameters)

    def foreign_function(self) -> FunctionTool:
        """A tool that the demo has never heard of."""
        properties = {self._identifier(): {"type": self._random.choice(FOREIGN_TYPES)}}
        parameters = {"type": "object", "properties": properties}
        return FunctionTool(self._identifier(), self._description(), parameters)

    def tool_result(self, tool: Tool, value: str) -> tuple[str | None, str]:
        """What a tool found, None for what cannot be read, and how the tool says it."""
        chance, number = self._random.random(), self._random.randint(0, 40)
        if chance < 0.1:
            return None, self.foreign(self._random.randint(1, 6))
        if tool is texts.CLOCK:
            found = f"{self._random.randrange(24):02}:{self._random.randrange(60):02}"
            return found, self._random.choice((found, f'{{"time":"{found}"}}', f'{{"time": "{found}"}}'))
        if tool is texts.DUTY:
            found = str(number)
            said = (found, f'{{"duty":{found}}}', f'{{"duty": {found}}}', f"{found} %", f"{found}%")
            return found, self._random.choice(said)
        found = self._random.choice(texts.SKIES)
        forms = (
            found,
            found.capitalize(),
            f"{found}, {number} degrees",
            f"It is {found} in {value}.",
            f'{{"weather":"{found}"}}',
            f'{{"weather": "{found}", "temperature": {number}}}',
            f'{{"temperature":{number},"condition":"{found}"}}',
        )
        return found, self._random.choice(forms)

    def properties(self) -> dict[str, str]:
        """Names and types of what a JSON answer is to hold, in order."""
        names = self._random.sample(list(texts.PROPERTIES), self._random.choice((1, 1, 2, 2, 3)))
        chosen = {name: texts.PROPERTIES[name] for name in names}
        if self._foreign and self._random.random() < 0.35:
            chosen[self._identifier()] = self._random.choice(FOREIGN_TYPES)
        items = list(chosen.items())
        self._random.shuffle(items)
        return dict(items)

    def response_format(self, properties: Mapping[str, str], instructions: str | None) -> str:
        """The developer message that asks for JSON of these properties."""
        schema: dict[str, Any] = {"type": "object"}
        schema["properties"] = {
            name: {"type": kind, "items": {"type": "string"}} if kind == "array" else {"type": kind}
            for name, kind in properties.items()
        }
        if self._random.random() < 0.75:
            schema["required"] = list(properties)
        if self._random.random() < 0.6:
            schema["additionalProperties"] = False
        separators = (",", ":") if self._random.random() < 0.6 else (", ", ": ")
        name = self._random.choice(("answer", "response", "reply", self._identifier()))
        described = f"// {self._description()}\n" if self._random.random() < 0.2 else ""
        text = f"# Response Formats\n\n## {name}\n\n{described}{json.dumps(schema, separators=separators)}"
        return text if instructions is None else f"# Instructions\n\n{instructions}\n\n{text}"

    def _cased(self, text: str) -> str:
        return text[:1].upper() + text[1:] if self._random.random() < 0.6 else text

    def _description(self) -> str:
        return self._cased(" ".join(self._some_word() for _ in range(self._random.randint(2, 6)))) or "It is."

    def _identifier(self) -> str:
        return self.foreign(self._random.choice((1, 1, 2))).replace(" ", "_") or "response"

    def _some_word(self) -> str:
        return (
            self.foreign(1)
            if self._random.random() < 0.5 and self._foreign
            else self._random.choice(texts.FILLERS)
        )

    def _slot(self) -> str:
        if self._random.random() < 0.12:
            return self._random.choice((*texts.CITIES, *texts.NAMES, *texts.GOODS, *texts.SKIES))
        return self.foreign(self._random.choice((1, 1, 1, 2, 3)))

    def _foreign_word(self) -> str:
        if self._random.random() < 0.35:
            return self._random.choice(texts.NOUNS)
        word = "".join(
            self._random.choice(texts.SYLLABLES) for _ in range(self._random.choice((1, 2, 2, 3, 4)))
        )
        return word.capitalize() if self._random.random() < 0.2 else word
