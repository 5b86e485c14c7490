from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.arrays import ArrayFile, Owner, write_array
from cache.errors import CorruptArtifactError
from cache.files import written


def owner(n_frames: int) -> Owner:
    return Owner("extract-v1-0", "00aa", list(range(n_frames)))


def write(path: Path, video: np.ndarray) -> None:
    write_array(path, owner(len(video)), video.shape[1:], str(video.dtype), iter([video[:1], video[1:]]))


def random_video(n_frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_frames, 5, 3)).astype("float16")


def test_frames_are_read_by_slice_and_by_row_list(tmp_path: Path) -> None:
    video = random_video(7)
    write(tmp_path / "0.h5", video)
    file = ArrayFile(tmp_path / "0.h5")
    np.testing.assert_array_equal(file.read(slice(0, 7)), video)
    np.testing.assert_array_equal(file.read([1, 4, 6]), video[[1, 4, 6]])


def test_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write(tmp_path / name, random_video(4))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_flipped_bit_in_a_frame_raises_an_error_naming_the_file(tmp_path: Path) -> None:
    video = random_video(4)
    write(tmp_path / "0.h5", video)
    content = bytearray((tmp_path / "0.h5").read_bytes())
    content[content.index(video[2].tobytes()) + 5] ^= 1
    (tmp_path / "0.h5").write_bytes(content)
    file = ArrayFile(tmp_path / "0.h5")
    np.testing.assert_array_equal(file.read([0, 1, 3]), video[[0, 1, 3]])
    with pytest.raises(CorruptArtifactError, match=r"0\.h5.*checksum"):
        file.read([2])


def test_a_truncated_array_file_raises_an_error(tmp_path: Path) -> None:
    write(tmp_path / "0.h5", random_video(4))
    (tmp_path / "0.h5").write_bytes((tmp_path / "0.h5").read_bytes()[:-100])
    with pytest.raises(CorruptArtifactError, match=r"0\.h5"):
        ArrayFile(tmp_path / "0.h5").read(slice(0, 4))


def test_no_file_is_left_when_the_frame_stream_fails_or_is_short(tmp_path: Path) -> None:
    def failing_frames() -> Iterator[np.ndarray]:
        yield random_video(2)
        raise OSError("stream ended")

    with pytest.raises(OSError, match="stream ended"), written(tmp_path / "0.h5") as part:
        write_array(part, owner(4), (5, 3), "float16", failing_frames())
    with pytest.raises(ValueError, match="got 2 frames, expected 3"), written(tmp_path / "0.h5") as part:
        write_array(part, owner(3), (5, 3), "float16", iter([random_video(2)]))
    assert list(tmp_path.iterdir()) == []
