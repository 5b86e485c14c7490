"""Wrong annotation files: failed downloads, packed files, folders and pipes, damaged cells."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest

from cache.errors import SevilaError
from pipeline.datasets import nextqa, plain, sevila_json
from pipeline.datasets.adapter import Adapter
from pipeline.datasets.question import Annotations
from pipeline.datasets.registry import adapter_named
from tests.pipeline.datasets.layouts import parquet

ROWS = b"video,question,a0,a1\none,Why?,so,thus\n"


def zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("questions.csv", data)
    return stream.getvalue()


def in_tar(data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("questions.csv")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def arrow() -> bytes:
    stream = io.BytesIO()
    table = pa.table({"video": ["one"]})
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def numpy_file() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


def hdf5() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["video"] = [1, 2]
    return stream.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665a5ea423c2713d436b5ee50593a96\n"
WRONG = {
    "gzip": gzip.compress(ROWS),
    "zip": zipped(ROWS),
    "bzip2": bz2.compress(ROWS),
    "xz": lzma.compress(ROWS),
    "tar": in_tar(ROWS),
    "Git LFS pointer": POINTER,
    "git-annex pointer": b"/annex/objects/MD5E-s1000--4665a5ea423c2713d436b5ee50593a96.csv\n",
    "a git-annex pointer": b"../.git/annex/objects/K3/0q/MD5E-s1000--4665/MD5E-s1000--4665.csv",
    "Parquet file": parquet([{"video": "one"}] * 3),
    "a Parquet file": parquet([]),
    "Arrow file": arrow(),
    "NumPy file": numpy_file(),
    "HDF5 file": hdf5(),
    "UTF-16": ROWS.decode().encode("utf-16"),
    "UTF-32": ROWS.decode().encode("utf-32"),
    "zero bytes": bytes(3000),
    "HTML page": b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><title>Sign in</title>",
    "XML page": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize(
    ("adapter", "name"),
    [(plain, "questions.csv"), (plain, "questions.jsonl"), (sevila_json, "val.json"), (nextqa, "val.csv")],
)
def test_the_error_names_the_kind_of_a_wrong_file(tmp_path: Path, adapter: Adapter, name: str, what: str) -> None:
    (tmp_path / "map_vid_vidorID.json").write_text("{}")
    (tmp_path / name).write_bytes(WRONG[what])
    with pytest.raises(SevilaError, match=f"{name}: .*{what}"):
        adapter.read(tmp_path, "val")  # type: ignore[attr-defined]


@pytest.mark.parametrize("marks", [1, 2, 3])
def test_byte_order_marks_are_not_part_of_the_first_column(tmp_path: Path, marks: int) -> None:
    (tmp_path / "questions.csv").write_bytes(b"\xef\xbb\xbf" * marks + ROWS)
    assert [question.video_id for question in plain.read(tmp_path, "").questions] == ["one"]


def test_a_column_named_like_a_magic_number_is_text(tmp_path: Path) -> None:
    (tmp_path / "questions.csv").write_bytes(b"PAR1,video,question,a0,a1\nx,one,Why?,so,thus\n")
    assert len(plain.read(tmp_path, "").questions) == 1


@pytest.mark.parametrize("what", ["a pipe", "a folder"])
@pytest.mark.parametrize(
    ("adapter", "name"),
    [("plain", "questions.csv"), ("nextqa", "val.csv"), ("nextqa", "map_vid_vidorID.json"), ("star", "STAR_val.json")],
)
def test_a_folder_or_pipe_in_place_of_a_file_is_refused(tmp_path: Path, adapter: str, name: str, what: str) -> None:
    for other in ("val.csv", "map_vid_vidorID.json"):
        if other != name:
            (tmp_path / other).write_text("{}")
    place = tmp_path / name
    os.mkfifo(place) if what == "a pipe" else place.mkdir()
    with pytest.raises(SevilaError, match=f"{name}: .*is {what}"):
        adapter_named(adapter).read(tmp_path, "val")


def read(folder: Path, content: bytes) -> Annotations:
    (folder / "questions.csv").write_bytes(content)
    return plain.read(folder, "")


def test_a_nul_in_a_cell_rejects_its_row_with_its_line(tmp_path: Path) -> None:
    annotations = read(tmp_path, ROWS + b"t\0wo,Why?,so,thus\nthree,Why?,so,thus\n")
    assert [question.video_id for question in annotations.questions] == ["one", "three"]
    assert [(row.line, "NUL" in row.reason) for row in annotations.rejected] == [(3, True)]


def test_a_nul_in_json_rejects_its_row_with_its_line(tmp_path: Path) -> None:
    rows = [{"video": video, "question": "Why?", "options": ["so", "thus"]} for video in ("one", "t\0wo")]
    (tmp_path / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (rejected,) = plain.read(tmp_path, "").rejected
    assert (rejected.line, rejected.reason) == (2, "video holds a NUL character, text was wanted")


def test_a_huge_cell_rejects_its_row_and_later_rows_are_read(tmp_path: Path) -> None:
    huge = b'two,"' + b"x" * 90_000 + b"\n" + b"y" * 90_000 + b'",so,thus\n'
    annotations = read(tmp_path, ROWS + huge + b"three,Why?,so,thus\n")
    assert [question.video_id for question in annotations.questions] == ["one", "three"]
    (bad,) = annotations.rejected
    assert bad.line == 3 and bad.reason == "cell 2 has 180001 characters (lines 3 to 4): is a quote not closed?"


def test_an_unclosed_quote_rejects_its_row_with_its_lines(tmp_path: Path) -> None:
    annotations = read(tmp_path, ROWS + b'two,"Why?,so,thus\n' + b"three,Why?,so,thus\n" * 20_000)
    assert [question.video_id for question in annotations.questions] == ["one"]
    assert "lines 3 to 20003 read as one row" in annotations.rejected[0].reason
