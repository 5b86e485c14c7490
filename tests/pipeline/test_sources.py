import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cache.digests import DigestCache, stamp
from cache.errors import MissingSourceError
from cache.store import Store
from pipeline.datasets.question import Video
from pipeline.engine.build import build
from pipeline.engine.sources import Sources, VideoFile, VideoFiles
from pipeline.engine.stage import RunContext
from stages.list_questions import ListQuestions, list_questions


@pytest.fixture(autouse=True)
def no_configured_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for kind in ("ANNOTATIONS", "VIDEOS", "WEIGHTS", "CONFIG"):
        monkeypatch.delenv(f"SEVILA_{kind}", raising=False)
    monkeypatch.chdir(tmp_path)


def sources(tmp_path: Path, **places: str) -> Sources:
    digests = DigestCache(tmp_path / "digests.json")
    return Sources(digests, {kind: [place] for kind, place in places.items()}, download=False)


def videos_of_questions(tmp_path: Path, given: Sources, dataset: str = "plain", split: str = "") -> VideoFiles:
    """Return the video files of all questions of a split."""
    cfg, run = ListQuestions(dataset=dataset, split=split), RunContext(Store(tmp_path / "store"))
    return given.videos(dataset, build(list_questions, cfg, run, [given.annotations(dataset, split)]))


