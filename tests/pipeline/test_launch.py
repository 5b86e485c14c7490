"""Processes of a training end together, and say why in a sentence where a user can mend it."""

import errno

import pytest

from cache.errors import SevilaError
from pipeline.launch import launch


def on_a_full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/store/partial/x")


def test_full_disk_in_a_process_of_a_training_is_one_sentence_not_a_traceback() -> None:
    with pytest.raises(SevilaError, match=r"^/store/partial/x: No space left on device\nwhen the cause is gone"):
        launch(1, on_a_full_disk, (), "train")
