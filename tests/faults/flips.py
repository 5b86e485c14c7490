"""One flipped bit in a finished or unfinished store is detected, never read as other values, and repaired."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from cache.errors import SevilaError
from cache.store import Store
from stages.all import STAGES
from tests.faults.judging import Stamp, contents, finished
from tests.faults.victims import KILLED, command, fork, output_tail
from tests.faults.world import Trial

NAME = "names"
MEMORIES = ("digests.json", "recent")  # damage is reported and dropped; runs fill them again


def finished_store(trial: Trial) -> None:
    """Flip a bit in a finished store: verify names the file, readers refuse it or are unaffected, drop and run restore it."""
    while not trial.is_done:
        shutil.copytree(trial.world.reference, trial.store)
        before, files = _readings(trial), by_type(trial.store)
        kind = trial.rng.choice(sorted(files))
        path = trial.rng.choice(files[kind])
        content, others = path.read_bytes(), finished(trial.store)
        text = flip(trial, path)
        trial.tally.tried += 1
        trial.tally.where[kind] += 1
        _check_readers(trial, text, before)
        status = _verify(trial)
        named = path.with_suffix(".h5") if kind.startswith("pool") else path  # reported by the array's path
        if (not status and kind not in MEMORIES) or str(named) not in output_tail(trial.beside, 10**6):
            if _same_meaning(path, content):
                trial.tally.where["in text of the same meaning"] += 1
            else:
                trial.fail("wrong", f"{text}: not found by verify, which ended with {status}")
        _check_rebuilt(trial, text, kind, path, content, others)
        trial.reset()


def work_in_progress(trial: Trial) -> None:
    """Kill a run, flip a bit in its unfinished data and resume: the content must match, if necessary after a drop."""
    while not trial.is_done:
        victim = trial.start()
        status = victim.wait(trial.rng.uniform(0, trial.world.seconds))
        status = victim.kill() if status is None else status
        files = by_type(trial.store, "partial", "pool")
        if status == KILLED and files:
            kind = trial.rng.choice(sorted(files))
            text = flip(trial, trial.rng.choice(files[kind]))
            trial.tally.tried += 1
            trial.tally.where[kind] += 1
            status = trial.start().finish()
            if status or contents(trial.store) != trial.world.contents:
                verify_status, output = _verify(trial), output_tail(trial.beside, 2000)
                if not status and not verify_status:
                    trial.fail("wrong", f"{text}: other bytes, and verify finds nothing: {output}")
                _verify(trial, "--drop")
                status = trial.start().finish()
                if status or contents(trial.store) != trial.world.contents:
                    trial.fail("lost", f"{text}: not repaired (status {status}): {output_tail(trial.beside, 1000)}")
        trial.reset()


def by_type(store: Path, *folders: str) -> dict[str, list[Path]]:
    """Return the non-empty files of a store, or of some of its folders, by type; lock files are left out."""
    files: dict[str, list[Path]] = {}
    for path in sorted(path for path in store.rglob("*") if path.is_file() and path.stat().st_size):
        place = path.relative_to(store).parts
        if place[0] in folders or (not folders and place[0] != "locks"):
            kind = place[0] if place[0] in ("recent", NAME) else path.suffix.removeprefix(".")
            if place[0] == "pool":
                kind = f"pool {kind}"
            elif "snapshots" in place:
                kind = "state of a training" if path.suffix == ".state" else "note of a state"
            elif "progress" in place:
                kind = "note of a shard" if path.stem.isdecimal() else f"progress/{path.name}"
            elif kind == "json":
                kind = path.name
            files.setdefault(kind, []).append(path)
    return files


def flip(trial: Trial, path: Path) -> str:
    """Flip one random bit and return its description."""
    content = bytearray(path.read_bytes())
    place, bit = trial.rng.randrange(len(content)), trial.rng.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place} of {path.relative_to(trial.store)}"


def _same_meaning(path: Path, content: bytes) -> bool:
    try:
        return path.suffix == ".json" and json.loads(path.read_bytes()) == json.loads(content)
    except ValueError:
        return False


def _verify(trial: Trial, *more: str) -> int:
    """Run `sevila cache verify --all` and return its exit status."""
    options = ["cache", "verify", "--all", *more, "--store", str(trial.store)]
    return fork(command(options), trial.store, trial.beside).finish()


def _check_rebuilt(trial: Trial, text: str, kind: str, path: Path, content: bytes, others: dict[str, Stamp]) -> None:
    """Drop the damage and run again: the old bytes return, nothing else is rebuilt, and verify finds nothing."""
    dropped, output = _verify(trial, "--drop"), output_tail(trial.beside, 1500)
    status = trial.start(more=("--replace",) if kind == NAME else ()).finish()  # only a run restores its name
    if kind in MEMORIES:
        return
    if status or contents(trial.store) != trial.world.contents:
        trial.fail("lost", f"{text}: not rebuilt after a drop that ended with {dropped}, status {status}: {output}")
        return
    touched = {name for name, stamp in finished(trial.store).items() if others.get(name, stamp) != stamp}
    place = path.relative_to(trial.store).parts
    own = [f"{place[1]}/"]  # the artifact
    if place[0] == "pool":  # the video's parts, and the artifacts of its stage, which point to them
        own = ["/".join(place[:-1]), place[1].rsplit("-", 1)[0]]
    others_touched = sorted(name for name in touched if not name.startswith(tuple(own)))
    if others_touched:
        trial.fail("twice", f"{text}: {others_touched[:3]} were rebuilt, too")
    if _verify(trial):
        trial.fail("lost", f"{text}: verify finds more after the run: {output_tail(trial.beside, 1000)}")


def _check_readers(trial: Trial, text: str, before: dict[str, str]) -> None:
    after = _readings(trial)
    for name, value in before.items():
        id = name.split("/")[0]
        refusals = [after.get(key, "") for key in (name, id, f"{id}/videos")]  # its own, or of its record or table
        if after.get(name) != value and not any(each.startswith("refused: ") for each in refusals):
            trial.fail("wrong", f"{text}: {name} is read as another value: {refusals[0][:300] or 'nothing'}")
            return


def _readings(trial: Trial) -> dict[str, str]:
    """Return a digest, or the error message, of everything that the product's readers read from the store."""
    result = trial.folder / "readings.json"

    def work() -> None:
        result.write_text(json.dumps(readings(Store(trial.store))))

    status = fork(work, trial.store, trial.beside).finish()
    if status:
        trial.fail("wrong", f"a reader crashed with {status}: {output_tail(trial.beside, 1000)}")
    return json.loads(result.read_text()) if not status else {}


