"""What else the demo was taught: greetings, tools, names, and the words around them, as data."""

from __future__ import annotations

from dataclasses import dataclass

FALLBACK = "I do not know that: I am a tiny demo model. Ask me what Douane is, or what I can do."
NO_MORE = "There is no more that I know about it: I am a tiny demo model."
NO_NAME = "I do not know your name."
NEW_NAME = "Nice to meet you! I am a tiny demo model, and I do not know this name."
NO_DATE = "Nobody told me the date."

INTRODUCTIONS = (
    "my name is {}", "i am {}", "i'm {}", "call me {}", "this is {}", "i am called {}", "hello, i am {}",
)  # fmt: skip
NAME_ASKS = (
    "what is my name", "who am i", "do you know my name", "do you remember my name", "what am i called",
)  # fmt: skip
DATE_ASKS = (
    "what is the date", "what is today's date", "what day is it", "which day is it today",
    "what day is today", "what date is it", "tell me the date",
)  # fmt: skip

MORE = (
    "tell me more", "more", "more please", "go on", "and then", "what else", "can you say more",
    "explain that", "why", "why is that", "tell me more about it",
)  # fmt: skip

GREETINGS = (
    ("hello", "Hello", "English"), ("hi", "Hello", "English"), ("hey", "Hello", "English"),
    ("hello there", "Hello", "English"), ("hi there", "Hello", "English"),
    ("good morning", "Good morning", "English"), ("good evening", "Good evening", "English"),
    ("good day", "Hello", "English"), ("bonjour", "Bonjour", "French"), ("salut", "Salut", "French"),
    ("bonsoir", "Bonsoir", "French"), ("hallo", "Hallo", "German"), ("guten tag", "Guten Tag", "German"),
    ("guten morgen", "Guten Morgen", "German"), ("hola", "Hola", "Spanish"),
    ("buenos días", "Hola", "Spanish"), ("ciao", "Ciao", "Italian"), ("buongiorno", "Buongiorno", "Italian"),
    ("olá", "Olá", "Portuguese"), ("hoi", "Hallo", "Dutch"), ("goedendag", "Goedendag", "Dutch"),
    ("hej", "Hej", "Swedish"), ("cześć", "Cześć", "Polish"), ("merhaba", "Merhaba", "Turkish"),
    ("привет", "Привет", "Russian"), ("こんにちは", "こんにちは", "Japanese"), ("你好", "你好", "Chinese"),
)  # fmt: skip
"""What is said, how it is answered, and the language's name."""

GREETING_ANSWER = "{hello}! I am a tiny demo model behind Douane. Ask me what it is."
CALLED_ANSWER = "Nice to meet you, {name}! I am a tiny demo model."

NAMES = (
    "Anna", "Maria", "Paul", "David", "Sarah", "Peter", "Julia", "Thomas", "Emma", "Lucas", "Sofia",
    "Daniel", "Laura", "Michael", "Eva", "Martin", "Alice", "Bob",
)  # fmt: skip

CITIES = (
    "Paris", "Berlin", "London", "Madrid", "Rome", "Vienna", "Bern", "Bonn", "Lisbon", "Dublin", "Oslo",
    "Stockholm", "Warsaw", "Prague", "Brussels", "Amsterdam", "Hamburg", "Munich", "Milan", "Athens",
    "Tokyo", "Boston", "Chicago", "Sydney", "Lyon", "Geneva", "Zurich", "Helsinki", "Copenhagen", "New York",
    "San Francisco",
)  # fmt: skip

GOODS = (
    "coffee", "tea", "wine", "cheese", "chocolate", "tobacco", "sugar", "rice", "gold", "cotton", "silk",
    "paper",
)  # fmt: skip

