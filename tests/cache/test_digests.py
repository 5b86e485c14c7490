import io
import json
import os
from pathlib import Path

import pytest

from cache.digests import DigestCache, stamp
from cache.errors import MissingSourceError
from cache.files import open_file
from cache.notes import write_note


def test_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    file.write_bytes(b"first")
    digests = DigestCache(tmp_path / "digests.json")
    first = digests.digest(file)
    digests.save()
    again = DigestCache(tmp_path / "digests.json")
    assert again.digest(file) == first
    file.write_bytes(b"other")
    assert again.digest(file) != first


def test_file_of_the_same_size_and_restored_time_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    file.write_bytes(b"first")
    times = file.stat()
    digests = DigestCache(tmp_path / "digests.json")
    first = digests.digest(file)
    file.write_bytes(b"other")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digests.digest(file) != first


def test_folder_digest_follows_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"one")
    digests = DigestCache(tmp_path / "digests.json")
    first = digests.digest(folder)
    (folder / "1.png").rename(folder / "2.png")
    assert digests.digest(folder) != first


def test_names_that_are_not_utf8_are_remembered_too(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"vid\xe9os")
    folder.mkdir()
    (folder / os.fsdecode(b"\xe9.png")).write_bytes(b"one")
    digests = DigestCache(tmp_path / "digests.json")
    digest = digests.digest(folder)
    digests.save()
    again = json.loads((tmp_path / "digests.json").read_text(encoding="utf-8"))["files"]
    assert [found for _, found in again.values()] == [digest] and r"vid\xe9os" in next(iter(again))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match=r"absent\.mp4"):
        DigestCache(tmp_path / "digests.json").digest(tmp_path / "absent.mp4")


@pytest.mark.parametrize("content", [b'{"half', b"[]", b"\xff\xfe", b'{"a": 1}'])
def test_damaged_digest_cache_costs_time_not_correctness(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "digests.json").write_bytes(content)
    (tmp_path / "file").write_bytes(b"x")
    assert len(DigestCache(tmp_path / "digests.json").digest(tmp_path / "file")) == 64


def test_flipped_bit_in_the_digest_cache_is_told_and_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "video.mp4"
    file.write_bytes(b"first")
    digests = DigestCache(tmp_path / "digests.json")
    digest = digests.digest(file)
    digests.save()
    content = (tmp_path / "digests.json").read_text()
    (tmp_path / "digests.json").write_text(content.replace(digest, digest[:-1] + ("0" if digest[-1] != "0" else "1")))
    assert DigestCache(tmp_path / "digests.json").digest(file) == digest
    assert "digests.json" in caplog.text and "read again" in caplog.text


def test_runs_at_once_keep_each_others_digests(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    one, other = DigestCache(tmp_path / "digests.json"), DigestCache(tmp_path / "digests.json")
    one.digest(tmp_path / "a")
    other.digest(tmp_path / "b")
    one.remember("videos plain q", "videos-1")
    other.remember("weights tiny", "weights-1")
    both = DigestCache(tmp_path / "digests.json")
    assert both.remembered("videos plain q") == "videos-1" and both.remembered("weights tiny") == "weights-1"
    assert len(json.loads((tmp_path / "digests.json").read_text())["files"]) == 2


def test_the_last_identity_of_a_source_is_remembered(tmp_path: Path) -> None:
    digests = DigestCache(tmp_path / "digests.json")
    for id in ("videos-1", "videos-2"):
        digests.remember("videos plain q", id)
    again = DigestCache(tmp_path / "digests.json")
    assert again.remembered("videos plain q") == "videos-2"


def test_what_earlier_versions_kept_beside_is_no_damage(tmp_path: Path) -> None:
    content = {"files": {}, "sources": {"weights tiny": "weights-1"}, "names": {"weights-1": "weights tiny"}}
    write_note(tmp_path / "digests.json", content)
    assert DigestCache(tmp_path / "digests.json").remembered("weights tiny") == "weights-1"


def test_what_is_remembered_already_is_not_written_again_and_what_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    DigestCache(tmp_path / "store" / "digests.json").remember("weights blip2", "weights-1")
    before = (tmp_path / "store" / "digests.json").stat()
    again = DigestCache(tmp_path / "store" / "digests.json")
    again.remember("weights blip2", "weights-1")
    assert (tmp_path / "store" / "digests.json").stat() == before
    (tmp_path / "store" / "locks" / "digests.lock").unlink(missing_ok=True)
    (tmp_path / "store" / "locks").rmdir()
    (tmp_path / "store" / "locks").write_text("nothing can be locked here, as on a disk that is only read")
    again.remember("weights blip2", "weights-2")
    assert again.remembered("weights blip2") == "weights-2"
    assert (tmp_path / "store" / "digests.json").stat() == before


def test_link_that_is_switched_while_its_file_is_read_and_back_again_keeps_no_wrong_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    link = tmp_path / "video.mp4"
    link.symlink_to("one")
    wanted = DigestCache(tmp_path / "wanted.json").digest(tmp_path / "one")

    def switched(path: Path) -> io.BufferedReader:
        link.unlink()
        link.symlink_to("two")
        try:
            return open_file(path)
        finally:
            link.unlink()
            link.symlink_to("one")

    monkeypatch.setattr("cache.digests.open_file", switched)
    digests = DigestCache(tmp_path / "digests.json")
    digest, stamped = digests.identify(link)
    assert digest != wanted and stamped == stamp(tmp_path / "two")
    monkeypatch.undo()
    assert digests.digest(link) == wanted


def test_file_that_is_written_to_while_it_is_read_has_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "video.mp4"
    file.write_bytes(b"half")

    def growing(path: Path) -> io.BufferedReader:
        stream = open_file(path)
        original = os.fstat
        monkeypatch.setattr(os, "fstat", lambda fd: (original(fd), file.write_bytes(b"whole"))[0])
        return stream

    monkeypatch.setattr("cache.digests.open_file", growing)
    with pytest.raises(MissingSourceError, match="changed while it was read"):
        DigestCache(tmp_path / "digests.json").digest(file)


def test_pipe_is_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MissingSourceError, match="is a pipe, expected a file"):
        DigestCache(tmp_path / "digests.json").digest(tmp_path / "pipe")
