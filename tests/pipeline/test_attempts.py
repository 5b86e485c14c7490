"""Number of failures after which a video is given up."""

from __future__ import annotations

import pytest

from cache.errors import DecodeError, DecoderDeathError, HalfwayError, ReadingError
from pipeline.video.attempts import Attempts

HANGS = DecoderDeathError("timeout: no sign of life")


def n_tries(attempts: Attempts, error: DecodeError) -> int:
    """Return the number of equal failures until a video is given up."""
    for n in range(1, 20):
        attempts.note("bad", error)
        if attempts.is_over("bad"):
            return n
    raise AssertionError("never")


def test_a_hanging_video_is_given_up_sooner_if_another_was_read_since_its_first_hang() -> None:
    attempts = Attempts()
    attempts.note("good", None)  # before the first hang, so no evidence of a working machine
    assert n_tries(attempts, HANGS) == 5
    attempts = Attempts()
    attempts.note("bad", HANGS)
    attempts.note("good", None)
    assert n_tries(attempts, HANGS) == 2  # the second and the third


def test_different_failures_are_counted_separately_and_the_repeated_one_is_the_reason() -> None:
    attempts = Attempts()
    for number in range(3):
        attempts.note("bad", HANGS)
        attempts.note("bad", DecodeError(f"corrupt: frame {number}"))
    assert not attempts.is_over("bad")
    attempts.note("bad", DecodeError("corrupt: frame 2"))
    assert attempts.reasons == {"bad": "corrupt: frame 2"}


def test_a_video_is_given_up_after_seven_different_failures() -> None:
    attempts = Attempts()
    for number in range(6):
        assert not attempts.is_over("bad")
        attempts.note("bad", DecodeError(f"corrupt: frame {number}"))
    assert attempts.is_over("bad")


def test_a_video_that_fails_halfway_twice_in_decord_is_left_to_pyav() -> None:
    attempts, halfway = Attempts(), HalfwayError("decord: cannot go on")
    attempts.note("bad", halfway)
    assert attempts.decord_failure("bad") == ""  # may be a transient failure
    attempts.note("bad", halfway)
    assert attempts.decord_failure("bad") == "decord: cannot go on" and not attempts.is_over("bad")
    attempts.note("bad", None)
    assert attempts.is_over("bad") and not attempts.reasons


@pytest.mark.parametrize("error", [HANGS, ReadingError("its decoder was killed")])
def test_a_failed_video_is_marked_as_repeated(error: DecodeError | ReadingError) -> None:
    attempts = Attempts()
    attempts.note("bad", error)
    assert attempts.is_repeated("bad") and not attempts.is_repeated("good")