def readings(store: Store) -> dict[str, str]:
    """Read every table, array and file of every artifact; see `_readings`."""
    digests: dict[str, str] = {}

    def note(name: str, read: Callable[[], bytes]) -> None:
        try:
            digests[name] = hashlib.sha256(read()).hexdigest()
        except SevilaError as error:
            digests[name] = f"refused: {error}"
        except Exception as error:  # not a SevilaError: the user would see a traceback
            digests[name] = f"crashed: {type(error).__name__}: {error}"

    for id in store:
        artifact = STAGES[id.rsplit("-v", 1)[0]].output(store, id)
        note(id, lambda artifact=artifact: repr(artifact.record).encode())
        if digests[id].startswith("refused"):
            continue
        for table in artifact.tables:
            note(f"{id}/{table}", lambda artifact=artifact, table=table: repr(artifact.rows(table)).encode())
        for name in artifact.record.files:
            if not name.endswith(".parquet"):
                note(f"{id}/{name}", lambda artifact=artifact, name=name: artifact.checked_file(name).read_bytes())
        if artifact.record.pool and not digests[f"{id}/videos"].startswith("refused"):
            for video in artifact.rows("videos"):
                if video["status"] == "ok":
                    name = f"{id}/{video['video_id']}"
                    note(name, lambda artifact=artifact, video=video: _frames(artifact, video["video_id"]))
    return digests


def _frames(artifact: object, video_id: str) -> bytes:
    return artifact.open().read(video_id, slice(None)).tobytes()  # type: ignore[attr-defined]
