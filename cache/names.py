"""Named runs: a name pins every artifact that a run made or reused, so that housekeeping keeps them.

<root>/names/<name>.json     a note (see cache/notes.py), written at the start of the run, before each step, and at its end, so
                             that the artifacts of a killed run, unfinished ones included, are pinned, too
<root>/recent/<digits>.json  the same for a run without a name: a pin for some days, so that it can be resumed
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from cache.errors import CorruptArtifactError, StoreError, did_you_mean
from cache.files import refuse_link
from cache.fingerprint import fingerprint
from cache.notes import read_note, write_note
from cache.store import Store

NAMES, RECENT = "names", "recent"
PLAIN_ID = re.compile(r"[\w-]+")
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


class Pin(NamedTuple):
    """One artifact of a run; `setting` describes this use of its stage for people, empty if there is only one."""

    id: str
    stage: str
    setting: str


@dataclass(frozen=True)
class NamedRun:
    """A run with a name.

    Attributes:
        settings: the complete recipe, by section and key.
        artifacts: in the order of the run; those of earlier attempts that an unfinished run has not reached are last.
        status: running (also after a kill), finished or failed.
    """

    name: str
    recipe: str
    settings: dict[str, dict[str, Any]]
    seeds: list[int]
    started: str
    finished: str = ""
    status: str = "running"
    artifacts: list[Pin] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self) | {"artifacts": [pin._asdict() for pin in self.artifacts]}


def names(root: Path) -> list[str]:
    """Return the names of runs in a store's root."""
    return [path.stem for path in run_files(root, NAMES)]


def run_files(root: Path, folder: str) -> list[Path]:
    """Return the run files in `names` or `recent`; other files there, such as a desktop's, are skipped."""
    return sorted(path for path in (root / folder).glob("*.json") if NAME.fullmatch(path.stem))


def every_name(store: Store) -> list[str]:
    """Return the names of runs in a store and in those below it, each once."""
    return sorted({name for root in store.roots for name in names(root)})


def path_of(root: Path, name: str, folder: str = NAMES) -> Path:
    """Return the file of a name; raises `StoreError` if the name is invalid."""
    if not NAME.fullmatch(name):
        raise StoreError(
            f"{name!r} cannot name a run: expected up to 64 letters, digits and - _ . without a leading dot"
        )
    path = root / folder / f"{name}.json"
    refuse_link(path, root)
    return path


def named_run(store: Store, name: str) -> NamedRun:
    """Return the run of this name in the store or in one below it.

    Raises:
        StoreError: no run has this name.
        CorruptArtifactError: its file is damaged.
    """
    path = next((path for root in store.roots if (path := path_of(root, name)).exists()), None)
    if path is None:
        known = every_name(store)
        hint = did_you_mean(name, known)
        raise StoreError(f"no run is named {name!r} in {store.root}{hint}; names: {', '.join(known) or 'none'}")
    return read_named_run(path)


def read_named_run(path: Path) -> NamedRun:
    """Read a name's file; raises `CorruptArtifactError` if it is damaged."""
    way_out = f"`sevila runs rm {path.stem}` removes the name" if path.parent.name == NAMES else "delete it"
    try:
        content = read_note(path)
    except CorruptArtifactError as error:
        raise CorruptArtifactError(f"{error}; {way_out}") from error
    return run_of(content, path, way_out)


def run_of(content: dict[str, Any], path: Path | str, way_out: str) -> NamedRun:
    """Return the run in the content of a note, here or at a remote; raises `CorruptArtifactError`, ending with `way_out`."""
    try:
        run = NamedRun(**content | {"artifacts": [Pin(**pin) for pin in content["artifacts"]]})
        foreign = [pin.id for pin in run.artifacts if not PLAIN_ID.fullmatch(pin.id)]
    except (KeyError, TypeError) as error:
        raise CorruptArtifactError(
            f"{path}: holds {sorted(content)}, expected the fields of a run; {way_out}"
        ) from error
    if f"{run.name}.json" != Path(path).name:
        raise CorruptArtifactError(f"{path}: is the file of the name {run.name!r}; {way_out}")
    if foreign:
        raise CorruptArtifactError(f"{path}: {foreign[0]!r} is not an artifact id; {way_out}")
    return run


def every_run(store: Store) -> Iterator[tuple[NamedRun, bool]]:
    """Yield every readable run of a store and of those below it, and whether it has a name."""
    for path in [path for root in store.roots for folder in (NAMES, RECENT) for path in run_files(root, folder)]:
        with suppress(CorruptArtifactError):
            yield read_named_run(path), path.parent.name == NAMES


