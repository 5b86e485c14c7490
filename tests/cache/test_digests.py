import io
import json
import os
from pathlib import Path

import pytest

from cache.digests import DigestCache, stamp
from cache.errors import MissingSourceError
from cache.files import open_file
from cache.notes import write_note


def test_a_digest_is_cached_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    file.write_bytes(b"first")
    digests = DigestCache(tmp_path / "digests.json")
    first = digests.digest(file)
    digests.save()
    again = DigestCache(tmp_path / "digests.json")
    assert again.digest(file) == first
    file.write_bytes(b"other")
    assert again.digest(file) != first


def test_a_changed_file_with_the_same_size_and_mtime_gets_a_new_digest(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    file.write_bytes(b"first")
    times = file.stat()
    digests = DigestCache(tmp_path / "digests.json")
    first = digests.digest(file)
    file.write_bytes(b"other")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digests.digest(file) != first


def test_a_folder_digest_depends_on_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"one")
    digests = DigestCache(tmp_path / "digests.json")
    first = digests.digest(folder)
    (folder / "1.png").rename(folder / "2.png")
    assert digests.digest(folder) != first


def test_the_stamp_of_a_folder_depends_on_its_files_and_skips_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "2.png").write_bytes(b"two")
    (tmp_path / "1.png").write_bytes(b"one")
    (tmp_path / "3.png").symlink_to("1.png")
    before = stamp(tmp_path)
    assert before[0] == 3
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "dangling.png").symlink_to("gone.png")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert stamp(tmp_path) == before
    (tmp_path / "1.png").write_bytes(b"ONE!")  # also what the link shows
    assert stamp(tmp_path) != before


def test_digests_of_non_utf8_paths_are_cached(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"vid\xe9os")
    folder.mkdir()
    (folder / os.fsdecode(b"\xe9.png")).write_bytes(b"one")
    digests = DigestCache(tmp_path / "digests.json")
    digest = digests.digest(folder)
    digests.save()
    again = json.loads((tmp_path / "digests.json").read_text(encoding="utf-8"))["files"]
    assert [saved for _, saved in again.values()] == [digest] and r"vid\xe9os" in next(iter(again))


def test_a_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match=r"absent\.mp4"):
        DigestCache(tmp_path / "digests.json").digest(tmp_path / "absent.mp4")


@pytest.mark.parametrize("content", [b'{"half', b"[]", b"\xff\xfe", b'{"a": 1}'])
def test_a_damaged_digest_cache_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "digests.json").write_bytes(content)
    (tmp_path / "file").write_bytes(b"x")
    assert len(DigestCache(tmp_path / "digests.json").digest(tmp_path / "file")) == 64


def test_a_flipped_bit_in_the_digest_cache_is_logged_and_the_file_read_again(
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


def test_concurrent_runs_keep_each_others_digests(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    first, second = DigestCache(tmp_path / "digests.json"), DigestCache(tmp_path / "digests.json")
    first.digest(tmp_path / "a")
    second.digest(tmp_path / "b")
    first.remember("videos plain q", "videos-1")
    second.remember("weights tiny", "weights-1")
    both = DigestCache(tmp_path / "digests.json")
    assert both.remembered("videos plain q") == "videos-1" and both.remembered("weights tiny") == "weights-1"
    assert len(json.loads((tmp_path / "digests.json").read_text())["files"]) == 2


def test_the_latest_identity_of_a_source_is_kept(tmp_path: Path) -> None:
    digests = DigestCache(tmp_path / "digests.json")
    for id in ("videos-1", "videos-2"):
        digests.remember("videos plain q", id)
    again = DigestCache(tmp_path / "digests.json")
    assert again.remembered("videos plain q") == "videos-2"


def test_a_digest_cache_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    content = {"files": {}, "sources": {"weights tiny": "weights-1"}, "names": {"weights-1": "weights tiny"}}
    write_note(tmp_path / "digests.json", content)
    assert DigestCache(tmp_path / "digests.json").remembered("weights tiny") == "weights-1"


def test_known_values_are_not_rewritten_and_an_unwritable_cache_is_tolerated(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    DigestCache(tmp_path / "store" / "digests.json").remember("weights blip2", "weights-1")
    before = (tmp_path / "store" / "digests.json").stat()
    again = DigestCache(tmp_path / "store" / "digests.json")
    again.remember("weights blip2", "weights-1")
    assert (tmp_path / "store" / "digests.json").stat() == before
    (tmp_path / "store" / "locks" / "digests.lock").unlink(missing_ok=True)
    (tmp_path / "store" / "locks").rmdir()
    (tmp_path / "store" / "locks").write_text(
        "a file in place of the folder: no lock can be taken, as on a read-only disk"
    )
    again.remember("weights blip2", "weights-2")
    assert again.remembered("weights blip2") == "weights-2"
    assert (tmp_path / "store" / "digests.json").stat() == before


def test_a_link_switched_during_the_read_does_not_cache_a_wrong_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    link = tmp_path / "video.mp4"
    link.symlink_to("one")
    expected = DigestCache(tmp_path / "expected.json").digest(tmp_path / "one")

    def open_switched(path: Path) -> io.BufferedReader:
        link.unlink()
        link.symlink_to("two")
        try:
            return open_file(path)
        finally:
            link.unlink()
            link.symlink_to("one")

    monkeypatch.setattr("cache.digests.open_file", open_switched)
    digests = DigestCache(tmp_path / "digests.json")
    digest, stamped = digests.identify(link)
    assert digest != expected and stamped == stamp(tmp_path / "two")
    monkeypatch.undo()
    assert digests.digest(link) == expected


def test_a_file_changed_during_the_read_has_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "video.mp4"
    file.write_bytes(b"half")

    def open_growing(path: Path) -> io.BufferedReader:
        stream = open_file(path)
        original = os.fstat
        monkeypatch.setattr(os, "fstat", lambda fd: (original(fd), file.write_bytes(b"whole"))[0])
        return stream

    monkeypatch.setattr("cache.digests.open_file", open_growing)
    with pytest.raises(MissingSourceError, match="changed while it was read"):
        DigestCache(tmp_path / "digests.json").digest(file)


def test_a_named_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MissingSourceError, match="is a pipe, expected a file"):
        DigestCache(tmp_path / "digests.json").digest(tmp_path / "pipe")
