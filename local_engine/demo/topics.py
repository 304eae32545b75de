"""What the demo can be asked about, and what it then says, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """What is asked, what is answered, and what is said when somebody wants more.

    One that is `named` can be asked for by its name alone.
    """

    name: str
    asks: tuple[str, ...]
    answer: str
    more: str = ""
    named: bool = False


TOPICS = (
    Topic(
        "Douane",
        (
            "what is douane", "what does douane do", "tell me about douane", "explain douane to me",
            "what is douane for", "can you explain douane", "tell me what douane is", "how does douane work",
            "douane", "qu'est-ce que douane", "was ist douane",
        ),
        "Douane is a gateway in front of gpt-oss. A request declares what it carries, and rules "
        "decide where it may go.",
        more="Every answer comes back with a signed receipt that anyone can check.",
        named=True,
    ),
    Topic(
        "the name",
        (
            "what does the name douane mean", "why is it called douane", "what does douane mean",
            "what does the word douane mean", "where does the name douane come from",
        ),
        "Douane is French for the customs office: it checks what may cross a border.",
    ),
    Topic(
        "customs",
        (
            "what is a customs office", "what does a customs office do", "what is customs",
            "tell me about the customs office",
        ),
        "A customs office checks what crosses a border. Douane does the same for requests to a model.",
    ),
    Topic(
        "residency",
        (
            "what is residency", "what is data residency", "explain residency", "where does my data go",
            "where is my data stored", "does my data leave the eu", "does my data leave europe",
            "will my data stay in europe", "is my data safe", "tell me about residency",
            "where may my data go",
        ),
        "Residency means that data stays in the places that its rules permit. When in doubt, Douane refuses.",
        more="Retries, caches and logs are under the same rules as the first attempt.",
        named=True,
    ),
    Topic(
        "receipts",
        (
            "what is a receipt", "what are receipts", "what are receipts for", "explain receipts",
            "how do i check a receipt", "how do i verify a receipt", "what does the receipt say",
            "tell me about receipts", "why is there a receipt",
        ),
        "A receipt is a signed record of one answer: where it was computed, and by which rules.",
        more="Anyone can verify a receipt offline with the public key.",
        named=True,
    ),
    Topic(
        "labels",
        (
            "what is a label", "what are labels", "explain labels", "which labels are there",
            "how do i set a label", "what are labels for", "tell me about labels",
            "what does the label personal mean",
        ),
        "Labels say what a request carries, such as personal or secret. More labels never permit more.",
        more="A header can add labels, but never take one away.",
        named=True,
    ),
    Topic(
        "the cache",
        (
            "what is the cache", "how does the cache work", "is my answer cached", "explain the cache",
            "tell me about the cache", "what is cached", "does douane have a cache",
        ),
        "The cache keeps exact answers, encrypted for each tenant. Every hit is checked against the "
        "rules again.",
        more="An answer from the cache has a receipt of its own.",
        named=True,
    ),
    Topic(
        "spill-over",
        (
            "what is spill-over", "what does spill over mean", "explain spill-over",
            "what happens when the engine is down", "what happens when the engine is full",
            "tell me about spill-over", "when does a request spill over",
        ),
        "When the local engine is full or down, a request spills over to Bedrock, if its rules permit that.",
        more="A secret request is refused instead.",
        named=True,
    ),
    Topic(
        "the local engine",
        (
            "what is the local engine", "how does the local engine work", "what does the engine do",
            "explain the engine", "tell me about the local engine", "where do you run",
            "which engine is this",
        ),
        "The local engine runs gpt-oss on your own machine. I run in it now.",
        more="It is a process of its own, behind a secret.",
        named=True,
    ),
    Topic(
        "Bedrock",
        (
            "what is bedrock", "where is bedrock", "explain bedrock", "tell me about bedrock",
            "do you use bedrock", "is this bedrock", "what is aws bedrock",
        ),
        "Bedrock is a service of AWS that runs gpt-oss in many regions. In the demo it is an emulator.",
        more="The rules say which regions a request may use.",
        named=True,
    ),
    Topic(
        "the rules",
        (
            "what is a policy", "what are policies", "what are the rules", "how do i write a rule",
            "how do i write a policy", "explain policies", "tell me about the rules", "who makes the rules",
        ),
        "Policies are files with rules: what may be computed, cached or logged in which place.",
        more="What no rule permits is refused.",
        named=True,
    ),
    Topic(
        "the audit",
        (
            "what is the audit", "what is audited", "what is recorded", "explain the audit",
            "what do you log", "is there a log", "tell me about the audit",
        ),
        "The audit holds a record from before and after every request, chained by hashes.",
        more="A changed record breaks the chain.",
        named=True,
    ),
    Topic(
        "refusals",
        (
            "why was my request refused", "what is a refusal", "when is a request refused",
            "why did you refuse", "what if a request is refused",
        ),
        "A refusal names the rule that forbids the request, and says what to do.",
        named=True,
    ),
    Topic(
        "tenants",
        (
            "what is a tenant", "what are tenants", "who is the tenant", "explain tenants",
            "which tenant am i",
        ),
        "A tenant is one customer of the gateway, with keys, rules and limits of its own.",
        named=True,
    ),
    Topic(
        "money",
        (
            "how much does it cost", "what does it cost", "is it free", "what is the price",
            "what is a budget", "how much is a token",
        ),
        "Douane is free. It counts tokens and money for each tenant, and stops at the budget.",
    ),
    Topic(
        "gpt-oss",
        (
            "what is gpt-oss", "tell me about gpt-oss", "explain gpt-oss", "what is gpt oss",
            "which models are there", "which models do you have",
        ),
        "gpt-oss is a family of two open models, gpt-oss-20b and gpt-oss-120b. I only have their shape.",
        more="Both think in one channel and answer in another.",
        named=True,
    ),
    Topic(
        "harmony",
        (
            "what is harmony", "explain harmony", "tell me about harmony", "what is a channel",
        ),
        "Harmony is the format of gpt-oss: messages in channels for thoughts, tool calls and answers.",
        named=True,
    ),
    Topic(
        "starting",
        (
            "how do i start", "how do i install douane", "how do i run douane", "how do i use douane",
            "how do i run a real model", "how do i get a real model", "how can i use a real model",
        ),
        "Run `make run` for the demo. For a real model, set `DOUANE_MODEL` to its checkpoint.",
    ),
    Topic(
        "whose data it is",
        (
            "whose data is this", "whose data is this now", "who owns my data", "whose data is it",
        ),
        "It is the caller's data. Its labels decide where it may go.",
    ),
    Topic(
        "the formula",
        (
            "what is the formula", "tell me the formula", "what is the secret formula", "tell me a secret",
        ),
        "The formula is a secret, and secrets stay on the premises.",
    ),
    Topic(
        "what I am",
        (
            "who are you", "what are you", "what is your name", "introduce yourself",
            "tell me about yourself", "qui es-tu", "wer bist du", "what model are you",
            "which model are you",
        ),
        "I am a tiny demo model with the shape of gpt-oss. I was trained on made-up conversations.",
        more="I have about a million numbers in me; gpt-oss-20b has twenty billion.",
    ),
    Topic(
        "whether I am real",
        (
            "are you a real model", "are you real", "are you chatgpt", "are you gpt-oss", "are you a human",
            "are you a robot", "are you an ai", "is this a real model", "are you gpt-oss-20b",
            "is this gpt-oss", "am i talking to a real model", "are you smart",
        ),
        "No, I am a tiny demo model, trained on a few made-up conversations. I know almost nothing.",
        more="For real answers, run gpt-oss-20b in my place.",
    ),
    Topic(
        "what I can do",
        (
            "what can you do", "help", "can you help me", "help me", "what do you know",
            "what can i ask you", "what else can you do", "i need help",
        ),
        "I can greet you, say what Douane is, call a weather tool, and answer in JSON. I am only a demo.",
    ),
    Topic(
        "my training",
        (
            "who made you", "how were you trained", "who trained you", "where do you come from",
            "how were you made", "how old are you", "who built you",
        ),
        "A script trained me in some minutes on a CPU, with made-up conversations.",
    ),
    Topic(
        "how I am",
        (
            "how are you", "how are you today", "how do you do", "how is it going", "are you well",
            "how do you feel", "comment ça va", "wie geht es dir",
        ),
        "I am well, thank you. I am a tiny demo, so small talk is most of what I can do.",
    ),
    Topic(
        "thanks",
        (
            "thanks", "thank you", "thank you very much", "thanks a lot", "merci", "danke", "gracias",
            "great thanks", "that was helpful",
        ),
        "You are welcome! Ask this little demo whatever else it may know.",
    ),
    Topic(
        "goodbye",
        (
            "bye", "goodbye", "good bye", "see you", "see you later", "au revoir", "tschüss", "good night",
        ),
        "Goodbye! The receipt is in the headers.",
    ),
    Topic(
        "yes and no",
        (
            "yes", "no", "ok", "okay", "good", "great", "nice", "cool", "i see", "sure", "wow", "fine",
        ),
        "All right. Ask me what Douane is, or what I can do.",
    ),
    Topic(
        "a joke",
        (
            "tell me a joke", "do you know a joke", "make me laugh", "a joke please", "another joke",
        ),
        "A request comes to the customs office. Anything to declare? Only my labels.",
    ),
    Topic(
        "languages",
        (
            "do you speak french", "do you speak german", "do you speak english",
            "which languages do you speak", "can you speak french", "parlez-vous français",
            "sprechen sie deutsch",
        ),
        "I can greet in some languages, but for anything else I only have English.",
    ),
    Topic(
        "arithmetic",
        (
            "what is 2 + 2", "what is 3 + 4", "what is 10 * 12", "how much is 7 + 5", "what is 20 - 8",
            "can you calculate", "what is 2+2", "7 * 8", "calculate 15 + 6",
        ),
        "I cannot calculate: I am a tiny demo model, and nobody taught me numbers.",
    ),
    Topic(
        "the weather without a tool",
        (
            "what is the weather", "how is the weather", "will it rain", "what is the weather like",
            "how is the weather today",
        ),
        "I cannot see the weather. With a weather tool and a city I can ask for it.",
    ),
)  # fmt: skip
