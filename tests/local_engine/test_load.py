"""What the engine predicts of itself, which is what a gateway routes on."""

from __future__ import annotations

import pytest

from local_engine.load import FIRST_PREFILL_TOKENS_PER_S, FIRST_SERVICE_S, SMOOTHING, Meter


def measured() -> Meter:
    """Steps of 0.1 s: 50 prompt positions in the first, 4 new tokens in the second."""
    meter = Meter(prefill_tokens_per_s=500.0)
    meter.step(0.1, 50, 0)
    meter.step(0.1, 0, 4)
    return meter


def test_with_slots_free_the_wait_is_the_prompts_ahead_and_a_step() -> None:
    meter = measured()

    assert meter.steps == 2
    assert meter.predicted_ttft_s(0, 0, 3, 4) == pytest.approx(0.1)
    assert meter.predicted_ttft_s(1000, 0, 3, 4) == pytest.approx(1000 / 500 + 0.1)


def test_with_all_slots_taken_a_turn_for_each_that_waits_comes_on_top() -> None:
    meter = measured()
    meter.end("stop", 10.0)
    service_s = FIRST_SERVICE_S + SMOOTHING * (10.0 - FIRST_SERVICE_S)

    assert meter.predicted_ttft_s(0, 0, 4, 4) == pytest.approx(0.1 + service_s / 4)
    assert meter.predicted_ttft_s(0, 7, 4, 4) == pytest.approx(0.1 + service_s * 8 / 4)


def test_before_anything_was_measured_a_prompt_is_expected_at_an_ordinary_computers_speed() -> None:
    assert Meter().predicted_ttft_s(100, 0, 0, 4) == 100 / FIRST_PREFILL_TOKENS_PER_S


def test_speeds_are_running_averages_of_the_steps_that_they_concern() -> None:
    meter = measured()

    assert meter.tokens_per_s == pytest.approx(40)
    meter.step(0.1, 0, 14)
    assert meter.tokens_per_s == pytest.approx(40 + SMOOTHING * (140 - 40))
    meter.step(0.1, 100, 0)
    assert meter.tokens_per_s == pytest.approx(60)
    assert meter.prefill_tokens_per_s == pytest.approx(500 + SMOOTHING * (1000 - 500))


def test_a_step_too_short_for_the_clock_has_no_speed() -> None:
    meter = measured()
    meter.step(0.0, 50, 4)

    assert meter.tokens_per_s == pytest.approx(40)
    assert meter.prefill_tokens_per_s == 500


@pytest.mark.parametrize(
    ("waiting", "seconds"), [(0, 2), (1, 2), (4, 5), (6, 8), (1000, 60)], ids=lambda number: f"{number}"
)
def test_who_is_refused_comes_back_when_a_place_should_be_free_within_a_minute(
    waiting: int, seconds: int
) -> None:
    assert Meter().retry_after_s(waiting, 4) == seconds


def test_nobody_is_told_to_come_back_at_once() -> None:
    assert Meter(service_s=0.01).retry_after_s(1, 4) == 1
