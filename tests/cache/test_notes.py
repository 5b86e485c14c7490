import os
from pathlib import Path

import pytest

from cache.digests import DigestCache
from cache.errors import CorruptArtifactError
from cache.hdf5 import open_arrays
from cache.notes import read_note
from cache.parquet import bounded_parquet
from cache.record import Record


@pytest.mark.parametrize("value", ["NaN", r'"\ud800"', "[" * 900 + "]" * 900, "[" * 10**5 + "]" * 10**5])
def test_a_note_of_what_nobody_writes_is_damaged_like_any_other(value: str, tmp_path: Path) -> None:
    (tmp_path / "note.json").write_text(f'{{"a": {value}, "checksum": "0"}}')
    with pytest.raises(CorruptArtifactError, match=r"note\.json"):
        read_note(tmp_path / "note.json")


def test_a_pipe_a_folder_or_a_link_in_place_of_a_file_is_damaged_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name, kind in (("pipe", "a pipe"), ("folder", "a folder"), ("link", "a link")):
        path = tmp_path / name
        for read in (read_note, Record.load):
            with pytest.raises(CorruptArtifactError, match=f"{name}: it is {kind}"):
                read(path)
    with pytest.raises(CorruptArtifactError, match="it is a pipe"):
        open_arrays(tmp_path / "pipe")
    with pytest.raises(CorruptArtifactError, match="it is a pipe"), bounded_parquet(tmp_path / "pipe"):
        pass
    DigestCache(tmp_path / "pipe").save()
