"""The pool without any stage: arrays of numbers under hexadecimal keys."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CorruptArtifactError
from cache.pool import Pool, part_paths, part_rows
from cache.pool_listing import PARTS, every_part
from cache.pool_reader import PoolReader
from cache.store import Store
from cache.tables import read_columns, write_rows
from tests.waiting import wait_until

SPACE, KEY = "extract-v1-0123", "00aa11bb22cc33dd44ee"


def frames(indices: Sequence[int]) -> np.ndarray:
    return np.array([[index, index + 0.5] for index in indices], "float32").reshape(len(indices), 2)


def add(pool: Pool, key: str, indices: Sequence[int]) -> None:
    pool.write(key, indices, (2,), "float32", iter([frames(indices)]), {"fps": 25.0})()


def reader(store: Store, indices: Sequence[int]) -> PoolReader:
    return reader_of(store, part_rows("v", indices, Pool(store, SPACE).parts(KEY)))


def reader_of(store: Store, rows: list[dict[str, Any]]) -> PoolReader:
    path = store.root / "parts.parquet"
    write_rows(path, PARTS, rows)
    return PoolReader(store, SPACE, read_columns([path], PARTS, list(PARTS.columns)))


def missing_of(pool: Pool, frame_indices: list[int]) -> list[int]:
    held = {index for part in pool.parts(KEY) for index in part.frame_indices}
    return [index for index in frame_indices if index not in held]


@pytest.mark.parametrize("owner_bytes", [SPACE.encode(), KEY.encode(), np.array([3, 11, 500], "int64").tobytes()])
def test_a_flipped_bit_in_the_owner_of_a_part_raises_an_error(tmp_path: Path, owner_bytes: bytes) -> None:
    store = Store(tmp_path)
    add(Pool(store, SPACE), KEY, [3, 11, 500])
    read = reader(store, [3, 11, 500])
    (path,) = (store.root / "pool").rglob("*.h5")
    content = path.read_bytes()
    assert content.count(owner_bytes) == 1
    place = content.index(owner_bytes) + 1
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(CorruptArtifactError, match=path.name):
        read.read("v", [0])


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 40), min_size=1, unique=True).map(sorted), min_size=1, max_size=4), st.data())
def test_frames_are_read_from_any_combination_of_parts(
    tmp_path_factory: pytest.TempPathFactory, requests: list[list[int]], data: st.DataObject
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    pool = Pool(store, SPACE)
    for request in requests:
        if missing := missing_of(pool, request):
            add(pool, KEY, missing)
        assert missing_of(pool, request) == []
        read = reader(store, request)
        np.testing.assert_array_equal(read.read("v", slice(None)), frames(request))
        rows = data.draw(st.lists(st.integers(0, len(request) - 1), min_size=1, unique=True).map(sorted))
        np.testing.assert_array_equal(read.read("v", rows), frames([request[row] for row in rows]))
    held = [index for part in pool.parts(KEY) for index in part.frame_indices]
    assert sorted(held) == sorted(set().union(*requests))  # no frame twice


def test_a_part_without_a_note_or_with_another_size_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = Pool(Store(tmp_path), SPACE)
    add(pool, KEY, [1, 2])
    ((space, key, name),) = every_part(tmp_path)
    array, note = part_paths(tmp_path, space, key, name)
    array.write_bytes(array.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, "sevila"):
        assert pool.parts(KEY) == []
    assert str(array) in caplog.text
    note.unlink()
    assert pool.parts(KEY) == []
    add(pool, KEY, [1, 2])
    assert [part.facts for part in pool.parts(KEY)] == [{"fps": 25.0}]


def test_a_missing_part_raises_an_error_with_the_repair_command(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(Pool(store, SPACE), KEY, [1, 2])
    read = reader(store, [1, 2])
    part_paths(tmp_path, *next(every_part(tmp_path)))[0].unlink()
    with pytest.raises(CorruptArtifactError, match=r"gone from the pool.*--drop"):
        read.read("v", [0])


def test_an_invalid_parts_table_is_refused(tmp_path: Path) -> None:
    row = {"video_id": "v", "key": KEY, "part": "p", "frame_indices": [1, 2], "rows": [0, 1], "part_rows": [0]}
    with pytest.raises(CorruptArtifactError, match="not written by a stage"):
        reader_of(Store(tmp_path), [row])


def test_parts_of_a_lower_store_are_used_and_only_missing_frames_are_added(tmp_path: Path) -> None:
    (tmp_path / "below" / "artifacts").mkdir(parents=True)
    add(Pool(Store(tmp_path / "below"), SPACE), KEY, [1, 5])
    store = Store(tmp_path / "own", [tmp_path / "below"])
    pool = Pool(store, SPACE)
    assert missing_of(pool, [1, 3, 5]) == [3]
    add(pool, KEY, [3])
    np.testing.assert_array_equal(reader(store, [1, 3, 5]).read("v", slice(None)), frames([1, 3, 5]))
    assert len(list(every_part(tmp_path / "own"))) == 1


def test_a_reader_of_many_videos_keeps_few_files_open(tmp_path: Path) -> None:
    store = Store(tmp_path)
    pool = Pool(store, SPACE)
    rows = []
    for number in range(140):
        key = f"{number:020x}"
        add(pool, key, [number])
        rows += part_rows(f"v{number}", [number], pool.parts(key))
    read = reader_of(store, rows)
    before = len(os.listdir("/proc/self/fd"))
    for number in [*range(140), *range(140)]:
        np.testing.assert_array_equal(read.read(f"v{number}", [0]), frames([number]))
    assert len(os.listdir("/proc/self/fd")) - before <= 128


BUILDER = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from cache.pool import Pool
    from cache.store import Store

    root, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    pool = Pool(Store(root), "extract-v1-0123")

    def work(keys):
        for key in keys:
            with log.open("a") as file:
                file.write(key + "\\n")
            time.sleep(seconds)
            pool.write(key, [0], (2,), "float32", iter([np.zeros((1, 2), "float32")]), {})()
            yield key

    pool.make([f"{number:020x}" for number in range(12)], lambda key: bool(pool.parts(key)), work)
"""