def find_videos(tmp_path: Path, folder: Path, *rows: dict[str, Any]) -> dict[str, VideoFile]:
    with (tmp_path / "questions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["video", "question", "a0", "a1", "start_seconds", "end_seconds"])
        writer.writeheader()
        writer.writerows({"question": "Why?", "a0": "so", "a1": "thus", **row} for row in rows)
    given = sources(tmp_path, annotations=str(tmp_path / "questions.csv"), videos=str(folder))
    return {video.video_id: video for video in videos_of_questions(tmp_path, given).videos}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    (folder / "a" / "deep").mkdir(parents=True)
    (folder / "a" / "deep" / "one.mp4").write_bytes(b"1")
    (folder / "a" / "twice.mp4").write_bytes(b"2")
    (folder / "twice.webm").write_bytes(b"3")
    (folder / "frames").mkdir()
    (folder / "frames" / "1.png").write_bytes(b"4")
    return folder


@pytest.mark.parametrize("name", ["a/deep/one.mp4", "one.mp4", "one", "elsewhere/one.mp4"])
def test_a_video_is_located_by_path_or_by_name_in_any_subfolder(tmp_path: Path, folder: Path, name: str) -> None:
    assert find_videos(tmp_path, folder, {"video": name})[name].path == folder / "a" / "deep" / "one.mp4"


def test_a_folder_of_images_is_a_video(tmp_path: Path, folder: Path) -> None:
    assert find_videos(tmp_path, folder, {"video": "frames"})["frames"].path == folder / "frames"


def test_missing_and_ambiguous_videos_have_reasons_and_no_path(tmp_path: Path, folder: Path) -> None:
    videos = find_videos(tmp_path, folder, {"video": "gone.mp4"}, {"video": "twice"})
    assert videos["gone.mp4"].path is None and videos["gone.mp4"].reason.startswith("missing: no file 'gone.mp4'")
    assert videos["twice"].path is None and "a/twice.mp4, twice.webm" in videos["twice"].reason


def test_unreadable_and_missing_videos_do_not_affect_others(tmp_path: Path, folder: Path) -> None:
    os.mkfifo(folder / "pipe.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "dangling.mp4").symlink_to("gone.mp4")
    (folder / "frames" / "2.png").symlink_to("2.png")
    names = ["pipe", "loop.mp4", "dangling", "x" * 270, "swallowed\nrows\n" * 100, "one", "frames"]
    videos = find_videos(tmp_path, folder, *({"video": name} for name in names))
    codes = [videos[name.strip()].reason.split(":")[0] for name in names]
    assert codes == ["unreadable", "unreadable", "missing", "missing", "missing", "", ""]


def test_images_without_a_clear_order_have_a_reason_and_no_digest(tmp_path: Path, folder: Path) -> None:
    for name in ("11-20", "12-20", "01-21", "02-21"):  # month and year
        (folder / "months").mkdir(exist_ok=True)
        (folder / "months" / f"{name}.jpg").write_bytes(b"x")
    videos = find_videos(tmp_path, folder, {"video": "months"}, {"video": "frames"})
    assert videos["months"].reason.startswith("unreadable: no clear order") and videos["months"].digest is None
    assert videos["frames"].reason == "" and videos["frames"].digest


def test_a_dot_in_a_name_does_not_start_a_suffix(tmp_path: Path, folder: Path) -> None:
    (folder / "v1.mp4").write_bytes(b"x")
    (folder / "v1.5.mp4").write_bytes(b"y")
    assert find_videos(tmp_path, folder, {"video": "v1.5"})["v1.5"].path == folder / "v1.5.mp4"


def test_each_clip_of_a_video_is_listed_once(tmp_path: Path, folder: Path) -> None:
    bounds = {"start_seconds": "1.5", "end_seconds": "3"}
    [video] = find_videos(tmp_path, folder, {"video": "one"}, {"video": "one", **bounds}, {"video": "one"}).values()
    assert [clip[1:] for clip in video.clips] == [(None, None), (1.5, 3.0)]


def test_the_identity_of_videos_depends_on_content_and_clips(tmp_path: Path, folder: Path) -> None:
    def identity(name: str, *rows: dict[str, Any]) -> str | None:
        (tmp_path / name).mkdir()
        find_videos(tmp_path / name, folder, *rows)
        given = sources(tmp_path / name, annotations=str(tmp_path / name), videos=str(folder))
        return videos_of_questions(tmp_path / name, given).id

    first = identity("first", {"video": "one"})
    assert identity("other_text", {"video": "one", "question": "How?"}) == first
    assert identity("clip", {"video": "one", "end_seconds": "2"}) != first
    (folder / "a" / "deep" / "one.mp4").write_bytes(b"changed")
    assert identity("changed", {"video": "one"}) != first


def test_a_video_replaced_during_hashing_has_another_stamp(tmp_path: Path) -> None:
    class Replaced(DigestCache):
        def identify(self, path: Path) -> tuple[str, tuple[int, ...]]:
            digest_and_stamp = super().identify(path)
            if path.suffix == ".mp4":
                path.write_bytes(b"copied to its end by now")
            return digest_and_stamp

    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "one.mp4").write_bytes(b"half copied")
    (tmp_path / "q.csv").write_text("video,question,a0,a1\none,Why?,so,thus\n")
    places = {"annotations": [f"{tmp_path / 'q.csv'}"], "videos": [f"{tmp_path / 'videos'}"]}
    given = Sources(Replaced(tmp_path / "digests.json"), places, download=False)
    [video] = videos_of_questions(tmp_path, given).videos
    assert video.path is not None and video.stamp != stamp(video.path)


def test_the_command_line_overrides_the_environment_which_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("line", "environment", "file"):
        (tmp_path / name).mkdir()
    (tmp_path / "sevila.toml").write_text('[videos]\nplain = "file"\n')
    assert sources(tmp_path).places.place("videos", "plain") == tmp_path / "file"
    monkeypatch.setenv("SEVILA_VIDEOS", f"plain={tmp_path / 'environment'}")
    assert sources(tmp_path).places.place("videos", "plain") == tmp_path / "environment"
    assert sources(tmp_path, videos=f"plain={tmp_path / 'line'}").places.place("videos", "plain") == tmp_path / "line"


def test_a_bare_path_on_the_command_line_overrides_a_name_in_the_file(tmp_path: Path) -> None:
    for name in ("line", "file"):
        (tmp_path / name).mkdir()
    (tmp_path / "sevila.toml").write_text('[videos]\nplain = "file"\n')
    assert sources(tmp_path, videos=str(tmp_path / "line")).places.place("videos", "plain") == tmp_path / "line"


def test_file_names_and_unused_files_do_not_change_the_identity(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("video,question,a0,a1\n")
    first, second = (
        sources(tmp_path, annotations=str(tmp_path / name)).annotations("plain", "") for name in ("a.csv", "b.csv")
    )
    assert first.id == second.id
    (tmp_path / "weights").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / "weights" / name).write_text(name)
    before = sources(tmp_path, weights=str(tmp_path / "weights")).weights("x")
    (tmp_path / "weights" / "preprocessor_config.json").write_text("{}")
    assert sources(tmp_path, weights=str(tmp_path / "weights")).weights("x").id == before.id


def test_a_link_to_a_parent_folder_makes_no_video_ambiguous(tmp_path: Path, folder: Path) -> None:
    (folder / "a" / "loop").symlink_to(folder)
    assert find_videos(tmp_path, folder, {"video": "one"})["one"].path is not None


def test_a_file_is_refused_as_videos_folder(tmp_path: Path) -> None:
    (tmp_path / "videos.csv").write_text("x")
    (tmp_path / "questions.csv").write_text("video,question,a0,a1\none,Why?,so,thus\n")
    given = sources(tmp_path, annotations=str(tmp_path / "questions.csv"), videos=str(tmp_path / "videos.csv"))
    assert "is a file" in videos_of_questions(tmp_path, given).problem


def test_a_bare_path_may_contain_an_equals_sign(tmp_path: Path) -> None:
    (tmp_path / "k=4").mkdir()
    assert sources(tmp_path, videos=f"{tmp_path}/k=4").places.place("videos", "plain") == tmp_path / "k=4"
    assert sources(tmp_path, videos="k=4").places.place("videos", "plain").absolute() == tmp_path / "k=4"


def test_a_name_without_a_path_is_an_error_that_explains_how_to_set_it(tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match=r"--videos nextqa=PATH.*SEVILA_VIDEOS.*\[videos\] in sevila\.toml"):
        sources(tmp_path).places.place("videos", "nextqa")


@pytest.mark.parametrize(
    ("content", "message"),
    [("[video]\nx='y'", r"\[video\] is not one of"), ("[videos]\nx=3", "expected a path"), ("videos = [", "TOML")],
)
def test_an_invalid_sevila_toml_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "sevila.toml").write_text(content)
    with pytest.raises(MissingSourceError, match=message):
        sources(tmp_path)


