import os
from pathlib import Path

import pytest

from cache.digests import DigestCache
from cache.errors import CorruptArtifactError
from cache.fingerprint import fingerprint
from cache.hdf5 import open_arrays
from cache.notes import intact_note, read_note, write_note
from cache.parquet import bounded_parquet
from cache.record import Record


@pytest.mark.parametrize("value", ["NaN", r'"\ud800"', "[" * 900 + "]" * 900, "[" * 10**5 + "]" * 10**5])
def test_a_note_with_an_invalid_value_is_corrupt(value: str, tmp_path: Path) -> None:
    (tmp_path / "note.json").write_text(f'{{"a": {value}, "checksum": "0"}}')
    with pytest.raises(CorruptArtifactError, match=r"note\.json"):
        read_note(tmp_path / "note.json")


def test_a_pipe_folder_or_link_in_place_of_a_file_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name, kind in (("pipe", "a pipe"), ("folder", "a folder"), ("link", "a link")):
        path = tmp_path / name
        for read in (read_note, Record.load):
            with pytest.raises(CorruptArtifactError, match=f"{name}: is {kind}"):
                read(path)
    with pytest.raises(CorruptArtifactError, match="is a pipe"):
        open_arrays(tmp_path / "pipe")
    with pytest.raises(CorruptArtifactError, match="is a pipe"), bounded_parquet(tmp_path / "pipe"):
        pass
    DigestCache(tmp_path / "pipe").save()


@pytest.mark.parametrize(
    "value", [1e-05, 3e-05, 1e16, 5e-324, 2**64, -(2**63) - 1, 2**200, "\x7f\x1b\u2028\n", 0.1, -0.0]
)
def test_a_note_round_trips_values_that_json_libraries_write_differently(value: object, tmp_path: Path) -> None:
    write_note(tmp_path / "note.json", {"a": value, "é": [value], "aa": {"z": value, "Z": None}})
    content = read_note(tmp_path / "note.json")
    assert content == {"a": value, "é": [value], "aa": {"z": value, "Z": None}}
    assert type(content["a"]) is type(value)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{}", b'{"checksum": 1}', b'{"a": NaN, "checksum": "0"}', b"\xff"]
)
def test_the_fast_check_returns_none_for_invalid_notes(text: bytes) -> None:
    assert intact_note(text) is None


@pytest.mark.parametrize("count", [2**63, 2**64, 10**30])
def test_a_record_with_an_impossible_row_count_is_refused(count: int, tmp_path: Path) -> None:
    record = Record("a-v1-0", "a", 1, "a", {}, {}, rows={"a": 1}).sealed()
    write_note(tmp_path / "record.json", record.as_note() | {"rows": {"a": count}})
    with pytest.raises(CorruptArtifactError, match="counts"):
        Record.load(tmp_path / "record.json")


def test_the_content_of_a_record_is_the_fingerprint_of_its_files_and_rows() -> None:
    files = {
        name: {"size_bytes": 1, "sha256": f"{number:064x}"} for number, name in enumerate(("b", "a/é", "Z", "a.b"))
    }
    rows = {"ü": 3, "a": 0, "\x1f": 2**53}
    record = Record("a-v1-0", "a", 1, "a", {}, {}, files=files, rows=rows)
    digests = {name: file["sha256"] for name, file in files.items()}
    assert record.own_digest() == fingerprint({"files": digests, "rows": rows})