def known_uses(store: Store) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return, by artifact, the settings in which runs have used it, and the names of these runs."""
    settings: dict[str, set[str]] = {}
    runs: dict[str, set[str]] = {}
    for run, is_named in every_run(store):
        for pin in run.artifacts:
            settings.setdefault(pin.id, set()).update(filter(None, [pin.setting]))
            runs.setdefault(pin.id, set()).update([run.name] * is_named)
    return settings, runs


def remove_name(store: Store, name: str) -> None:
    """Remove a name; its artifacts stay until the next housekeeping."""
    path = path_of(store.root, name)
    with store.lock(f"{NAMES}/{name}"):
        if not path.exists():
            named_run(store, name)  # raises if no store has it
            raise StoreError(f"the run {name!r} is in a store below {store.root}, which is read-only")
        if path.is_dir() and not path.is_symlink():
            raise StoreError(f"{path}: is a folder, expected a run's file; remove it by hand")
        path.unlink()


class Pins:
    """Updates the file of a name during its run. Several processes may run under one name: each adds its artifacts."""

    def __init__(self, store: Store, run: NamedRun, folder: str) -> None:
        self._store = store
        self._run = run
        self._folder = folder
        self._own: dict[Pin, None] = {}
        self._adding = Lock()  # threads may run steps in parallel

    def add(self, id: str | None, stage: str, setting: str, of: str = "") -> None:
        """Pin an artifact before it is made or reused, as the last one; `of` prefixes its setting. No-op for an unknown id."""
        if id is not None:
            pin = Pin(id, stage, ": ".join(filter(None, (of, setting))))
            with self._adding:
                self._own = {other: None for other in self._own if other != pin} | {pin: None}
            self._write("running", keep_others=True)

    def begin(self, replace: bool) -> None:
        """Write the file at the start; earlier pins of the name stay unless `replace`.

        Raises:
            StoreError: the name belongs to a run of another recipe, unless `replace`.
        """
        self._write("running", keep_others=not replace, begins=True)

    def end(self, status: str) -> None:
        """Write the final status; a finished run drops earlier pins of its name that it has not used."""
        self._write(status, keep_others=status != "finished" or self._folder == RECENT)

    def _write(self, status: str, keep_others: bool, begins: bool = False) -> None:
        # Without a name, pins are optional: a run that only reuses artifacts on a read-only disk continues.
        with suppress(OSError) if self._folder == RECENT else nullcontext():
            self._write_note(status, keep_others, begins)

    def _earlier_pins(self, path: Path) -> list[Pin]:
        try:
            return read_named_run(path).artifacts
        except CorruptArtifactError:
            if self._folder == RECENT:
                return []
            raise

    def _write_note(self, status: str, keep_others: bool, begins: bool) -> None:
        path = path_of(self._store.root, self._run.name, self._folder)
        with self._store.lock(f"{self._folder}/{self._run.name}"):
            if begins and keep_others and self._folder == NAMES and path.exists():  # locked: two runs may begin at once
                self._refuse_another(read_named_run(path))
            others = self._earlier_pins(path) if keep_others and path.exists() else []
            artifacts = list(dict.fromkeys([*self._own, *others]))
            finished = "" if status == "running" else _now()
            run = replace(self._run, artifacts=artifacts, status=status, finished=finished)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_note(path, run.as_dict())

    def _refuse_another(self, before: NamedRun) -> None:
        changes = recipe_differences(before, self._run)
        if changes:
            raise StoreError(
                f"the name {before.name!r} belongs to another run: {'; '.join(changes)}; choose another name, or reassign "
                "this one with --replace"
            )


@contextmanager
def pinning(
    store: Store,
    name: str,
    recipe: str,
    settings: Mapping[str, dict[str, Any]],
    seeds: list[int],
    replace: bool = False,
) -> Iterator[Pins]:
    """Yield the pins of a run (for some days if `name` is empty), and write at the end whether the block succeeded.

    Raises:
        StoreError: the name is invalid, or belongs to a run of another recipe, unless `replace`.
    """
    folder = NAMES if name else RECENT
    name = name or fingerprint([recipe, dict(settings), seeds])
    pins = Pins(store, NamedRun(name, recipe, dict(settings), seeds, _now()), folder)
    pins.begin(replace)
    try:
        yield pins
    except BaseException:
        with suppress(OSError):  # a full disk: the run's own error matters more
            pins.end("failed")
        raise
    pins.end("finished")


def recipe_differences(a: NamedRun, b: NamedRun) -> list[str]:
    """Return one line per setting that differs, `section.key: A's value -> B's`."""
    lines = [f"recipe: {a.recipe} -> {b.recipe}"] if a.recipe != b.recipe else []
    if a.seeds != b.seeds:
        lines.append(f"seeds: {_seeds_text(a.seeds)} -> {_seeds_text(b.seeds)}")
    for section in [section for section in a.settings if section in b.settings]:  # a version may lack newer stages
        settings_a, settings_b = a.settings[section], b.settings[section]
        for key in dict.fromkeys([*settings_a, *settings_b]):
            if settings_a.get(key) != settings_b.get(key):
                lines.append(f"{section}.{key}: {settings_a.get(key)} -> {settings_b.get(key)}")
    return lines


def replaces_run(run: NamedRun, old: NamedRun, where: str) -> bool:
    """Return whether a run replaces an old one of its name at `where`, as a later state of the same run.

    Raises:
        StoreError: they are different runs.
    """
    changes = recipe_differences(old, run)
    before, now = ({pin.id for pin in state.artifacts} for state in (old, run))
    if changes or not (before <= now or now <= before):
        why = "; ".join(changes) or "the same recipe on other data"
        raise StoreError(
            f"{where}: the name {run.name!r} belongs to another run there: {why}; reassign it with --replace"
        )
    return before < now or (before == now and old.status != "finished" and run.status == "finished")


def _seeds_text(seeds: list[int]) -> str:
    return " ".join(map(str, seeds)) or "the recipe's"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