def test_a_missing_config_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEVILA_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(MissingSourceError, match=r"gone\.toml: SEVILA_CONFIG names this file, but nothing is there"):
        sources(tmp_path)


def test_weights_without_network_or_path_have_a_problem_and_no_id(tmp_path: Path) -> None:
    weights = sources(tmp_path).weights("Salesforce/blip2-flan-t5-xl")
    assert weights.id is None and "--weights Salesforce/blip2-flan-t5-xl=PATH" in weights.problem


def test_a_folder_without_weight_files_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no weight file" in sources(tmp_path, weights=str(tmp_path / "empty")).weights("x").problem


def weights_folder(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    for name, content in files.items():
        (folder / name.replace("_bin", ".bin").replace("_safetensors", ".safetensors")).write_text(content)
    return folder


def test_the_identity_of_weights_depends_only_on_loaded_files(tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "weights", pytorch_model_bin="old", x_safetensors="stray")
    before = sources(tmp_path, weights=str(folder)).weights("x")
    assert set(before.files) == {"config.json", "tokenizer.json", "pytorch_model.bin"}
    (folder / "x.safetensors").write_text("another stray")
    assert sources(tmp_path, weights=str(folder)).weights("x").id == before.id
    (folder / "pytorch_model.bin").write_text("new")
    assert sources(tmp_path, weights=str(folder)).weights("x").id != before.id


def test_sharded_weights_are_the_index_and_the_files_it_names(tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "weights", pytorch_model_bin="not read beside an index of safetensors")
    for name in ("model-1.safetensors", "model-2.safetensors", "model-3.safetensors"):
        (folder / name).write_text(name)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    read = set(sources(tmp_path, weights=str(folder)).weights("x").files)
    shards = {"model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"}
    assert read == {"config.json", "tokenizer.json", *shards}
    (folder / "model-2.safetensors").unlink()
    assert "model-2.safetensors cannot be read" in sources(tmp_path, weights=str(folder)).weights("x").problem


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json"])
def test_git_lfs_pointers_in_place_of_weights_are_reported(tmp_path: Path, name: str) -> None:
    folder = weights_folder(tmp_path / "weights", pytorch_model_bin="x")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4665\n")
    assert f"{name}: a Git LFS pointer" in sources(tmp_path, weights=str(folder)).weights("x").problem


def test_weights_behind_a_retargeted_link_are_the_identified_ones(tmp_path: Path) -> None:
    for name in ("one", "two"):
        weights_folder(tmp_path / name, pytorch_model_bin=name)
    link = tmp_path / "newest"
    link.symlink_to("one")
    weights = sources(tmp_path, weights=str(link)).weights("x")
    link.unlink()
    link.symlink_to("two")
    assert weights.path == tmp_path / "one"
    weights.refuse_changed()
    (tmp_path / "one" / "model.safetensors").write_text("is preferred")
    with pytest.raises(MissingSourceError, match="were replaced while they were read"):
        weights.refuse_changed()


@pytest.mark.parametrize("layout", ["folder of links", "file", "link to a link", "file in a linked folder"])
def test_a_link_to_weights_that_was_retargeted_and_restored_is_refused(tmp_path: Path, layout: str) -> None:
    for name in ("one", "two"):
        weights_folder(tmp_path / name, pytorch_model_bin=name)
    link, a, b = tmp_path / "w" / "pytorch_model.bin", "../one/pytorch_model.bin", "../two/pytorch_model.bin"
    (tmp_path / "w").mkdir()
    place = tmp_path / "w"
    if layout == "file":
        place = link
    elif layout == "link to a link":
        place = tmp_path / "w" / "first.bin"
        place.symlink_to("pytorch_model.bin")
    elif layout == "file in a linked folder":
        link, a, b = tmp_path / "newest", "one", "two"
        place = link / "pytorch_model.bin"
    link.symlink_to(a)
    weights = sources(tmp_path, weights=str(place)).weights("x")
    weights.refuse_changed()
    for target in (b, a):
        other = tmp_path / "other"
        other.symlink_to(target)
        other.rename(link)
        with pytest.raises(MissingSourceError, match="were replaced while they were read"):
            weights.refuse_changed()
    again = sources(tmp_path, weights=str(place)).weights("x")
    assert again.id == weights.id
    again.refuse_changed()


def test_weights_have_the_same_id_as_files_and_as_links(tmp_path: Path) -> None:
    files = weights_folder(tmp_path / "files", pytorch_model_bin="x")
    (tmp_path / "links").mkdir()
    for file in files.iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    ids = [sources(tmp_path, weights=str(tmp_path / name)).weights("x").id for name in ("files", "links")]
    assert ids[0] is not None and ids[0] == ids[1]


def test_sevila_toml_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "sevila.toml").write_bytes(b'\xef\xbb\xbf[videos]\nplain = "here"\n')
    assert sources(tmp_path).places.place("videos", "plain") == tmp_path / "here"


