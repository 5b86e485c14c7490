"""Pushing and pulling, artifact by artifact: what has a name is whole, at whatever moment a process dies."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem

from cache.errors import CorruptArtifactError, MachineError, StoreError
from cache.files import write_atomically
from cache.fingerprint import fingerprint
from cache.names import named_run, pinning
from cache.notes import note_text
from cache.pool import Pool
from cache.pool_listing import PARTS, every_part
from cache.pool_reader import arrays_digest
from cache.pull import Pull
from cache.push import Push
from cache.record import Record, artifact_id, describe_files
from cache.remote import Remote
from cache.store import Store
from cache.tables import write_rows
from cache.verify import Verification

SPACE = "see-v1-0"
LONGEST_START_SECONDS = 60


def make(root: Path, n_videos: int = 3, name: str = "first", shade: int = 1) -> Store:
    """A store with a run: `see`, whose arrays lie in the pool, and `say`, which was made from it."""
    store = Store(root)
    pool, rows = Pool(store, SPACE), []
    for number in range(n_videos):
        key = f"{number:020d}"
        if not pool.parts(key):
            pool.write(key, [0, 4], (8,), "uint8", [np.full((2, 8), shade * (number + 1))], {})()
        place = {"video_id": f"{number}", "key": key, "part": fingerprint([0, 4])}
        rows.append(place | {"frame_indices": [0, 4], "rows": [0, 1], "part_rows": [0, 1]})
    see = artifact_id("see", 1, {"videos": n_videos}, {"videos": "videos-abc"})
    if not store.exists(see):
        write_rows(store.partial(see) / "parts" / "00000.parquet", PARTS, rows)
        publish(store, Record(see, "see", 1, "seen", {"videos": n_videos}, {"videos": "videos-abc"}, pool=SPACE))
    say = artifact_id("say", 1, {"name": name}, {"seen": see})
    if not store.exists(say):
        write_atomically(at(store.partial(say) / "words" / "text.txt"), f"{name} {shade}".encode() * 1000)
        publish(store, Record(say, "say", 1, "said", {"name": name}, {"seen": see}))
    store.digests.remember("videos plain x", "videos-abc")
    with pinning(store, name, "recipe", {"say": {"name": name}}, []) as pins:
        for id in (see, say):
            pins.add(id, id.split("-")[0], "")
    return store


def at(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def publish(store: Store, record: Record) -> None:
    folder = store.partial(record.id)
    write_atomically(at(folder / "progress" / "plan.json"), note_text({"artifact": record.id, "shards": [[0]]}))
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = describe_files(folder, [name for name in names if "progress" not in name])
    contents = {name: store.record(id).content for name, id in record.inputs.items() if id and store.exists(id)}
    record = Record(
        **{**record.__dict__, "files": files, "input_contents": contents, "finished": "2026-01-01T00:00:00"}
    )
    store.publish(record.sealed(arrays_digest(store, record, folder)))


def push(store: Store, place: Path | str, *names: str, leave_out: tuple[str, ...] = (), replace: bool = False) -> Push:
    transfer = Push(store, Remote(str(place)), names, leave_out, replace)
    transfer.run()
    return transfer


def pull(store: Store, place: Path | str, *names: str, leave_out: tuple[str, ...] = (), replace: bool = False) -> Pull:
    transfer = Pull(store, Remote(str(place)), names, leave_out, replace)
    transfer.run()
    return transfer


def content(root: Path) -> dict[str, bytes]:
    """All that a store holds of artifacts, arrays and names."""
    paths = [path for folder in ("artifacts", "pool", "names") for path in (root / folder).rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def problems(store: Store) -> list[str]:
    verification = Verification(store)
    verification.artifacts([*store, *store.lost()])
    verification.parts(every_part(store.root))
    verification.rest()
    return list(map(str, verification.problems))


def blobs(place: Path) -> list[Path]:
    return sorted(path for path in (place / "blobs").rglob("*") if path.is_file())


class Disk(LocalFileSystem):
    """A file system whose files are seen while they are written, as those behind ssh are."""

    protocol = "disk"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:  # type: ignore[override]
        return str(super()._strip_protocol(str(path).removeprefix("disk://")))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of a server that speaks S3, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {f"AWS_{name}": "test" for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")}
    environment |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path_factory.mktemp("s3") / "log").open("wb") as log, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(port)
            fsspec.filesystem("s3").mkdir("bucket")
            yield "s3://bucket"
        finally:
            server.terminate()
            server.wait()


def wait_for(port: int) -> None:
    end = time.monotonic() + LONGEST_START_SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.fixture(params=["folder", "s3", "disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place of each kind: a folder, an object store, and one whose files are seen while they are written."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    fsspec.register_implementation("disk", Disk, clobber=True)
    return f"{'disk://' if request.param == 'disk' else ''}{tmp_path / 'place'}"


def test_what_is_pulled_is_what_was_pushed_byte_for_byte_and_only_what_is_missing_travels(
    place: str, tmp_path: Path
) -> None:
    here, there = make(tmp_path / "here"), Store(tmp_path / "there")
    first = push(here, place, "first")
    assert (first.n_artifacts, len(first.new), first.n_files) == (2, 2, 5)  # two files, three arrays
    assert pull(there, place, "first").n_files == 5
    assert content(there.root) == content(here.root)
    assert problems(there) == []
    assert (push(here, place, "first").n_files, pull(there, place).n_files) == (0, 0)
    make(here.root, 4, "second")
    assert push(here, place).n_files == 3  # one array and two files
    assert len(pull(there, place).new) == 2
    assert content(there.root) == content(here.root)
    assert problems(there) == []


def test_what_the_pusher_remembers_of_videos_serves_whoever_pulled(tmp_path: Path) -> None:
    push(make(tmp_path / "here"), tmp_path / "place", "first")
    pull(Store(tmp_path / "there"), tmp_path / "place", "first")
    assert Store(tmp_path / "there").digests.remembered_below("videos plain x") == "videos-abc"


def test_arrays_can_stay_where_they_are_and_come_later(tmp_path: Path) -> None:
    here, there, place = make(tmp_path / "here"), Store(tmp_path / "there"), tmp_path / "place"
    assert push(here, place, "first", leave_out=("see",)).n_files == 2
    pulled = pull(there, place, "first")
    assert [id.split("-")[0] for id in pulled.left_out] == ["see"]
    assert list(every_part(there.root)) == [] and problems(there) == []
    assert push(here, place, "first").n_files == 3
    assert pull(there, place, "first", leave_out=("see",)).n_files == 0
    assert list(every_part(there.root)) == [] and problems(there) == []
    assert pull(there, place, "first").n_files == 3
    assert content(there.root) == content(here.root)
    shutil.rmtree(there.root / "pool")  # which is damage now
    assert len(problems(there)) == 3


def test_who_pulled_without_arrays_can_push_and_takes_none_away(tmp_path: Path) -> None:
    here, there, place, other = make(tmp_path / "here"), Store(tmp_path / "there"), tmp_path / "a", tmp_path / "b"
    push(here, place)
    pull(there, place, leave_out=("see",))
    assert push(there, place).n_files == 0
    assert push(there, other).n_files == 2
    push(here, other)
    for number, way in enumerate((place, other)):
        pull(last := Store(tmp_path / f"last{number}"), way)
        assert content(last.root) == content(here.root)


def test_two_push_the_same_at_once(place: str, tmp_path: Path) -> None:
    here = make(tmp_path / "here")
    other = Store(Path(shutil.copytree(here.root, tmp_path / "other")))
    pushes = [Push(here, Remote(place), ["first"], (), False), Push(other, Remote(place), ["first"], ("see",), False)]
    threads = [threading.Thread(target=one.run) for one in pushes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    push(here, place, "first")  # whoever came last may have left arrays out
    pull(there := Store(tmp_path / "there"), place)
    assert content(there.root) == content(here.root)


KILLED = """
import os, signal, sys
from pathlib import Path
from cache import files
from cache.pull import Pull
from cache.push import Push
from cache.remote import Remote
from cache.store import Store

