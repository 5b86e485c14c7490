import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from unicodedata import normalize

import pytest

from pipeline.datasets.question import Video
from pipeline.video.video_folder import VideoFolder

ROOT = Path(__file__).parents[2]


def find(folder: Path, name: str) -> tuple[Path | None, str]:
    return VideoFolder(folder).find(Video(name, name))


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("name", ["a.gif", "b.MTS", "c.ogv", "d.asf", "e.f4v", "f.2024-05-01", "g.mp4"])
def test_an_exact_file_name_is_found_with_any_suffix(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "deep" / name)
    assert find(tmp_path, name) == (file, "")
    assert find(tmp_path, f"elsewhere/{name}") == (file, "")


def test_an_exact_file_name_is_not_ambiguous_beside_another_suffix(tmp_path: Path) -> None:
    file = write(tmp_path / "deep" / "a.mp4")
    write(tmp_path / "deep" / "a.mkv")
    assert find(tmp_path, "a.mp4") == (file, "")
    assert find(tmp_path, "a")[1].startswith("ambiguous")


def test_a_name_with_a_folder_is_found_in_that_folder(tmp_path: Path) -> None:
    short, _, deep = (write(tmp_path / name) for name in ("train/1.mp4", "test/1.mp4", "deep/train/1.mkv"))
    assert find(tmp_path, "train/1") == (short, "") and find(tmp_path, "deep/train/1") == (deep, "")
    for name in ("1", "validation/1"):
        assert find(tmp_path, name)[1].startswith("ambiguous")


@pytest.mark.parametrize("place", ["{}.mp4", "deep/{}.mp4", "{}/one.mp4", "{}/frames/1.jpg"])
@pytest.mark.parametrize(("on_disk", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_name_is_found_in_the_other_unicode_form(tmp_path: Path, place: str, on_disk: str, typed: str) -> None:
    file = write(tmp_path / normalize(on_disk, place.format("caf\u00e9")))  # type: ignore[arg-type]
    file = file.parent if file.suffix == ".jpg" else file
    name = normalize(typed, str(file.relative_to(tmp_path)))  # type: ignore[arg-type]
    assert find(tmp_path, name) == (file, "")
    assert find(tmp_path, Path(name).stem) == (file, "")


def test_names_in_both_unicode_forms_are_two_videos(tmp_path: Path) -> None:
    composed, decomposed = (write(tmp_path / "deep" / normalize(form, "caf\u00e9.mp4")) for form in ("NFC", "NFD"))
    if len(list(composed.parent.iterdir())) == 1:
        pytest.skip("this file system keeps one form")
    assert find(tmp_path, composed.name) == (composed, "")
    assert find(tmp_path, decomposed.name) == (decomposed, "")


def test_a_file_and_a_link_to_it_are_one_video(tmp_path: Path) -> None:
    file = write(tmp_path / "a" / "one.mp4")
    (tmp_path / "one.mkv").symlink_to(file)
    assert find(tmp_path, "one")[1] == ""


@pytest.mark.parametrize(
    "name", ["x" * 270, f"{'x' * 270}.mp4", "folder/" * 700 + "x.mp4", "a,b\nc,d\n" * 1000, "a\0b"]
)
def test_an_impossible_file_name_is_missing(tmp_path: Path, name: str) -> None:
    path, reason = find(tmp_path, name)
    assert path is None and reason.startswith("missing: ") and len(reason) < 1000


@pytest.mark.parametrize("name", ["one.mp4", "one", "deep/one.mp4", "elsewhere/one.mp4", "frames"])
def test_a_broken_link_is_a_missing_video(tmp_path: Path, name: str) -> None:
    for link in ("deep/one.mp4", "frames/1.jpg", "frames/2.jpg"):
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(f"../.git/annex/objects/{link}")
    videos = VideoFolder(tmp_path)
    path, reason = videos.find(Video(name, name))
    assert path is None and reason.startswith(f"missing: {name!r} is a link to nothing; ") and "annex get" in reason
    assert "none of the 1 videos" in videos.all_missing([(path, reason)])
    write(tmp_path / ".git" / "annex" / "objects" / "deep" / "one.mp4")
    write(tmp_path / ".git" / "annex" / "objects" / "frames" / "2.jpg")
    assert find(tmp_path, name)[1] == ""


def test_an_alternative_path_is_used_when_the_first_is_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "one.mp4").symlink_to("nowhere")
    alternative = write(tmp_path / "two.mp4")
    assert VideoFolder(tmp_path).find(Video("one", "one.mp4", ("two.mp4",))) == (alternative, "")


def test_a_link_to_itself_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "loops").symlink_to("loops")
    write(tmp_path / "deep" / "good.mp4")
    for name in ("loop.mp4", "loop", "loop.mp4/below.mp4"):
        assert find(tmp_path, name)[1].startswith("unreadable: ")
    assert find(tmp_path, "good")[1] == ""


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
@pytest.mark.parametrize("name", ["odd.mp4", "odd", "elsewhere/odd.mp4"])
def test_a_special_file_is_unreadable(tmp_path: Path, kind: str, name: str) -> None:
    place = tmp_path / "odd.mp4"
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as server:  # a socket's path is short
        if kind == "pipe":
            os.mkfifo(place)
        elif kind == "socket":
            server.bind(f"{short}/s")
            place.symlink_to(f"{short}/s")
        else:
            place.symlink_to("/dev/zero")
        assert find(tmp_path, name)[1].startswith("unreadable: ")


AS_NOBODY = """
import os, sys
from pathlib import Path
from pipeline.datasets.question import Video
from pipeline.video.video_folder import VideoFolder
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
folder = VideoFolder(Path(sys.argv[1]))
for name in ("private/a.mp4", "a.mp4", "good"):
    print(folder.find(Video(name, name))[1])
"""


def test_a_folder_without_permission_is_reported_and_other_videos_are_found() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "private" / "a.mp4")
        write(folder / "public" / "good.mp4")
        folder.chmod(0o755)
        (folder / "private").chmod(0)
        result = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, name],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        (folder / "private").chmod(0o755)
    assert result.returncode == 0, result.stderr
    inside, by_name, good = result.stdout.split("\n")[:3]
    assert inside == "unreadable: 'private/a.mp4': Permission denied"
    assert by_name == "missing: no file 'a.mp4' in the videos folder; not looked into: 'private' (Permission denied)"
    assert good == ""
