"""The Shapes world: the contents of its files, and questions that its videos answer."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.datasets import shapes
from pipeline.shapes.drawing import COLOURS, GREY, NOTHING, SHAPES
from pipeline.shapes.files import REPEATS, write_long_shapes, write_shapes
from pipeline.shapes.world import (
    LONG,
    MOTIONS,
    N_OPTIONS,
    SHORT,
    UNSEEN,
    events_of_video,
    objects_of,
    questions_about,
)
from pipeline.video.frames import uniform_indices

VIDEOS = {"train": 3, "val": 2, "test": 1, "moments": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, 0, VIDEOS)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_seed_determines_every_byte(world: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_shapes(tmp_path / str(seed), seed, VIDEOS)
    assert content(tmp_path / "0") == content(world)
    assert content(tmp_path / "1")["videos/train_000.mp4"] != content(world)["videos/train_000.mp4"]


def test_adding_a_video_to_a_split_changes_no_other_video(world: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path, 0, {**VIDEOS, "val": 3})
    more = content(tmp_path)
    assert {name: more[name] for name in content(world) if name != "shapes_val.jsonl"} == {
        name: data for name, data in content(world).items() if name != "shapes_val.jsonl"
    }


def test_splits_share_no_video_and_no_row_is_rejected(world: Path) -> None:
    annotations_by_split = {split: shapes.read(world, split) for split in VIDEOS}
    assert all(not annotations.rejected for annotations in annotations_by_split.values())
    videos = [video.path for annotations in annotations_by_split.values() for video in annotations.videos]
    assert len(videos) == len(set(videos)) == sum(VIDEOS.values())
    assert all((world / "videos" / name).exists() for name in videos)


def test_questions_have_one_correct_option_and_moments_inside_the_video(world: Path) -> None:
    for question in shapes.read(world, "train").questions:
        assert question.question_type in ("colour", "shape", "motion", "after")
        assert len(set(question.options)) == len(question.options) == N_OPTIONS
        assert question.answer_index in range(len(question.options))
        assert UNSEEN in question.options and question.options[question.answer_index] != UNSEEN
        assert len(question.moments) == (2 if question.question_type == "after" else 1)
        assert all(0 <= moment.start_seconds < moment.end_seconds <= 8 for moment in question.moments)


def test_moment_queries_have_no_options(world: Path) -> None:
    queries = shapes.read(world, "moments").questions
    assert queries and all(not query.options and query.answer_index is None and query.moments for query in queries)
    assert all(query.question.startswith("A ") and query.question.endswith(".") for query in queries)


def test_the_timed_text_of_a_video_contains_its_moment_queries(world: Path) -> None:
    for query in shapes.read(world, "moments").questions:
        assert query.question in (world / "timed_text" / f"{query.video_id}.vtt").read_text()


def test_correct_answers_match_the_frames() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        events = events_of_video(rng)
        things = objects_of(events, rng)
        for query in questions_about(events, rng):
            assert query.answer is not None
            right = query.options[query.answer]
            start, end = (round(8 * seconds) for seconds in query.moments[-1])
            frames = slice(start, end + 1)
            assert (things.shape[frames] != NOTHING).all()
            colour, shape = list(COLOURS)[things.colour[start]], SHAPES[things.shape[start]]
            before = things.x[start - 1], things.y[start - 1]  # grey, in the middle
            assert things.colour[start - 1] == GREY and SHAPES[things.shape[start - 1]] == shape
            dx, dy = things.x[end] - before[0], things.y[end] - before[1]
            motion = max(MOTIONS, key=lambda name: dx * MOTIONS[name][0] + dy * MOTIONS[name][1])
            if abs(dx) + abs(dy) < 0.01:
                motion = "nowhere"
            truth = {"colour": colour, "shape": shape, "motion": motion, "after": f"a {colour} {shape}"}
            assert right == truth[query.type]


def test_things_of_a_video_differ_in_colour_and_shape_and_do_not_overlap_in_time() -> None:
    for seed in range(20):
        events = events_of_video(np.random.default_rng(seed))
        assert len({event.colour for event in events}) == len({event.shape for event in events}) == len(events)
        bounds = [bound for event in events for bound in (event.start, event.turn, event.stop)]
        assert bounds == sorted(bounds) and bounds[-1] <= SHORT.frames


def test_two_videos_of_the_training_split_are_broken(world: Path) -> None:
    sizes = [(world / "videos" / f"train_{number:03d}.mp4").stat().st_size for number in range(3)]
    assert sizes[2] == 0 < sizes[1] < sizes[0]
    assert len(shapes.read(world, "train").videos) == 3


def test_sampled_frames_show_every_event() -> None:
    sampled = uniform_indices(SHORT.frames, 32, 0, SHORT.frames).tolist()
    for seed in range(20):
        for event in events_of_video(np.random.default_rng(seed)):
            assert 3 <= sum(event.turn <= index < event.stop for index in sampled) <= 4


def test_a_long_video_shows_each_event_for_seven_frames(tmp_path: Path) -> None:
    write_long_shapes(tmp_path, seed=0, n_videos=1)
    annotations = shapes.read(tmp_path, "long")
    assert len(annotations.questions) == 6 and not annotations.rejected
    moments = [moment for question in annotations.questions for moment in question.moments]
    assert {moment.end_seconds - moment.start_seconds for moment in moments} == {6.0}  # seven frames, one a second
    with av.open(str(tmp_path / "videos" / "long_000.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.frames, float(stream.average_rate or 0)) == (LONG.frames * REPEATS, REPEATS)
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    moment = min(moments, key=lambda moment: moment.start_seconds)
    shown, before = frames[round(moment.start_seconds * REPEATS)], frames[round(moment.start_seconds - 20) * REPEATS]
    assert shown.std() > 1.5 * before.std()  # with a thing, and without


def test_annotations_are_json_lines(world: Path) -> None:
    lines = (world / "shapes_test.jsonl").read_text().splitlines()
    assert [json.loads(line)["video"] for line in lines] == ["test_000"] * 6
