"""What is in a store, as bytes and as files, and what must not happen to it: things lost, wrong, left over or built twice."""

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
    """What became of the faults of one kind.

    Attributes:
        tried: faults that really happened; `survived`: those after which, and after whose like in a row, nothing was amiss.
        lost: of the trials, those whose content could not be had again with the same command.
        wrong: those that ended with other bytes, an answer that is not one, or something left over.
        twice: finished pieces (artifacts, shards, parts of the pool) that were built again.
        told: what went wrong, with the trial that makes it happen again.
        where: faults by where they fell.
    """

    tried: int = 0
    survived: int = 0
    lost: int = 0
    wrong: int = 0
    twice: int = 0
    told: list[str] = field(default_factory=list)
    where: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Count another tally of the same kind in."""
        for name in ("tried", "survived", "lost", "wrong", "twice"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.told += other.told
        self.where += other.where

    @property
    def n_failures(self) -> int:
        """How many things were amiss."""
        return self.lost + self.wrong + self.twice

    def fail(self, what: str, told: str) -> None:
        """Count one thing that is `lost`, `wrong` or built `twice`."""
        setattr(self, what, getattr(self, what) + 1)
        self.told.append(f"{what}: {told}")


def contents(store: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of every artifact and of the pool, as they lie on the disk; measured tables left out.

    Of a part of the pool its note counts by the file it describes: it may also say when it was made.
    """
    found = {}
    for id in Store(store):
        try:
            record = Store(store).record(id)
        except SevilaError:
            found[id] = "damaged"
            continue
        measured = STAGES[record.stage].output.measured
        for name, file in record.files.items():
            digest = _digest(store / "artifacts" / id / name)
            if name.split(".")[0].split("/")[0] not in measured:
                found[f"{id}/{name}"] = digest
            elif digest != file["sha256"]:
                found[f"{id}/{name}"] = "not what its record says"
    for path in _files(store / "pool"):
        is_note = path.suffix == ".json"
        found[str(path.relative_to(store))] = _described(path) if is_note else _digest(path)
    return found


def finished(store: Path) -> dict[str, Stamp]:
    """Return inode, time and size of every file that is finished: of artifacts, of shards that have a note, of the pool."""
    found = {}
    for folder in _folders(store / "artifacts"):
        if (folder / "record.json").exists():
            for path in _files(folder):
                found[f"{folder.name}/{path.relative_to(folder)}"] = _stamp(path)
    for folder in _folders(store / "partial"):
        for note in (folder / "progress").glob("*.json"):
            if note.stem.isdecimal():
                names = [f"progress/{note.name}", *json.loads(note.read_text())["files"]]
                found |= {f"{folder.name}/{name}": _stamp(folder / name) for name in names}
    for note in (path for path in _files(store / "pool") if path.suffix == ".json"):
        for path in (note, note.with_suffix(".h5")):
            found[str(path.relative_to(store))] = _stamp(path)
    return {name: stamp for name, stamp in found.items() if "/snapshots/" not in name}


def being_made(store: Path) -> str:
    """Return the stage whose artifact was last worked at and is not published."""
    folders = sorted(
        _folders(store / "partial"), key=lambda folder: max(_stamp(path)[1] for path in [folder, *_files(folder)])
    )
    return folders[-1].name.rsplit("-v", 1)[0] if folders else "between stages"


def judge(
    tally: Tally,
    store: Path,
    wanted: dict[str, str],
    seen: Iterable[dict[str, Stamp]],
    trial: str,
    beside: Path | None = None,
    other_inputs: bool = False,
) -> None:
    """Count what is amiss in a store at the end of a trial, against the contents of one that nothing happened to.

    Args:
        seen: what was finished at moments before; it must still be the same files.
        beside: its processes have noted beside this path what they published.
        other_inputs: whether a run may have begun artifacts of inputs that lay there for a moment: `cache gc` removes these.
    """
    found = contents(store)
    for name in sorted(wanted.keys() - found.keys())[:3]:
        tally.fail("lost", f"{trial}: {name}")
    for name in sorted(name for name in found if name in wanted and found[name] != wanted[name])[:3]:
        tally.fail("wrong", f"{trial}: {name} has other bytes")
    for name in sorted(found.keys() - wanted.keys())[:3]:
        tally.fail("wrong", f"{trial}: {name} is in no uninterrupted run")
    ids = {name.split("/")[0] for name in wanted}
    left = [name for name in left_over(store) if not (other_inputs and _is_of_other(name, ids))]
    for name in left[:3]:
        tally.fail("wrong", f"{trial}: {name} is left over")
    now, twice = finished(store), Counter(publications(beside))
    again = {name for before in seen for name, stamp in before.items() if now.get(name) != stamp}
    again |= {name for name, count in twice.items() if count > 1}
    for name in sorted(again)[:3]:
        tally.fail("twice", f"{trial}: {name}")


def left_over(store: Path) -> list[str]:
    """Return what a finished run must not leave: half-written files, training states, work in progress or set aside.

    Half-written notes of runs and digests are left to `sevila cache gc`: who writes them cannot know that nobody else does.
    """
    places = [path for room in ("artifacts", "pool") for path in (store / room).rglob("*")]
    found = [path for path in places if path.suffix == ".part" or path.name == "snapshots"]
    found += [*_folders(store / "partial"), *_folders(store / "aside")]
    return sorted(str(path.relative_to(store)) for path in found)


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
