"""Two engines over the same weights: who is asked what, when, and what happens when memory does not do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import duel
from bench.duel import ANSWER_TOKENS, LLAMA, OURS, PROMPT_TOKENS, SPARE_BYTES, Wanted, agree, fits_together
from bench.duel import series as series_of
from bench.models import Subject
from bench.peers import build
from bench.processes import NotStarted
from bench.turns import Series
from local_engine.machine import Available
from local_engine.presets import TINY

VOCABULARY = TINY.vocab_size


class Told:
    """An engine that answers as told and notes what it was asked."""

    def __init__(self, others: float = 0.0, shift: float = 0.0) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.others = others
        self.shift = shift

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        self.asked.append((do, options))
        if do in ("decode", "prefill"):
            return {"seconds": 0.25, "others": self.others}
        logits = np.tile(np.arange(VOCABULARY, dtype=np.float32), (ANSWER_TOKENS, 1))
        logits[:, 0] += self.shift
        np.save(options["file"], logits)
        return {"tokens": list(range(ANSWER_TOKENS))} if do == "answer" else {}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.turns.PAUSE_S", 0)


def test_the_first_sample_of_each_is_not_counted() -> None:
    engines = {name: Told() for name in (OURS, LLAMA)}

    found = series_of(engines, 2, "decode", context=128, tokens=32)

    assert found == Series({OURS: (0.25, 0.25), LLAMA: (0.25, 0.25)}, rejected=0)
    assert [engine.asked for engine in engines.values()] == [
        [("decode", {"context": 128, "tokens": 32})] * 3
    ] * 2


def test_prompts_differ_from_round_to_round_and_not_between_engines() -> None:
    engines = {name: Told() for name in (OURS, LLAMA)}

    series_of(engines, 3, "prefill", seeded=True, tokens=512)

    seeds = [[options["seed"] for _, options in engine.asked] for engine in engines.values()]
    assert seeds == [[0, 1, 2, 3]] * 2


def test_a_busy_machine_is_a_reason_and_no_number() -> None:
    found = series_of({OURS: Told(others=0.3)}, 2, "decode", context=128, tokens=32)

    assert isinstance(found, str)
    assert found.startswith("other processes took up to 30% of the processors: 0 of 2 rounds")


def test_both_are_led_along_the_same_tokens_as_the_reference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    led: list[list[int]] = []

    def reference(model: Path, tokens: Sequence[int], threads: int, file: Path) -> None:
        led.append(list(tokens))
        Told().ask("follow", file=file)

    monkeypatch.setattr(duel, "reference", reference)
    ours, theirs = Told(), Told(shift=VOCABULARY + 5.0)

    found = agree(Subject(tmp_path, TINY, 0), {OURS: ours, LLAMA: theirs}, 2, tmp_path)

    ((_, asked),) = ours.asked
    ((_, followed),) = theirs.asked
    answer = list(range(ANSWER_TOKENS))
    assert len(asked["prompt"]) == PROMPT_TOKENS > TINY.sliding_window
    assert (followed["prompt"], followed["answer"]) == (asked["prompt"], answer)
    assert led == [[*asked["prompt"], *answer[:-1]]]
    assert (found[OURS].kl, found[OURS].same_top) == (0.0, 1.0)
    assert found[LLAMA].kl > 1
    assert found[LLAMA].same_top == 0.0


def test_engines_are_given_the_same_threads_and_room_for_the_longest_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(duel, "interpreter", lambda: Path("peers/python"))
    wanted = Wanted(threads=3, contexts=(128, 4096), tokens=32, prompt_tokens=512, rounds=5)

    sides = duel.sides_of(Path("model"), Path("model.gguf"), "int8", wanted, tmp_path)

    limits = ("--threads", "3", "--context", "4352")
    assert sides[OURS].command[1:] == ("-m", "bench.peers.ours", "model", "--dense", "int8", *limits)
    assert sides[LLAMA].command == ("peers/python", "-m", "bench.peers.llama", "model.gguf", *limits)


@pytest.mark.parametrize(
    ("free", "together"), [(30 + SPARE_BYTES, True), (29 + SPARE_BYTES, False), (20 + SPARE_BYTES, False)]
)
def test_what_does_not_fit_beside_the_other_runs_alone(
    monkeypatch: pytest.MonkeyPatch, free: int, together: bool
) -> None:
    monkeypatch.setattr(duel, "available", lambda device: Available(device, free, 10 * free))

    assert fits_together(10, 20) is together


def test_what_does_not_fit_at_all_is_said_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duel, "available", lambda device: Available(device, 8_000_000_000, 9_000_000_000))

    with pytest.raises(NotStarted, match=r"8\.0 GB of memory are free, but a model takes 15\.9 GB"):
        fits_together(13_761_000_000, 13_000_000_000)


def test_peers_that_are_not_built_or_are_of_other_versions_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(NotStarted, match="not built: `make bench-peers` does it once"):
        build.interpreter(tmp_path)

    (tmp_path / ".installed").write_text("other pins")
    with pytest.raises(NotStarted, match="of other versions: `make bench-peers` brings them up to date"):
        build.interpreter(tmp_path)

    (tmp_path / ".installed").write_text(build.digest())
    assert build.interpreter(tmp_path) == tmp_path / "bin" / "python"