@pytest.mark.parametrize("kind", ["annotations", "videos", "weights"])
def test_a_pipe_is_refused_as_a_source_without_waiting(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MissingSourceError, match=r"pipe, but that is a pipe, not a (file or a )?folder"):
        sources(tmp_path, **{kind: str(tmp_path / "pipe")}).places.place(kind, "plain")
    os.mkfifo(tmp_path / "sevila.toml")
    with pytest.raises(MissingSourceError, match="is a pipe, expected a file"):
        sources(tmp_path)


def test_subtitles_with_a_language_code_belong_to_the_video_without_it(tmp_path: Path) -> None:
    cue = "WEBVTT\n\n00:01.000 --> 00:02.000\nA dog runs.\n"
    (tmp_path / "text").mkdir()
    for name in ("a.en.vtt", "b.pt-BR.vtt", "c.en.vtt", "d.2.vtt", "e.en.forced.vtt"):
        (tmp_path / "text" / name).write_text(cue)
    for name in ("a.mp4", "b.mp4", "c.mp4", "c.en.mp4", "d.mp4", "e.mp4"):
        place_video(tmp_path / "videos", name)
    given = sources(tmp_path, annotations=str(tmp_path / "text"), videos=str(tmp_path / "videos"))
    videos = videos_of_questions(tmp_path, given, "timed_text").videos
    files = {video.video_id: video.path and video.path.name for video in videos}
    assert files == {"a.en": "a.mp4", "b.pt-BR": "b.mp4", "c.en": "c.en.mp4", "d.2": None, "e.en.forced": "e.mp4"}


