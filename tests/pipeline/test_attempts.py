"""How often what fails at a video is believed."""

from __future__ import annotations

import pytest

from cache.errors import DecodeError, DecoderDeathError, HalfwayError, ReadingError
from pipeline.video.attempts import Attempts

HANGS = DecoderDeathError("timeout: no sign of life")


def n_tries(attempts: Attempts, error: DecodeError) -> int:
    """How often a video fails until that is believed."""
    for n in range(1, 20):
        attempts.note("bad", error)
        if attempts.is_over("bad"):
            return n
    raise AssertionError("never")


def test_a_hang_is_believed_sooner_only_if_another_video_was_read_since_the_first_one() -> None:
    attempts = Attempts()
    attempts.note("good", None)  # before, when the machine may have been another one
    assert n_tries(attempts, HANGS) == 5
    attempts = Attempts()
    attempts.note("bad", HANGS)
    attempts.note("good", None)
    assert n_tries(attempts, HANGS) == 2  # the second and the third


def test_failures_of_different_kinds_are_counted_apart_and_the_one_that_repeats_is_the_reason() -> None:
    attempts = Attempts()
    for number in range(3):
        attempts.note("bad", HANGS)
        attempts.note("bad", DecodeError(f"corrupt: frame {number}"))
    assert not attempts.is_over("bad")
    attempts.note("bad", DecodeError("corrupt: frame 2"))
    assert attempts.reasons == {"bad": "corrupt: frame 2"}


def test_messages_that_differ_at_every_try_are_believed_in_the_end() -> None:
    attempts = Attempts()
    for number in range(6):
        assert not attempts.is_over("bad")
        attempts.note("bad", DecodeError(f"corrupt: frame {number}"))
    assert attempts.is_over("bad")


def test_a_video_that_decord_fails_at_halfway_twice_is_left_to_the_other_decoder() -> None:
    attempts, halfway = Attempts(), HalfwayError("decord: cannot go on")
    attempts.note("bad", halfway)
    assert attempts.decord_failure("bad") == ""  # it may have failed in passing
    attempts.note("bad", halfway)
    assert attempts.decord_failure("bad") == "decord: cannot go on" and not attempts.is_over("bad")
    attempts.note("bad", None)
    assert attempts.is_over("bad") and not attempts.reasons


@pytest.mark.parametrize("error", [HANGS, ReadingError("its decoder was killed")])
def test_a_video_that_failed_is_checked_before_it_is_tried_again(error: DecodeError | ReadingError) -> None:
    attempts = Attempts()
    attempts.note("bad", error)
    assert attempts.is_repeated("bad") and not attempts.is_repeated("good")
