import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.vision import PIXEL_MEAN, PIXEL_STD, pixels
from pipeline.video.frames import (
    Clip,
    EverySecondSampling,
    FixedRateSampling,
    RandomSampling,
    UniformSampling,
    clip_bounds,
    fixed_rate_indices,
    random_indices,
    sample_clip,
    uniform_indices,
)

seconds = st.none() | st.floats(allow_nan=True, allow_infinity=True)
rates = st.floats(0.5, 240)
lengths = st.integers(1, 200_000)


@st.composite
def clips_in_frames(draw: st.DrawFn) -> tuple[int, int, int]:
    length = draw(lengths)
    start = draw(st.integers(0, length))
    return length, start, draw(st.integers(start, length))


def test_a_clip_starting_at_the_end_gives_the_last_frame() -> None:
    sampled = sample_clip(Clip(4.0, 9.0), UniformSampling(3), n_video_frames=40, fps=10.0)
    assert sampled.frame_indices.tolist() == [39, 39, 39]
    assert "start 4 s is outside the video" in sampled.note


@pytest.mark.parametrize(
    ("start", "end", "frames", "note"),
    [
        (None, None, (0, 100), ""),
        (1.0, 2.5, (10, 25), ""),
        (1.0, 10.05, (10, 100), ""),  # an end rounded up by less than a frame
        (math.nan, math.nan, (0, 100), "start is not a number: taken from the beginning; end is not a number: taken to the end"),
        (3.0, 2.0, (20, 30), "start lies after end: swapped"),
        (-2.0, 5.0, (0, 50), "start -2 s is outside the video (0 to 10 s): clamped"),
        (5.0, math.inf, (50, 100), "end inf s is outside the video (0 to 10 s): clamped"),
        (-math.inf, 1.0, (0, 10), "start -inf s is outside the video (0 to 10 s): clamped"),
        (3.0, 3.0, (30, 30), "clip from 3 to 3 s has no length: one frame stands for it"),
        (3.01, 3.05, (30, 30), "clip from 3.01 to 3.05 s is shorter than a frame: one frame stands for it"),
        (11.0, None, (100, 100), "start 11 s is outside the video (0 to 10 s): clamped"),
    ],
)  # fmt: skip
def test_invalid_clip_times_are_clamped_with_a_note(
    start: float | None, end: float | None, frames: tuple[int, int], note: str
) -> None:
    assert clip_bounds(100, 10.0, start, end) == (*frames, note)


@given(lengths, rates, seconds, seconds)
def test_every_clip_lies_inside_the_video(
    n_video_frames: int, fps: float, start: float | None, end: float | None
) -> None:
    start_frame, end_frame, _ = clip_bounds(n_video_frames, fps, start, end)
    assert 0 <= start_frame <= end_frame <= n_video_frames


@given(clips_in_frames(), st.integers(1, 200), st.integers(0, 2**32))
def test_uniform_and_random_frames_are_ascending_with_one_from_each_interval(
    clip: tuple[int, int, int], n_frames: int, seed: int
) -> None:
    length, start, end = clip
    uniform = uniform_indices(length, n_frames, start, end)
    random = random_indices(length, n_frames, start, end, np.random.default_rng(seed))
    n = min(n_frames, length)
    interval = (end - start) / n
    for indices in (uniform, random):
        assert indices.shape == (n,) and indices.dtype == np.int64
        assert (np.diff(indices) >= 0).all()
        assert indices[0] >= 0 and indices[-1] < length
        places = start + np.arange(n) * interval
        assert (indices >= np.floor(places) - 1).all() and (indices <= np.ceil(places + interval)).all()


def test_random_frames_cover_every_frame_of_their_interval() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([random_indices(100, 4, 20, 40, rng) for _ in range(500)])
    for column, start in enumerate((20, 25, 30, 35)):
        assert set(drawn[:, column]) == set(range(start, start + 5))


