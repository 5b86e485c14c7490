"""Batches are halved when memory runs out; if a single row does not fit, the error says what to change."""

import logging

import pytest
import torch

from cache.errors import MachineError
from pipeline.memory import Halving, is_out_of_memory, memory_errors


class Device:
    """Has memory for `n_rows` rows and records the size of each batch."""

    def __init__(self, n_rows: int, error: Exception) -> None:
        self.n_rows, self.error = n_rows, error
        self.batch_sizes: list[int] = []

    def __call__(self, rows: list[int]) -> list[int]:
        self.batch_sizes.append(len(rows))
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
def test_a_batch_that_is_too_large_is_halved_and_later_batches_start_at_that_size(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    halving, device = Halving("score_frames"), Device(3, error)
    with caplog.at_level(logging.WARNING, "sevila"):
        for n_rows in (10, 10, 1, 2):
            parts = halving(device, list(range(n_rows)))
            assert [row for part in parts for row in part] == [2 * row for row in range(n_rows)]
    assert device.batch_sizes == [10, 5, 3, 3, 3, 1, 3, 3, 3, 1, 1, 1, 1]
    assert [message.split(": ")[1] for message in caplog.messages] == [
        "out of memory with 10 rows at once, continuing with 5",
        "out of memory with 5 rows at once, continuing with 3",
    ]


def test_a_single_row_that_is_too_large_raises_a_one_line_error() -> None:
    with pytest.raises(
        MachineError, match=r"^score_frames: out of memory with a single row: CUDA out of memory\. .*GiB"
    ):
        Halving("score_frames")(Device(0, ERRORS[0]), [1, 2, 3])
    message = r"answer_questions: out of memory: .*; finished shards stay"
    with pytest.raises(MachineError, match=message), memory_errors("answer_questions"):
        raise ERRORS[1]


def test_other_errors_are_not_treated_as_out_of_memory() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(error) and not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError, match="shapes"):
        Halving("score_frames")(Device(0, error), [1, 2])


def test_the_outer_batch_is_halved_when_a_single_inner_row_is_too_large() -> None:
    outer, inner = Halving("answer_questions"), Halving("texts of options")
    calls: list[tuple[int, int]] = []

    def ask(questions: list[int]) -> list[int]:
        def score(options: list[int]) -> list[int]:
            calls.append((len(questions), len(options)))
            if len(questions) > 2 or len(options) > 2:  # the questions held leave no memory for an option
                raise ERRORS[0]
            return [10 * option for option in options]

        return [value for question in questions for part in inner(score, [question] * 4) for value in part]

    for _ in range(2):
        parts = outer(ask, list(range(4)))
        assert [value for part in parts for value in part] == [10 * question for question in range(4) for _ in range(4)]
    assert calls[:5] == [(4, 4), (4, 2), (4, 1), (2, 4), (2, 2)] and set(calls[5:]) == {(2, 2)}


def test_the_error_names_the_outermost_batch() -> None:
    def ask(rows: list[int]) -> list[list[int]]:
        return Halving("texts of options")(Device(0, ERRORS[0]), rows)

    with pytest.raises(MachineError, match=r"^answer_questions: out of memory with a single row: CUDA out of memory"):
        Halving("answer_questions")(ask, [1, 2, 3])