def place_video(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path.parent if path.suffix == ".jpg" else path


@pytest.mark.parametrize(
    "layout",
    [
        "bbt_frames/s03e21_seg02_clip_08/00001.jpg",
        "s03e21_seg02_clip_08/00001.jpg",
        "frames_hq/bbt_frames/s03e21_seg02_clip_08/00001.jpg",
        "s03e21_seg02_clip_08.mp4",
        "season3/s03e21_seg02_clip_08.mkv",
    ],
)
def test_a_video_is_located_in_every_published_layout(tmp_path: Path, layout: str) -> None:
    clip = "s03e21_seg02_clip_08"
    video = Video(clip, f"bbt_frames/{clip}", (clip,))
    gone = Video("gone", "bbt_frames/gone", ("gone",))
    folder = tmp_path / "videos"
    assert sources(tmp_path / "empty", videos=str(tmp_path)).missing_videos("tvqa", [video]) == [clip]
    place_video(folder, layout)
    assert sources(tmp_path, videos=str(folder)).missing_videos("tvqa", [video, gone]) == ["gone"]


def test_a_folder_without_images_is_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "videos" / "features" / "clip").mkdir(parents=True)
    (tmp_path / "videos" / "features" / "clip" / "0.npy").touch()
    given = sources(tmp_path, videos=str(tmp_path / "videos"))
    assert given.missing_videos("tvqa", [Video("clip", "clip")]) == ["clip"]
    place_video(tmp_path / "videos", "features/clip.mp4")
    assert given.missing_videos("tvqa", [Video("clip", "clip")]) == []


def test_a_folder_of_images_does_not_replace_a_named_file(tmp_path: Path) -> None:
    place_video(tmp_path / "videos", "thumbnails/dog/1.jpg")
    assert sources(tmp_path, videos=str(tmp_path / "videos")).missing_videos("plain", [Video("dog", "dog.mp4")]) == [
        "dog"
    ]


def test_a_name_of_two_image_folders_is_ambiguous(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        place_video(tmp_path / "videos", f"{parent}/dog/1.jpg")
    video = find_videos(tmp_path, tmp_path / "videos", {"video": "dog"})["dog"]
    assert video.path is None and video.reason == "ambiguous: 'dog' could be a/dog, b/dog"


def test_a_missing_video_is_reported_with_every_searched_path(tmp_path: Path) -> None:
    place_video(tmp_path / "videos", "s03e02_seg02_clip_11.mp4")
    rows = [{"vid_name": f"s03e02_seg02_clip_{number}", "qid": number, "ts": "1-2", "q": "Why?"} for number in (10, 11)]
    options = {f"a{number}": "so" for number in range(5)}
    (tmp_path / "tvqa_val.jsonl").write_text("".join(f"{json.dumps(row | options)}\n" for row in rows))
    given = sources(tmp_path, annotations=str(tmp_path), videos=str(tmp_path / "videos"))
    video, _ = videos_of_questions(tmp_path, given, "tvqa", "val").videos
    assert "'bbt_frames/s03e02_seg02_clip_10' or 's03e02_seg02_clip_10'" in video.reason
