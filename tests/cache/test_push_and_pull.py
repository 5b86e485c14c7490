"""Push and pull: what a remote or a store names is complete, even after a killed process."""

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

SPACE = "sample-v1-0"
LONGEST_START_SECONDS = 60


def make(root: Path, n_videos: int = 3, name: str = "first", value: int = 1) -> Store:
    """Return a store with a run of two artifacts: `sample`, with arrays in the pool, and `answer`, made from it."""
    store = Store(root)
    pool, rows = Pool(store, SPACE), []
    for number in range(n_videos):
        key = f"{number:020d}"
        if not pool.parts(key):
            pool.write(key, [0, 4], (8,), "uint8", [np.full((2, 8), value * (number + 1))], {})()
        place = {"video_id": f"{number}", "key": key, "part": fingerprint([0, 4])}
        rows.append(place | {"frame_indices": [0, 4], "rows": [0, 1], "part_rows": [0, 1]})
    config: dict[str, object] = {"videos": n_videos}
    inputs: dict[str, str | None] = {"videos": "videos-abc"}
    frames = artifact_id("sample", 1, config, inputs)
    if not store.exists(frames):
        write_rows(store.partial(frames) / "parts" / "00000.parquet", PARTS, rows)
        publish(store, Record(frames, "sample", 1, "frames", config, inputs, pool=SPACE))
    answers = artifact_id("answer", 1, {"name": name}, {"frames": frames})
    if not store.exists(answers):
        write_atomically(in_folder(store.partial(answers) / "words" / "text.txt"), f"{name} {value}".encode() * 1000)
        publish(store, Record(answers, "answer", 1, "answers", {"name": name}, {"frames": frames}))
    store.digests.remember("videos plain x", "videos-abc")
    with pinning(store, name, "recipe", {"answer": {"name": name}}, []) as pins:
        for id in (frames, answers):
            pins.add(id, id.split("-")[0], "")
    return store