what, root, place, left = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
sync = files.sync

def sync_or_die(path):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)

for module in [module for module in sys.modules.values() if getattr(module, "sync", None) is sync]:
    module.sync = sync_or_die
{"push": Push, "pull": Pull}[what](Store(root), Remote(place), [], (), False).run()
"""


def run_killed(what: str, root: Path, place: Path, n_syncs: int) -> bool:
    """Push or pull in a process that dies as it is about to sync for the n-th time; return whether it has died."""
    command = [sys.executable, "-c", KILLED, what, str(root), str(place), str(n_syncs)]
    status = subprocess.run(command, capture_output=True, text=True)
    assert status.returncode in (0, -9), status.stderr
    return status.returncode == -9


def test_a_push_that_is_killed_leaves_nothing_half_named_and_goes_on(tmp_path: Path) -> None:
    here, place, n_killed = make(tmp_path / "here"), tmp_path / "place", 0
    for n_syncs in (1, 5, 13, 17):
        n_killed += run_killed("push", here.root, place, n_syncs)
        there = Store(tmp_path / f"there{n_syncs}")
        if (place / "sevila.json").exists():
            pull(there, place)
        assert problems(there) == []
        assert set(content(there.root)) <= set(content(here.root))
    assert n_killed >= 3
    push(here, place)
    pull(there := Store(tmp_path / "there"), place)
    assert content(there.root) == content(here.root)


def test_a_pull_that_is_killed_leaves_a_store_and_goes_on(tmp_path: Path) -> None:
    here, place, there, n_killed = make(tmp_path / "here"), tmp_path / "place", Store(tmp_path / "there"), 0
    push(here, place)
    for n_syncs in (3, 11, 20, 8):
        n_killed += run_killed("pull", there.root, place, n_syncs)
        assert problems(there) == []
    assert n_killed >= 3
    pull(there, place)
    assert content(there.root) == content(here.root)
    assert not any((there.root / "partial").iterdir())


def test_a_byte_that_changed_at_the_remote_is_named_and_never_published(place: str, tmp_path: Path) -> None:
    here, remote = make(tmp_path / "here"), Remote(place)
    push(here, place)
    for n_before, name in enumerate(sorted(remote.sizes("blobs"))[::4]):
        good = remote.read(name)
        remote.write(name, good[:-1] + bytes([good[-1] ^ 1]))
        there = Store(tmp_path / f"there{n_before}")
        with pytest.raises(
            CorruptArtifactError, match=f"{name}: its bytes do not match the SHA-256 in its name; delete it"
        ):
            pull(there, place)
        assert problems(there) == []
        remote.write(name, good[:-1])
        with pytest.raises(
            CorruptArtifactError, match=r"expected .* `sevila cache push` from a store that has it restores"
        ):
            pull(there, place)
        assert push(here, place).n_files == 1
        pull(there, place)
        assert content(there.root) == content(here.root)


def test_a_damaged_manifest_is_named_and_written_anew_by_the_next_push(tmp_path: Path) -> None:
    here, there, place = make(tmp_path / "here"), Store(tmp_path / "there"), tmp_path / "place"
    remote = Remote(str(place))
    push(here, place)
    name = next(iter(remote.sizes("artifacts")))
    remote.write(name, remote.read(name)[:-9])
    with pytest.raises(CorruptArtifactError, match="from a store that has the artifact writes it again"):
        pull(there, place)
    push(here, place)
    pull(there, place)
    assert content(there.root) == content(here.root)


def test_damage_here_is_not_pushed(tmp_path: Path) -> None:
    for number, damaged in enumerate(("artifacts/*/words/text.txt", "pool/*/*/*/*.h5", "pool/*/*/*/*.json")):
        here = make(tmp_path / f"here{number}")
        path = next(iter(here.root.glob(damaged)))
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        with pytest.raises(CorruptArtifactError, match="--drop` removes only the damage"):
            push(here, tmp_path / f"place{number}")
        there = Store(tmp_path / f"there{number}")
        pull(there, tmp_path / f"place{number}")
        assert problems(there) == [] and "first" not in str(content(there.root).keys())


def test_other_content_under_the_same_id_is_refused_both_ways(tmp_path: Path) -> None:
    here, other, place = make(tmp_path / "here"), make(tmp_path / "other", shade=2), tmp_path / "place"
    push(here, place)
    before = content(other.root), {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for move in (push, pull):
        with pytest.raises(StoreError, match=r"another content .* nothing is overwritten"):
            move(other, place)
    assert (content(other.root), {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}) == before


def test_a_name_that_stands_for_another_run_is_refused_unless_replaced(tmp_path: Path) -> None:
    here, other, place = make(tmp_path / "here"), make(tmp_path / "other", 2), tmp_path / "place"
    push(here, place)
    for move in (push, pull):
        with pytest.raises(StoreError, match=r"the same recipe on other data; .* --replace"):
            move(other, place, "first")
    push(other, place, "first", replace=True)
    pull(here, place, "first", replace=True)
    assert named_run(here, "first") == named_run(other, "first")


def test_a_run_that_went_further_takes_its_name_along(tmp_path: Path) -> None:
    here, there, place = make(tmp_path / "here"), Store(tmp_path / "there"), tmp_path / "place"
    push(here, place)
    pull(there, place)
    run = named_run(here, "first")
    with pinning(here, "first", run.recipe, run.settings, []) as pins:
        for pin in run.artifacts:
            pins.add(*pin)
        pins.add(next(id for id in make(here.root, name="second") if id not in str(run.artifacts)), "say", "")
    for move, store in ((push, here), (pull, there)):
        move(store, place, "first")
    assert len(named_run(there, "first").artifacts) == 3
    push(there, place, "first")


def test_a_place_that_is_missing_or_other_things_is_said_in_a_sentence(tmp_path: Path) -> None:
    here = make(tmp_path / "here")
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for move, place, message in [
        (pull, tmp_path / "nowhere", "is not a remote; `sevila cache push` creates one"),
        (push, tmp_path / "no" / "disk", "there is no folder"),
        (push, tmp_path / "holiday", "is not a remote: it holds photo.jpg"),
        (pull, tmp_path / "holiday", "is not a remote; `sevila cache push` creates one"),
        (push, here.root, "is a store; read it"),
        (push, "nosuch://place", "expected a folder, or an address such as s3://"),
    ]:
        with pytest.raises(StoreError, match=message):
            move(here, place)
    with pytest.raises((StoreError, OSError)):
        push(here, tmp_path / "file")
    push(here, tmp_path / "place")
    with pytest.raises(StoreError, match=r"has no run 'frist' \(did you mean 'first'\?\); runs there: first"):
        pull(here, tmp_path / "place", "frist")


def test_a_bucket_that_is_missing_or_forbidden_is_said_in_a_sentence(s3: str, tmp_path: Path) -> None:
    here = make(tmp_path / "here")
    push(here, f"{s3}/allowed")
    for move in (push, pull):
        with pytest.raises((MachineError, StoreError), match="s3://nobucket"):
            move(here, "s3://nobucket/place")
    authority = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    with_body = {"headers": {"Content-Type": "text/plain"}}
    # From now on whoever asks has to be known.
    urllib.request.urlopen(urllib.request.Request(authority, b"0", **with_body)).close()
    try:
        for move in (push, pull):
            with pytest.raises(MachineError, match=r"s3://bucket/allowed: .*; remove the cause"):
                move(here, f"{s3}/allowed")
    finally:
        urllib.request.urlopen(urllib.request.Request(authority, b"inf", **with_body)).close()
    assert pull(Store(tmp_path / "there"), f"{s3}/allowed").n_artifacts == 2


def test_links_are_neither_followed_nor_written_through(tmp_path: Path) -> None:
    here, place, away = make(tmp_path / "here"), tmp_path / "place", tmp_path / "away"
    push(here, place)
    blob = max(path for path in (place / "blobs").rglob("*") if path.is_file())
    shutil.move(blob, away)
    blob.symlink_to(away)
    with pytest.raises((StoreError, CorruptArtifactError)):
        pull(Store(tmp_path / "there"), place)
    with pytest.raises(StoreError, match="is a link"):
        push(here, place)
    blob.unlink()
    push(here, place)
    shutil.rmtree(place / "names")
    (tmp_path / "names").mkdir()
    (place / "names").symlink_to(tmp_path / "names")
    with pytest.raises(StoreError, match="is a link"):
        push(here, place)
    assert not any((tmp_path / "names").iterdir())
    (tmp_path / "pool").mkdir()
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    (pulled / "pool").symlink_to(tmp_path / "pool")
    (place / "names").unlink()
    push(here, place)
    with pytest.raises(StoreError, match="is a link"):
        pull(Store(pulled), place)
    assert not any((tmp_path / "pool").iterdir())


def test_what_somebody_made_up_leads_nowhere(tmp_path: Path) -> None:
    here, place = make(tmp_path / "here"), tmp_path / "place"
    push(here, place)
    path = next(path for path in (place / "artifacts").iterdir() if path.name.startswith("see"))
    whole = {name: value for name, value in json.loads(path.read_bytes()).items() if name != "checksum"}
    record = json.loads(whole["record"])
    led_out = {**record, "files": {"../../../led": next(iter(record["files"].values()))}}
    for changed in (
        {"progress": {"../../led.json": "{}"}},
        {"progress": {"record.json": whole["record"]}},
        {"parts": {"../..": next(iter(whole["parts"].values()))}},
        {"parts": {"see-v1-0/0/../../led": next(iter(whole["parts"].values()))}},
        {"parts": dict(zip(reversed(whole["parts"]), whole["parts"].values(), strict=True))},
        {"record": json.dumps(led_out)},
        {"record": json.dumps({**record, "id": "see-v1-00000000000000000000"})},
        {"record": [1]},
        {"sources": {"videos plain x": "../led"}},
        {"sources": [1]},
    ):
        path.write_bytes(note_text({**whole, **changed}))
        with pytest.raises(CorruptArtifactError):
            pull(Store(tmp_path / "there"), place)
    assert not list(tmp_path.rglob("*led*")) and not (tmp_path / "there" / "artifacts").exists()


def linked(path: Path, away: Path) -> None:
    """Move something away, and leave a link to it."""
    away.mkdir(exist_ok=True)
    shutil.move(path, away / path.name)
    path.symlink_to(away / path.name)


@pytest.mark.parametrize("what", ["artifact", "record", "array", "note", "progress", "space", "inside"])
def test_a_link_in_the_place_of_something_is_an_error_and_all_else_is_pushed(tmp_path: Path, what: str) -> None:
    here, place = make(tmp_path / "here"), tmp_path / "place"
    make(here.root, 2, "second")
    id = next(id for id in here if here.record(id).config == {"videos": 3})
    path = {
        "artifact": here.path(id),
        "record": here.path(id) / "record.json",
        "inside": here.path(id) / "parts",
        "array": max((here.root / "pool").rglob("*.h5")),
        "note": max((here.root / "pool").rglob("*.json")),
        "progress": here.path(id) / "progress",
        "space": here.root / "pool" / SPACE,
    }[what]
    linked(path, tmp_path / "away")
    message = rf"not pushed: {id}: {path}: is a link to .*; all else was pushed, except the names of runs"
    with pytest.raises(StoreError, match=message if what != "space" else "is a link"):
        push(Store(here.root), place)
    pushed = {path.stem for path in (place / "artifacts").iterdir()}
    assert id not in pushed and len(pushed) == (2 if what == "space" else 3)
    assert [path.stem for path in (place / "names").glob("*")] == ([] if what == "space" else ["second"])


def test_an_artifact_whose_record_is_lost_is_not_left_out_in_silence(tmp_path: Path) -> None:
    here, place = make(tmp_path / "here"), tmp_path / "place"
    id = next(id for id in here if id.startswith("say"))
    (here.path(id) / "record.json").unlink()
    (here.root / "artifacts" / "see-v1-0123456789").mkdir()  # what a removal that was killed leaves is nobody's loss
    with pytest.raises(
        StoreError, match=rf"not pushed.* {id}: .*: its record is gone; `sevila cache verify {id} --drop`"
    ):
        push(Store(here.root), place)
    assert [path.stem.split("-")[0] for path in (place / "artifacts").iterdir()] == ["see"]


@pytest.mark.parametrize("names", [(), ("first",)])
def test_an_input_that_is_not_there_is_listed(tmp_path: Path, names: tuple[str, ...]) -> None:
    here, place = make(tmp_path / "here"), tmp_path / "place"
    see = next(id for id in here if id.startswith("see"))
    shutil.rmtree(here.path(see))
    if not names:
        (here.root / "names" / "first.json").unlink()
    assert push(Store(here.root), place, *names).missing == [see]
    assert pull(Store(tmp_path / "there"), place, *names).missing == [see]


@pytest.mark.parametrize("what", ["manifest", "blob", "blobs", "name"])
def test_a_link_at_the_place_is_an_error_and_all_else_is_pulled(tmp_path: Path, what: str) -> None:
    here, place = make(tmp_path / "here"), tmp_path / "place"
    make(here.root, 2, "second")
    push(here, place)
    id = next(id for id in here if here.record(id).config == {"name": "first"})
    blob = (
        place
        / "blobs"
        / next(path for path in blobs(place) if path.read_bytes().startswith(b"first 1")).relative_to(place / "blobs")
    )
    path = {
        "manifest": place / "artifacts" / f"{id}.json",
        "blob": blob,
        "blobs": blob.parent,
        "name": place / "names" / "first.json",
    }[what]
    linked(path, tmp_path / "away")
    there = Store(tmp_path / "there")
    with pytest.raises(StoreError, match=rf"not pulled: .*{path}.*: is a link"):
        pull(there, place)
    assert len(list(there)) == (4 if what == "name" else 3)
    assert [path.stem for path in (there.root / "names").iterdir()] == ["second"]


@pytest.mark.parametrize("suffix", [".h5", ".json"])
def test_a_link_in_the_place_of_an_array_does_not_count_as_pulled(tmp_path: Path, suffix: str) -> None:
    here, place, there = make(tmp_path / "here"), tmp_path / "place", tmp_path / "there"
    push(here, place)
    pull(Store(there), place, leave_out=("say",))
    linked(max((there / "pool").rglob(f"*{suffix}")), tmp_path / "away")
    with pytest.raises(StoreError, match=r"not pulled: see-.* is a link"):
        pull(Store(there), place)
