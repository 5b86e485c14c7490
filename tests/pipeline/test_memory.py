"""Where memory does not suffice, batches are halved; where it does not for one row either, a sentence says what to change."""

import logging

import pytest
import torch

from cache.errors import MachineError
from pipeline.memory import Halving, is_out_of_memory, memory_errors


class Device:
    """Has memory for so many rows, and says how many it was asked for."""

    def __init__(self, n_rows: int, error: Exception) -> None:
        self.n_rows, self.error = n_rows, error
        self.asked: list[int] = []

    def __call__(self, rows: list[int]) -> list[int]:
        self.asked.append(len(rows))
        if len(rows) > self.n_rows:
            raise self.error
        return [2 * row for row in rows]


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to allocate"
    ),
    MemoryError("Unable to allocate 3 GiB for an array"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_batch_that_is_too_large_is_halved_and_later_ones_are_cut_at_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    halving, device = Halving("score_frames"), Device(3, error)
    with caplog.at_level(logging.WARNING, "sevila"):
        for n_rows in (10, 10, 1, 2):
            parts = halving(device, list(range(n_rows)))
            assert [row for part in parts for row in part] == [2 * row for row in range(n_rows)]
    assert device.asked == [10, 5, 3, 3, 3, 1, 3, 3, 3, 1, 1, 1, 1]
    assert [message.split(": ")[1] for message in caplog.messages] == [
        "out of memory with 10 rows at once, continuing with 5",
        "out of memory with 5 rows at once, continuing with 3",
    ]


def test_a_row_that_is_too_large_alone_ends_in_one_sentence() -> None:
    with pytest.raises(
        MachineError, match=r"^score_frames: out of memory with a single row: CUDA out of memory\. .*GiB"
    ):
        Halving("score_frames")(Device(0, ERRORS[0]), [1, 2, 3])
    wanted = r"answer_questions: out of memory: .*; finished shards stay"
    with pytest.raises(MachineError, match=wanted), memory_errors("answer_questions"):
        raise ERRORS[1]


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    wrong = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(wrong) and not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError, match="shapes"):
        Halving("score_frames")(Device(0, wrong), [1, 2])


def test_where_one_row_is_too_large_inside_a_batch_the_batch_is_halved() -> None:
    outer, inner = Halving("answer_questions"), Halving("texts of options")
    asked: list[tuple[int, int]] = []

    def ask(questions: list[int]) -> list[int]:
        def score(options: list[int]) -> list[int]:
            asked.append((len(questions), len(options)))
            if len(questions) > 2 or len(options) > 2:  # what is kept of the questions leaves no memory for any option
                raise ERRORS[0]
            return [10 * option for option in options]

        return [value for question in questions for part in inner(score, [question] * 4) for value in part]

    for _ in range(2):
        parts = outer(ask, list(range(4)))
        assert [value for part in parts for value in part] == [10 * question for question in range(4) for _ in range(4)]
    assert asked[:5] == [(4, 4), (4, 2), (4, 1), (2, 4), (2, 2)] and set(asked[5:]) == {(2, 2)}


def test_where_one_row_of_the_outermost_batch_is_too_large_its_name_is_said() -> None:
    def ask(rows: list[int]) -> list[list[int]]:
        return Halving("texts of options")(Device(0, ERRORS[0]), rows)

    with pytest.raises(MachineError, match=r"^answer_questions: out of memory with a single row: CUDA out of memory"):
        Halving("answer_questions")(ask, [1, 2, 3])