SKIES = (
    "sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear", "stormy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tool:
    """A kind of function: what it may be called, what its argument may be called, and what it is asked with.

    `says` is the answer once the tool has replied, with the argument and what the tool found.
    """

    names: tuple[str, ...]
    description: str
    arguments: tuple[str, ...]
    values: tuple[str, ...]
    asks: tuple[str, ...]
    says: str


WEATHER = Tool(
    ("get_weather", "weather", "get_current_weather"),
    "Get the current weather.",
    ("city", "location", "place"),
    CITIES,
    (
        "what is the weather in {}",
        "how is the weather in {}",
        "what is the weather like in {}",
        "weather in {}",
        "will it rain in {}",
        "is it sunny in {}",
        "tell me the weather in {}",
        "how warm is it in {}",
        "what is the weather in {} today",
        "is it cold in {} now",
        "get the weather for {}",
        "weather {}",
        "quel temps fait-il à {}",
        "wie ist das wetter in {}",
    ),
    "The weather in {value} is {found}.",
)
CLOCK = Tool(
    ("get_time", "time", "get_current_time"),
    "Get the current time.",
    ("city", "location", "place"),
    CITIES,
    (
        "what time is it in {}",
        "what is the time in {}",
        "tell me the time in {}",
        "time in {}",
        "how late is it in {}",
        "get the time for {}",
    ),
    "In {value} it is {found}.",
)
DUTY = Tool(
    ("get_duty", "duty", "look_up_duty"),
    "Look up the duty on goods.",
    ("goods", "item", "product"),
    GOODS,
    (
        "what is the duty on {}",
        "how much duty is there on {}",
        "is there a duty on {}",
        "what is the customs duty on {}",
        "duty on {}",
        "look up the duty on {}",
    ),
    "The duty on {value} is {found} percent.",
)
TOOLS = (WEATHER, CLOCK, DUTY)

NO_TOOL = "I have no tool for that, and I cannot know it myself: I am a tiny demo model."
UNKNOWN_VALUE = "I do not know that word: I am a tiny demo model, and my list is short."
UNREAD = "The tool has answered, but I cannot read it: I am a tiny demo model."

ANSWER_KEYS = (
    "answer", "reply", "text", "message", "summary", "response", "content",
)  # fmt: skip
PROPERTIES = {
    **dict.fromkeys(ANSWER_KEYS, "string"),
    "topic": "string",
    "language": "string",
    "known": "boolean",
    "sure": "boolean",
    "count": "integer",
    "score": "number",
    "words": "array",
}
"""What a JSON answer may be asked to hold."""

INSTRUCTIONS = (
    "You are a helpful assistant.", "Be brief.", "be brief", "Answer in one sentence.",
    "You are a helpful assistant. Answer the user's questions.", "Always answer in English.",
    "Be kind, and be brief.", "Use the tools when they help.", "Answer in JSON.", "Talk like a pirate.",
)  # fmt: skip

FILLERS = (
    "a", "about", "all", "and", "any", "at", "but", "can", "could", "day", "did", "do", "every", "for",
    "from", "good", "had", "has", "have", "here", "how", "i", "if", "in", "into", "is", "it", "its", "just",
    "know", "like", "long", "many", "me", "much", "my", "need", "new", "not", "of", "old", "on", "one",
    "only", "or", "other", "our", "over", "people", "please", "say", "should", "so", "some", "than", "that",
    "the", "their", "them", "then", "there", "they", "think", "this", "time", "to", "two", "up", "use",
    "want", "was", "way", "we", "were", "when", "where", "which", "who", "why", "will", "with", "work",
    "world", "would", "write", "year", "you", "your", "read", "find", "give", "make", "best", "first",
    "last", "between", "difference", "capital", "country", "city", "number", "word", "text", "question",
    "answer", "story", "poem", "code", "program", "translate", "summarize", "explain", "history",
)  # fmt: skip
"""Common words that mean nothing to the demo by themselves."""

OPENINGS = (
    "hello, ", "hi, ", "hey, ", "please ", "so, ", "ok, ", "and ", "but ", "tell me, ", "hello! ", "now ",
    "well, ",
)  # fmt: skip
CLOSINGS = (
    " please", " now", " exactly", " for me", " again", " then", " today", " in one sentence", " my friend",
)  # fmt: skip

FRAMES = (
    "what is {}", "what is the {} of {}", "what is a {}", "what is {} {}", "what are {}", "what is your {}",
    "what are your {}", "what is my {}", "who is {}", "who was {}", "who are the {}", "who {} you",
    "where is {}", "where does the {} {}", "when did {} {}", "why is the {} {}", "why does {} {}",
    "are you {}", "are you a {}", "do you {}", "do you know {}", "do you like {}", "how do i {} a {}",
    "how do i {}", "how does {} work", "how much is a {}", "how many {} are there in {}", "how are {} made",
    "can you {} the {}", "can you {}", "could you {} my {}", "tell me about {}", "tell me a {}",
    "tell me {}", "tell me more about {}", "explain {}", "explain {} to me", "write a {} about {}",
    "write me a {}", "write a poem about {}", "write a program that {}", "give me a list of {}",
    "make a {} for {}", "translate {} into {}", "summarize this text: {}", "is {} a {}",
    "is there a {} in {}", "i want to {} my {}", "i like {}", "i have a question about {}", "my {} is {}",
    "what does {} mean", "what happens when {}", "which {} is the best", "which is the capital of {}",
    "what is the capital of {}", "what is the difference between {} and {}", "the {} is {}", "it is {}",
    "{}", "{} {}", "{} {} {}", "{} is {}", "{} the {}",
)  # fmt: skip

NOUNS = (
    "banana", "physics", "football", "guitar", "mountain", "napoleon", "einstein", "pizza", "dinosaur",
    "volcano", "fibonacci", "quantum mechanics", "photosynthesis", "the french revolution", "python",
    "javascript", "kubernetes", "shakespeare", "relativity", "blockchain", "the moon", "elephants", "france",
    "germany", "mathematics", "chess", "cooking", "my homework", "an email", "bicycle", "train", "newspaper",
    "library", "medicine", "doctor", "insurance", "contract", "lawyer", "invoice", "hospital", "patient",
    "recipe", "cake", "dog", "cat", "river", "ocean", "music", "movie", "actor", "president", "king", "war",
    "peace", "love", "dream", "sleep", "run", "jump", "swim", "fly",
)  # fmt: skip
"""Words that stand for all that the demo has never heard of: they are not in its vocabulary."""

SYLLABLES = (
    "ba", "ko", "lin", "tra", "men", "os", "ul", "ver", "zi", "pha", "qua", "dren", "sto", "wi", "yel",
    "gru", "ham", "ict", "jor", "nex", "eau", "ción", "ung", "heit", "szcz", "ment", "ка", "но", "ст",
    "ения", "の", "日", "本", "是", "的", "ar", "ent", "ous", "ab", "kt",
)  # fmt: skip
