"""Compares a store with that of an undisturbed run: nothing may be lost, wrong, left over or built twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import SevilaError
from cache.store import Store
from stages.all import STAGES
from tests.faults.victims import publications

Stamp = tuple[int, int, int]


@dataclass
class Tally:
    """Outcomes of the faults of one kind.

    Attributes:
        tried: faults that struck; `survived`: those in series after which nothing was wrong.
        lost: trials whose content was not restored by running the same command.
        wrong: trials that ended with other bytes, an unclear error or files left over.
        twice: finished pieces (artifacts, shards, parts of the pool) that were built again.
        messages: descriptions of the failures, each with the trial that reproduces it.
        where: number of faults by stage or kind of file.
    """

    tried: int = 0
    survived: int = 0
    lost: int = 0
    wrong: int = 0
    twice: int = 0
    messages: list[str] = field(default_factory=list)
    where: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add another tally of the same kind."""
        for name in ("tried", "survived", "lost", "wrong", "twice"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.messages += other.messages
        self.where += other.where

    @property
    def n_failures(self) -> int:
        """The number of failures."""
        return self.lost + self.wrong + self.twice

    def fail(self, what: str, message: str) -> None:
        """Count one failure: `lost`, `wrong` or `twice`."""
        setattr(self, what, getattr(self, what) + 1)
        self.messages.append(f"{what}: {message}")


def contents(store: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of every artifact and of the pool, without tables of measured seconds.

    Of a pool part's note only the description of its file counts: the note may also hold a time.
    """
    digests = {}
    for id in Store(store):
        try:
            record = Store(store).record(id)
        except SevilaError:
            digests[id] = "damaged"
            continue
        measured = STAGES[record.stage].output.measured
        for name, file in record.files.items():
            digest = _digest(store / "artifacts" / id / name)
            if name.split(".")[0].split("/")[0] not in measured:
                digests[f"{id}/{name}"] = digest
            elif digest != file["sha256"]:
                digests[f"{id}/{name}"] = "not what its record says"
    for path in _files(store / "pool"):
        is_note = path.suffix == ".json"
        digests[str(path.relative_to(store))] = _described(path) if is_note else _digest(path)
    return digests


def finished(store: Path) -> dict[str, Stamp]:
    """Return inode, time and size of every finished file: of artifacts, of shards with a note, and of the pool."""
    stamps = {}
    for folder in _folders(store / "artifacts"):
        if (folder / "record.json").exists():
            for path in _files(folder):
                stamps[f"{folder.name}/{path.relative_to(folder)}"] = _stamp(path)
    for folder in _folders(store / "partial"):
        for note in (folder / "progress").glob("*.json"):
            if note.stem.isdecimal():
                names = [f"progress/{note.name}", *json.loads(note.read_text())["files"]]
                stamps |= {f"{folder.name}/{name}": _stamp(folder / name) for name in names}
    for note in (path for path in _files(store / "pool") if path.suffix == ".json"):
        for path in (note, note.with_suffix(".h5")):
            stamps[str(path.relative_to(store))] = _stamp(path)
    return {name: stamp for name, stamp in stamps.items() if "/snapshots/" not in name}


def stage_in_progress(store: Path) -> str:
    """Return the stage of the unpublished artifact that was changed last."""
    folders = sorted(
        _folders(store / "partial"), key=lambda folder: max(_stamp(path)[1] for path in [folder, *_files(folder)])
    )
    return folders[-1].name.rsplit("-v", 1)[0] if folders else "between stages"


def judge(
    tally: Tally,
    store: Path,
    expected: dict[str, str],
    seen: Iterable[dict[str, Stamp]],
    trial: str,
    beside: Path,
    other_inputs: bool = False,
) -> None:
    """Compare a store at the end of a trial with the contents of an undisturbed one and count the differences.

    Args:
        seen: finished files at earlier moments; they must be unchanged.
        beside: path beside which the processes noted their publications.
        other_inputs: whether unfinished artifacts of temporarily present inputs are allowed; `cache gc` removes them.
    """
    stored = contents(store)
    for name in sorted(expected.keys() - stored.keys())[:3]:
        tally.fail("lost", f"{trial}: {name}")
    for name in sorted(name for name in stored if name in expected and stored[name] != expected[name])[:3]:
        tally.fail("wrong", f"{trial}: {name} has other bytes")
    for name in sorted(stored.keys() - expected.keys())[:3]:
        tally.fail("wrong", f"{trial}: {name} is in no uninterrupted run")
    ids = {name.split("/")[0] for name in expected}
    left = [name for name in left_over(store) if not (other_inputs and _is_of_other(name, ids))]
    for name in left[:3]:
        tally.fail("wrong", f"{trial}: {name} is left over")
    now, twice = finished(store), Counter(publications(beside))
    again = {name for before in seen for name, stamp in before.items() if now.get(name) != stamp}
    again |= {name for name, count in twice.items() if count > 1}
    for name in sorted(again)[:3]:
        tally.fail("twice", f"{trial}: {name}")


def left_over(store: Path) -> list[str]:
    """Return files that a finished run must not leave: half-written files, training states, partial and set-aside folders.

    Half-written notes of runs and digests are removed by `sevila cache gc`: another process may still be writing them.
    """
    places = [path for folder in ("artifacts", "pool") for path in (store / folder).rglob("*")]
    left = [path for path in places if path.suffix == ".part" or path.name == "snapshots"]
    left += [*_folders(store / "partial"), *_folders(store / "aside")]
    return sorted(str(path.relative_to(store)) for path in left)


def _is_of_other(name: str, ids: Collection[str]) -> bool:
    folder, id = name.split("/")[:2]
    return folder == "partial" and id not in ids


def _described(note: Path) -> str:
    try:
        return json.dumps(json.loads(note.read_text(encoding="utf-8"))["file"], sort_keys=True)
    except (ValueError, LookupError):
        return "damaged"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