def in_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def publish(store: Store, record: Record) -> None:
    folder = store.partial(record.id)
    write_atomically(in_folder(folder / "progress" / "plan.json"), note_text({"artifact": record.id, "shards": [[0]]}))
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
    """Return the bytes of every artifact, array and name file of a store."""
    paths = [path for folder in ("artifacts", "pool", "names") for path in (root / folder).rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def problems(store: Store) -> list[str]:
    verification = Verification(store)
    verification.artifacts([*store, *store.lost()])
    verification.parts(every_part(store.root))
    verification.other_files()
    return list(map(str, verification.problems))


def blobs(place: Path) -> list[Path]:
    return sorted(path for path in (place / "blobs").rglob("*") if path.is_file())


class Disk(LocalFileSystem):
    """A file system whose unfinished files are visible, as over SFTP."""

    protocol = "disk"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:  # type: ignore[override]
        return str(super()._strip_protocol(str(path).removeprefix("disk://")))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of a local S3 server in its own process."""
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
    """The address of an empty remote: a folder, an object store, or a file system with visible unfinished files."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    fsspec.register_implementation("disk", Disk, clobber=True)
    return f"{'disk://' if request.param == 'disk' else ''}{tmp_path / 'place'}"


def test_pull_restores_pushed_bytes_and_transfers_only_missing_files(place: str, tmp_path: Path) -> None:
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


def test_pull_brings_the_pushed_source_identities(tmp_path: Path) -> None:
    push(make(tmp_path / "here"), tmp_path / "place", "first")
    pull(Store(tmp_path / "there"), tmp_path / "place", "first")
    assert Store(tmp_path / "there").digests.remembered_below("videos plain x") == "videos-abc"


def test_arrays_can_be_left_out_and_transferred_later(tmp_path: Path) -> None:
    here, there, place = make(tmp_path / "here"), Store(tmp_path / "there"), tmp_path / "place"
    assert push(here, place, "first", leave_out=("sample",)).n_files == 2
    pulled = pull(there, place, "first")
    assert [id.split("-")[0] for id in pulled.left_out] == ["sample"]
    assert list(every_part(there.root)) == [] and problems(there) == []
    assert push(here, place, "first").n_files == 3
    assert pull(there, place, "first", leave_out=("sample",)).n_files == 0
    assert list(every_part(there.root)) == [] and problems(there) == []
    assert pull(there, place, "first").n_files == 3
    assert content(there.root) == content(here.root)
    shutil.rmtree(there.root / "pool")  # which is damage now
    assert len(problems(there)) == 3


def test_a_push_from_a_store_without_arrays_removes_none(tmp_path: Path) -> None:
    here, there, place, other = make(tmp_path / "here"), Store(tmp_path / "there"), tmp_path / "a", tmp_path / "b"
    push(here, place)
    pull(there, place, leave_out=("sample",))
    assert push(there, place).n_files == 0
    assert push(there, other).n_files == 2
    push(here, other)
    for number, remote in enumerate((place, other)):
        pull(last := Store(tmp_path / f"last{number}"), remote)
        assert content(last.root) == content(here.root)


def test_two_concurrent_pushes_of_one_run_succeed(place: str, tmp_path: Path) -> None:
    here = make(tmp_path / "here")
    other = Store(Path(shutil.copytree(here.root, tmp_path / "other")))
    transfers = ((here, ()), (other, ("sample",)))
    pushes = [Push(store, Remote(place), ["first"], left_out, False) for store, left_out in transfers]
    threads = [threading.Thread(target=transfer.run) for transfer in pushes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    push(here, place, "first")  # the last push may have left the arrays out
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
    """Push or pull in a process that is killed at its n-th sync; return whether it was killed."""
    command = [sys.executable, "-c", KILLED, what, str(root), str(place), str(n_syncs)]
    status = subprocess.run(command, capture_output=True, text=True)
    assert status.returncode in (0, -9), status.stderr
    return status.returncode == -9


def test_a_killed_push_leaves_a_valid_remote_and_can_be_resumed(tmp_path: Path) -> None:
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


def test_a_killed_pull_leaves_a_valid_store_and_can_be_resumed(tmp_path: Path) -> None:
    here, place, there, n_killed = make(tmp_path / "here"), tmp_path / "place", Store(tmp_path / "there"), 0
    push(here, place)
    for n_syncs in (3, 11, 20, 8):
        n_killed += run_killed("pull", there.root, place, n_syncs)
        assert problems(there) == []
    assert n_killed >= 3
    pull(there, place)
    assert content(there.root) == content(here.root)
    assert not any((there.root / "partial").iterdir())


def test_a_changed_remote_file_is_named_and_not_published(place: str, tmp_path: Path) -> None:
    here, remote = make(tmp_path / "here"), Remote(place)
    push(here, place)
    for n_before, name in enumerate(sorted(remote.sizes("blobs"))[::4]):
        intact = remote.read(name)
        remote.write(name, intact[:-1] + bytes([intact[-1] ^ 1]))
        there = Store(tmp_path / f"there{n_before}")
        with pytest.raises(
            CorruptArtifactError, match=f"{name}: its bytes do not match the SHA-256 in its name; delete it"
        ):
            pull(there, place)
        assert problems(there) == []
        remote.write(name, intact[:-1])
        with pytest.raises(
            CorruptArtifactError, match=r"expected .* `sevila cache push` from a store that has it restores"
        ):
            pull(there, place)
        assert push(here, place).n_files == 1
        pull(there, place)
        assert content(there.root) == content(here.root)


def test_a_damaged_manifest_is_named_and_rewritten_by_the_next_push(tmp_path: Path) -> None:
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


def test_damaged_local_files_are_not_pushed(tmp_path: Path) -> None:
    for number, damaged in enumerate(("artifacts/*/words/text.txt", "pool/*/*/*/*.h5", "pool/*/*/*/*.json")):
        here = make(tmp_path / f"here{number}")
        path = next(iter(here.root.glob(damaged)))
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        with pytest.raises(CorruptArtifactError, match="--drop` removes only the damage"):
            push(here, tmp_path / f"place{number}")
        there = Store(tmp_path / f"there{number}")
        pull(there, tmp_path / f"place{number}")
        assert problems(there) == [] and "first" not in str(content(there.root).keys())


def test_other_content_under_the_same_id_is_refused_by_push_and_pull(tmp_path: Path) -> None:
    here, other, place = make(tmp_path / "here"), make(tmp_path / "other", value=2), tmp_path / "place"
    push(here, place)
    before = content(other.root), {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for move in (push, pull):
        with pytest.raises(StoreError, match=r"another content .* nothing is overwritten"):
            move(other, place)
    assert (content(other.root), {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}) == before


def test_a_name_of_another_run_is_refused_without_replace(tmp_path: Path) -> None:
    here, other, place = make(tmp_path / "here"), make(tmp_path / "other", 2), tmp_path / "place"
    push(here, place)
    for move in (push, pull):
        with pytest.raises(StoreError, match=r"the same recipe on other data; .* --replace"):
            move(other, place, "first")
    push(other, place, "first", replace=True)
    pull(here, place, "first", replace=True)
    assert named_run(here, "first") == named_run(other, "first")


def test_a_continued_run_updates_its_name(tmp_path: Path) -> None:
    here, there, place = make(tmp_path / "here"), Store(tmp_path / "there"), tmp_path / "place"
    push(here, place)
    pull(there, place)
    run = named_run(here, "first")
    with pinning(here, "first", run.recipe, run.settings, []) as pins:
        for pin in run.artifacts:
            pins.add(*pin)
        pins.add(next(id for id in make(here.root, name="second") if id not in str(run.artifacts)), "answer", "")
    for move, store in ((push, here), (pull, there)):
        move(store, place, "first")
    assert len(named_run(there, "first").artifacts) == 3
    push(there, place, "first")


def test_an_invalid_remote_raises_a_clear_error(tmp_path: Path) -> None:
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


def test_a_missing_or_forbidden_bucket_raises_a_clear_error(s3: str, tmp_path: Path) -> None:
    here = make(tmp_path / "here")
    push(here, f"{s3}/allowed")
    for move in (push, pull):
        with pytest.raises((MachineError, StoreError), match="s3://nobucket"):
            move(here, "s3://nobucket/place")
    authority = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    with_body = {"headers": {"Content-Type": "text/plain"}}
    # From here on the server requires valid credentials.
    urllib.request.urlopen(urllib.request.Request(authority, b"0", **with_body)).close()
    try:
        for move in (push, pull):
            with pytest.raises(MachineError, match=r"s3://bucket/allowed: .*; remove the cause"):
                move(here, f"{s3}/allowed")
    finally:
        urllib.request.urlopen(urllib.request.Request(authority, b"inf", **with_body)).close()
    assert pull(Store(tmp_path / "there"), f"{s3}/allowed").n_artifacts == 2


def test_links_are_neither_read_nor_written_through(tmp_path: Path) -> None:
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


def test_a_forged_manifest_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    here, place = make(tmp_path / "here"), tmp_path / "place"
    push(here, place)
    path = next(path for path in (place / "artifacts").iterdir() if path.name.startswith("sample"))
    manifest = {name: value for name, value in json.loads(path.read_bytes()).items() if name != "checksum"}
    record = json.loads(manifest["record"])
    outside = {**record, "files": {"../../../escaped": next(iter(record["files"].values()))}}
    for changed in (
        {"progress": {"../../escaped.json": "{}"}},
        {"progress": {"record.json": manifest["record"]}},
        {"parts": {"../..": next(iter(manifest["parts"].values()))}},
        {"parts": {"sample-v1-0/0/../../escaped": next(iter(manifest["parts"].values()))}},
        {"parts": dict(zip(reversed(manifest["parts"]), manifest["parts"].values(), strict=True))},
        {"record": json.dumps(outside)},
        {"record": json.dumps({**record, "id": "sample-v1-00000000000000000000"})},
        {"record": [1]},
        {"sources": {"videos plain x": "../escaped"}},
        {"sources": [1]},
    ):
        path.write_bytes(note_text({**manifest, **changed}))
        with pytest.raises(CorruptArtifactError):
            pull(Store(tmp_path / "there"), place)
    assert not list(tmp_path.rglob("*escaped*")) and not (tmp_path / "there" / "artifacts").exists()


def replace_by_link(path: Path, away: Path) -> None:
    """Move a file or folder to `away` and leave a link to it."""
    away.mkdir(exist_ok=True)
    shutil.move(path, away / path.name)
    path.symlink_to(away / path.name)


@pytest.mark.parametrize("what", ["artifact", "record", "array", "note", "progress", "space", "inside"])
def test_a_local_link_is_an_error_and_the_rest_is_pushed(tmp_path: Path, what: str) -> None:
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
    replace_by_link(path, tmp_path / "away")
    message = rf"not pushed: {id}: {path}: is a link to .*; all else was pushed, except the names of runs"
    with pytest.raises(StoreError, match=message if what != "space" else "is a link"):
        push(Store(here.root), place)
    pushed = {path.stem for path in (place / "artifacts").iterdir()}
    assert id not in pushed and len(pushed) == (2 if what == "space" else 3)
    assert [path.stem for path in (place / "names").glob("*")] == ([] if what == "space" else ["second"])


def test_an_artifact_without_a_record_is_reported_by_push(tmp_path: Path) -> None:
    here, place = make(tmp_path / "here"), tmp_path / "place"
    id = next(id for id in here if id.startswith("answer"))
    (here.path(id) / "record.json").unlink()
    (here.root / "artifacts" / "sample-v1-0123456789").mkdir()  # left by a killed removal: not an error
    with pytest.raises(
        StoreError, match=rf"not pushed.* {id}: .*: its record is gone; `sevila cache verify {id} --drop`"
    ):
        push(Store(here.root), place)
    assert [path.stem.split("-")[0] for path in (place / "artifacts").iterdir()] == ["sample"]


@pytest.mark.parametrize("names", [(), ("first",)])
def test_a_missing_input_is_listed_by_push_and_pull(tmp_path: Path, names: tuple[str, ...]) -> None:
    here, place = make(tmp_path / "here"), tmp_path / "place"
    frames = next(id for id in here if id.startswith("sample"))
    shutil.rmtree(here.path(frames))
    if not names:
        (here.root / "names" / "first.json").unlink()
    assert push(Store(here.root), place, *names).missing == [frames]
    assert pull(Store(tmp_path / "there"), place, *names).missing == [frames]


@pytest.mark.parametrize("what", ["manifest", "blob", "blobs", "name"])
def test_a_remote_link_is_an_error_and_the_rest_is_pulled(tmp_path: Path, what: str) -> None:
    here, place = make(tmp_path / "here"), tmp_path / "place"
    make(here.root, 2, "second")
    push(here, place)
    id = next(id for id in here if here.record(id).config == {"name": "first"})
    blob = next(path for path in blobs(place) if path.read_bytes().startswith(b"first 1"))
    path = {
        "manifest": place / "artifacts" / f"{id}.json",
        "blob": blob,
        "blobs": blob.parent,
        "name": place / "names" / "first.json",
    }[what]
    replace_by_link(path, tmp_path / "away")
    there = Store(tmp_path / "there")
    with pytest.raises(StoreError, match=rf"not pulled: .*{path}.*: is a link"):
        pull(there, place)
    assert len(list(there)) == (4 if what == "name" else 3)
    assert [path.stem for path in (there.root / "names").iterdir()] == ["second"]


@pytest.mark.parametrize("suffix", [".h5", ".json"])
def test_a_link_in_place_of_an_array_is_not_counted_as_pulled(tmp_path: Path, suffix: str) -> None:
    here, place, there = make(tmp_path / "here"), tmp_path / "place", tmp_path / "there"
    push(here, place)
    pull(Store(there), place, leave_out=("answer",))
    replace_by_link(max((there / "pool").rglob(f"*{suffix}")), tmp_path / "away")
    with pytest.raises(StoreError, match=r"not pulled: sample-.* is a link"):
        pull(Store(there), place)