def test_random_frames_depend_only_on_seed_and_clip() -> None:
    sampling = RandomSampling(8, seed=(7, 12345))
    first = sample_clip(Clip(1.0, 20.0), sampling, 900, 30.0).frame_indices
    sample_clip(Clip(0.0, 5.0), sampling, 900, 30.0)
    assert (sample_clip(Clip(1.0, 20.0), sampling, 900, 30.0).frame_indices == first).all()
    assert (sample_clip(Clip(1.0, 20.0), RandomSampling(8, seed=(8, 12345)), 900, 30.0).frame_indices != first).any()


def test_fixed_rate_takes_the_middle_frame_of_each_interval() -> None:
    assert fixed_rate_indices(100, 10.0, 1.0, 0, 100).tolist() == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    assert fixed_rate_indices(100, 10.0, 1.0, 20, 46).tolist() == [25, 35, 45]
    assert fixed_rate_indices(100, 10.0, 1.0, 20, 45).tolist() == [25, 35]


def test_a_clip_shorter_than_half_an_interval_gives_one_frame() -> None:
    assert fixed_rate_indices(100, 10.0, 0.1, 20, 30).tolist() == [25]
    assert fixed_rate_indices(100, 10.0, 1.0, 100, 100).tolist() == [99]


@given(clips_in_frames(), rates, st.floats(0.01, 300))
def test_fixed_rate_frames_are_ascending_and_unique_up_to_the_frame_rate_of_the_video(
    clip: tuple[int, int, int], fps: float, frames_per_second: float
) -> None:
    length, start, end = clip
    indices = FixedRateSampling(min(frames_per_second, 8 * fps)).indices(length, fps, start, end)
    assert len(indices) >= 1 and indices.dtype == np.int64
    assert start <= indices[0] or start == length
    assert indices[-1] < max(end, start + 1)
    if frames_per_second <= fps:
        assert (np.diff(indices) >= 1).all()
        assert abs(len(indices) - (end - start) / fps * frames_per_second) <= 1
    else:
        assert (np.diff(indices) >= 0).all()


def test_pixels_are_normalised_with_the_published_clip_statistics() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    mean, std = (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    )  # OpenAI CLIP's published values
    expected = (frames / 255.0 - mean) / std
    result = pixels(torch.from_numpy(frames)).numpy()
    assert result.shape == (3, 3, 5, 7) and result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_allclose(result, expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_pixels_equal_numpy_float32_bit_for_bit() -> None:
    frames = np.arange(256, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    expected = (frames.astype(np.float32) / np.float32(255) - PIXEL_MEAN) / PIXEL_STD
    np.testing.assert_array_equal(pixels(torch.from_numpy(frames)).numpy(), expected.transpose(0, 3, 1, 2))


@given(st.integers(1, 5000), st.floats(0.2, 120, allow_nan=False), st.integers(1, 40))
def test_a_frame_limit_spreads_frames_uniformly_over_the_clip(length: int, fps: float, max_frames: int) -> None:
    every = FixedRateSampling(1.0).indices(length, fps, 0, length)
    capped = FixedRateSampling(1.0, max_frames).indices(length, fps, 0, length)
    if len(every) <= max_frames:
        assert np.array_equal(capped, every)
    else:
        assert np.array_equal(capped, uniform_indices(length, max_frames, 0, length))


def test_every_second_sampling_takes_the_frames_of_aks() -> None:
    """AKS's own extraction: frame j * int(fps) for each j below int(frames / int(fps))."""
    for length, fps in ((750, 25.0), (899, 29.97), (1000, 23.976), (10, 60.0), (7, 0.5)):
        step = max(1, int(fps))
        expected = [j * step for j in range(int(length / step))] or [0]
        assert EverySecondSampling().indices(length, fps, 0, length).tolist() == expected
    assert EverySecondSampling().indices(750, 25.0, 100, 160).tolist() == [100, 125]
