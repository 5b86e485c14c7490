from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.errors import CorruptArtifactError
from cache.shards import SeriesReader, ShardReader, new_shard


def write(path: Path, *videos: np.ndarray) -> None:
    with new_shard(path) as shard:
        for video in videos:
            shard.add(len(video), video.shape[1:], str(video.dtype), iter([video[:1], video[1:]]))


def random_video(n_frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_frames, 5, 3)).astype("float16")


def test_frames_come_back_in_pieces_and_by_row(tmp_path: Path) -> None:
    videos = [random_video(7, 1), random_video(2, 2)]
    write(tmp_path / "0.h5", *videos)
    reader = ShardReader(tmp_path / "0.h5")
    np.testing.assert_array_equal(reader.read(0, slice(0, 7)), videos[0])
    np.testing.assert_array_equal(reader.read(0, [1, 4, 6]), videos[0][[1, 4, 6]])
    np.testing.assert_array_equal(reader.read(1, slice(0, 2)), videos[1])


def test_same_videos_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write(tmp_path / name, random_video(4))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_flipped_bit_in_a_frame_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    video = random_video(4)
    write(tmp_path / "0.h5", video)
    content = bytearray((tmp_path / "0.h5").read_bytes())
    content[content.index(video[2].tobytes()) + 5] ^= 1
    (tmp_path / "0.h5").write_bytes(content)
    reader = ShardReader(tmp_path / "0.h5")
    np.testing.assert_array_equal(reader.read(0, [0, 1, 3]), video[[0, 1, 3]])
    with pytest.raises(CorruptArtifactError, match=r"0\.h5.*checksum"):
        reader.read(0, [2])


def test_truncated_shard_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "0.h5", random_video(4))
    (tmp_path / "0.h5").write_bytes((tmp_path / "0.h5").read_bytes()[:-100])
    with pytest.raises(CorruptArtifactError, match=r"0\.h5"):
        ShardReader(tmp_path / "0.h5").read(0, slice(0, 4))


def test_video_that_breaks_off_leaves_no_trace_and_the_next_takes_its_number(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield random_video(2)
        raise OSError("stream ended")

    with new_shard(tmp_path / "0.h5") as shard:
        with pytest.raises(OSError, match="stream ended"):
            shard.add(4, (5, 3), "float16", broken())
        assert shard.add(3, (5, 3), "float16", iter([random_video(3)])) == 0
    np.testing.assert_array_equal(ShardReader(tmp_path / "0.h5").read(0, slice(0, 3)), random_video(3))


def test_error_while_writing_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 2 frames, wanted 3"), new_shard(tmp_path / "0.h5") as shard:
        shard.add(3, (5, 3), "float16", iter([random_video(2)]))
    assert list(tmp_path.iterdir()) == []


def test_series_finds_each_video_in_its_shard(tmp_path: Path) -> None:
    write(tmp_path / "00000.h5", random_video(2, 1))
    write(tmp_path / "00001.h5", random_video(2, 2), random_video(3, 3))
    reader = SeriesReader(sorted(tmp_path.iterdir()), {"a/b:1": (0, 0), "c": (1, 1)})
    np.testing.assert_array_equal(reader.read("a/b:1", slice(0, 2)), random_video(2, 1))
    np.testing.assert_array_equal(reader.read("c", slice(0, 3)), random_video(3, 3))