def start(root: Path, log: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(BUILDER), str(root), str(log), str(seconds)])


def started_keys(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_processes_share_the_keys_and_build_none_twice(tmp_path: Path) -> None:
    log = tmp_path / "log"
    builders = [start(tmp_path / "store", log, 0.02) for _ in range(4)]
    assert [builder.wait(60) for builder in builders] == [0, 0, 0, 0]
    assert sorted(started_keys(log)) == [f"{number:020x}" for number in range(12)]
    assert len(list(every_part(tmp_path / "store"))) == 12


def test_a_waiting_process_takes_over_from_a_killed_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = start(tmp_path / "store", log, 60)
    wait_until(lambda: started_keys(log))
    second = start(tmp_path / "store", log, 0)
    wait_until(lambda: len(started_keys(log)) >= 12)
    assert second.poll() is None  # it waits for the key of the first process
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.wait(60) == 0
    assert len(started_keys(log)) == 13
    assert len(list(every_part(tmp_path / "store"))) == 12


def test_an_error_in_the_work_releases_the_claimed_keys(tmp_path: Path) -> None:
    pool = Pool(Store(tmp_path), SPACE)

    def failing(keys: Iterator[str]) -> Iterator[str]:
        next(keys)
        raise OSError("disk gone")
        yield

    with pytest.raises(OSError, match="disk gone"):
        pool.make([KEY], lambda key: bool(pool.parts(key)), failing)

    def working(keys: Iterator[str]) -> Iterator[str]:
        for key in keys:
            add(pool, key, [1])
            yield key

    pool.make([KEY], lambda key: bool(pool.parts(key)), working)
    assert len(pool.parts(KEY)) == 1


def test_a_read_ahead_thread_claims_no_key_after_an_error(tmp_path: Path) -> None:
    pool, left = Pool(Store(tmp_path), SPACE), []

    def work(keys: Iterator[str]) -> Iterator[str]:
        left.append(keys)
        raise OSError(f"disk full at {next(keys)}")
        yield

    with pytest.raises(OSError, match="disk full"):
        pool.make(["a", "b"], lambda key: False, work)
    assert list(left[0]) == []
    pool.make(["a", "b"], lambda key: False, lambda keys: keys)  # would wait for this process itself
