"""Copying artifacts to a remote (cache/remote.py): the missing blobs first, then manifests and names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cache.errors import CorruptArtifactError, LinkError, StoreError, repair_hint
from cache.files import read_whole, refuse_link, refuse_links
from cache.fingerprint import file_digest
from cache.manifest import PROGRESS_FILE, Blob, Manifest, manifest_name, same_arrays, with_inputs
from cache.names import NAMES, NamedRun, every_name, named_run, run_of, takes_place
from cache.notes import NOTE_LIMIT_BYTES, note_of, note_text
from cache.pool import part_paths
from cache.pool_listing import references
from cache.pool_reader import holder
from cache.pulled import absent_parts
from cache.record import PROGRESS, RECORD, Record, artifact_id
from cache.remote import Remote
from cache.store import BESIDE_RECORD, Store
from cache.untrusted import is_artifact_id, path_inside

log = logging.getLogger("sevila")

MAX_REASONS = 3  # in one message
Item = TypeVar("Item")
Moved = Callable[[int], object]  # called with the size in bytes of each file that has arrived


class Transfer:
    """A transfer between a store and a remote.

    Attributes:
        n_artifacts: the number of requested artifacts; `new` are those that the target lacked.
        missing: artifacts of the runs that the origin lacks: not made yet, or removed.
        left_out: artifacts that are transferred without all their arrays.
        refused: the reason why an artifact, or a run's name, is not transferred, by its id or `names/<name>`.
    """

    def __init__(self, store: Store, remote: Remote) -> None:
        self._store, self._remote = store, remote
        self._there = remote.sizes("artifacts") | remote.sizes("blobs") | remote.sizes(NAMES)
        self.n_artifacts = self.n_files = self.n_bytes = 0
        self.new: list[str] = []
        self.missing: list[str] = []
        self.left_out: list[str] = []
        self.runs: list[NamedRun] = []
        self.refused: dict[str, str] = {}

    @contextmanager
    def refusing_links(self, item: str) -> Iterator[None]:
        """Skip an artifact, or a name, if the block raises `LinkError`, and keep the reason."""
        try:
            yield
        except LinkError as error:
            self.refused[item] = str(error)

    def named(self, names: Iterable[str], read: Callable[[str], NamedRun], is_requested: bool) -> list[NamedRun]:
        """Return the runs of names; names that are links are skipped, or raise `LinkError` if they are requested."""
        runs = []
        for name in names:
            with nullcontext() if is_requested else self.refusing_links(f"{NAMES}/{name}"):
                runs.append(read(name))
        return runs

    def read_run(self, file: str) -> NamedRun:
        """Return the run in a file of the remote; raises `CorruptArtifactError` if it is damaged."""
        where = f"{self._remote.address}/{file}"
        return run_of(note_of(self._remote.read(file), where), where, "push it again with --replace")

    def complete_runs(self) -> list[NamedRun]:
        """Return the runs of which no artifact was refused, so that their names are written."""
        return [run for run in self.runs if not any(pin.id in self.refused for pin in run.artifacts)]

    def end(self, moved: str) -> None:
        """Raise `StoreError` with the reasons if anything was refused."""
        reasons = [f"{item}: {why}" for item, why in self.refused.items()]
        if reasons:
            more = f"; and {len(reasons) - MAX_REASONS} more" if len(reasons) > MAX_REASONS else ""
            raise StoreError(
                f"not {moved}: {'; '.join(reasons[:MAX_REASONS])}{more}; all else was {moved}, except the names of runs that use "
                "these"
            )

    def plan(self, blobs: Iterable[Blob]) -> None:
        """Count files and bytes to transfer."""
        for blob in blobs:
            self.n_files, self.n_bytes = self.n_files + 1, self.n_bytes + blob.size_bytes


@dataclass(frozen=True)
class Outgoing:
    """One artifact to push: its manifest as the remote will have it, and the files that the remote lacks."""

    manifest: Manifest
    copies: dict[Blob, Path]
    is_written: bool  # whether the manifest is written


class Push(Transfer):
    """The transfer of artifacts of runs and everything upstream, or of everything in a store, to a remote."""

    def __init__(
        self, store: Store, remote: Remote, runs: Sequence[str], leave_out: Collection[str], is_replacing: bool
    ) -> None:
        """Determine what the remote lacks.

        Args:
            runs: names; if empty, all artifacts of the store, and all names.
            leave_out: stages whose arrays in the pool are not transferred.
            is_replacing: whether names replace those of other runs at the remote.

        Raises:
            StoreError: the remote has a different run or artifact under the same name or id.
            CorruptArtifactError: something in the store is damaged.
            LinkError: a requested name is a link.
        """
        remote.begin_writing()
        super().__init__(store, remote)
        requested = self.named(runs or every_name(store), lambda name: named_run(store, name), bool(runs))
        self.runs = [run for run in requested if self._is_written(run, is_replacing)]
        pinned = dict.fromkeys(pin.id for run in requested for pin in run.artifacts)
        every = [] if runs else [name for name in store.folders() if not store.is_remains(name)]
        ids = with_inputs(store, [*pinned, *every], self._is_here)
        self._outgoing = list(filter(None, (self._plan_artifact(id, leave_out) for id in ids)))
        self.n_artifacts = len(ids)

    def run(self, moved: Moved = lambda n_bytes: None) -> None:
        """Push; after a kill, all named files of the remote are complete.

        Raises:
            StoreError: artifacts were skipped because of links or lost records.
        """
        for outgoing in self._outgoing:
            with self.refusing_links(outgoing.manifest.record.id):
                self._send(outgoing, moved)
        for run in self.complete_runs():
            self._remote.write(f"{NAMES}/{run.name}.json", note_text(run.as_dict()))
        self.end("pushed")

    def _send(self, outgoing: Outgoing, moved: Moved) -> None:
        move_all(self._remote, lambda copy: self._put(*copy, moved), outgoing.copies.items())
        if outgoing.is_written:
            manifest = outgoing.manifest
            # Another process may have pushed it meanwhile, with more of its arrays.
            now = self._manifest_there(manifest.record.id)
            written = manifest if now is None else merged(now, manifest, self._remote.address)
            self._remote.write(manifest_name(manifest.record.id), written.as_bytes())

    def _is_here(self, id: str) -> bool:
        """Return whether an artifact can be pushed; if not, keep the reason."""
        if id in self.refused:
            return False
        folders = [root / "artifacts" / id for root in self._store.roots]
        with self.refusing_links(id):
            if self._store.exists(id):
                refuse_links(self._store.path(id))
                return True
            for folder in folders:
                refuse_link(folder)
            lost = next((folder for folder in folders for name in BESIDE_RECORD if (folder / name).exists()), None)
            if lost is not None:
                self.refused[id] = f"{lost}: its record is gone; {repair_hint(lost / RECORD)}"
            elif is_artifact_id(id) and id not in self.missing:
                self.missing.append(id)
        return False

    def _put(self, blob: Blob, file: Path, moved: Moved) -> None:
        try:
            is_intact = file_digest(file) == blob.sha256
        except FileNotFoundError:
            is_intact = False
        if not is_intact:
            raise CorruptArtifactError(f"{file}: its bytes do not match their checksum; {repair_hint(file)}")
        self._remote.put(blob.name, file)
        moved(blob.size_bytes)

    def _plan_artifact(self, id: str, leave_out: Collection[str]) -> Outgoing | None:
        own = None
        with self.refusing_links(id):
            own = manifest_of(self._store, id, leave_out)
        if own is None:
            return None
        remote_manifest = self._manifest_there(id) if manifest_name(id) in self._there else None
        both = own if remote_manifest is None else merged(remote_manifest, own, self._remote.address)
        folder, blobs = self._store.path(id), both.blobs()
        files = {blob: path_inside(folder, name) for name, blob in own.files()}
        files |= {blob: part_paths(holder(self._store, part), *part)[0] for part, blob in own.arrays()}
        copies = {
            blob: file
            for blob, file in files.items()
            if blob in blobs and self._there.get(blob.name) != blob.size_bytes
        }
        self._there |= {blob.name: blob.size_bytes for blob in copies}  # artifacts may share blobs
        self.plan(copies)
        self.new += [] if remote_manifest is not None else [id]
        self.left_out += [id] if own.record.pool and len(own.parts) < len(references(self._store, own.record)) else []
        return Outgoing(both, copies, remote_manifest is None or both != remote_manifest)

    def _manifest_there(self, id: str) -> Manifest | None:
        """Return the remote's manifest of an artifact; None if it is missing, or damaged and thus written again."""
        name = manifest_name(id)
        try:
            return Manifest.parse(id, self._remote.read(name), f"{self._remote.address}/{name}")
        except FileNotFoundError:
            return None
        except CorruptArtifactError as error:
            log.warning("%s; it is written again", error)
            return None

    def _is_written(self, run: NamedRun, is_replacing: bool) -> bool:
        name = f"{NAMES}/{run.name}.json"
        if is_replacing or name not in self._there:
            return True
        return takes_place(run, self.read_run(name), f"{self._remote.address}/{name}")


def manifest_of(store: Store, id: str, leave_out: Collection[str]) -> Manifest:
    """Return the manifest of an artifact, without arrays if its stage is in `leave_out`.

    Raises:
        CorruptArtifactError: its record or a note is damaged, or a part of the pool is gone.
        LinkError: a part of the pool is a link.
    """
    folder = store.path(id)
    text = read_whole(folder / RECORD, NOTE_LIMIT_BYTES)
    record = Record.parse(text, folder / RECORD)
    own_id = artifact_id(record.stage, record.version, record.config, record.inputs)
    if own_id != id:  # a pull would refuse it
        hint = repair_hint(folder / RECORD)
        raise CorruptArtifactError(f"{folder / RECORD}: its stage, config and inputs have the id {own_id}; {hint}")
    progress = {
        path.name: _note_text(path) for path in (folder / PROGRESS).glob("*.json") if PROGRESS_FILE.fullmatch(path.name)
    }
    parts = references(store, record) if record.stage not in leave_out else set()
    parts -= absent_parts(store, record, parts)
    for path in [path for part in parts for path in part_paths(holder(store, part), *part)]:
        refuse_link(path)
    notes = {part: _note_text(part_paths(holder(store, part), *part)[1]) for part in sorted(parts)}
    inputs = {input for input in record.inputs.values() if input is not None}
    sources = {name: id for name, id in store.digests.remembered_sources().items() if id in inputs}
    return Manifest(record, text.decode(), progress, notes, sources)


def _note_text(path: Path) -> str:
    try:
        content = read_whole(path, NOTE_LIMIT_BYTES)
        note_of(content, str(path))
        return content.decode()
    except (CorruptArtifactError, FileNotFoundError, UnicodeDecodeError) as error:
        raise CorruptArtifactError(f"{path}: gone or damaged; {repair_hint(path)}") from error


def merged(first: Manifest, second: Manifest, where: str) -> Manifest:
    """Return the first of two manifests of one artifact, with the parts and sources that only the second has.

    Raises:
        StoreError: their contents differ.
    """
    id = first.record.id
    shared = [part for part in second.parts if part in first.parts]
    differing = next((part for part in shared if not same_arrays(second.parts[part], first.parts[part])), None)
    if first.record.content != second.record.content or differing:
        item = f"the array {'/'.join(differing)} of {id}" if differing else id
        raise conflict(where, item, "this store", "use another remote")
    return replace(first, parts={**second.parts, **first.parts}, sources={**second.sources, **first.sources})


def conflict(where: str, item: str, other: str, way_out: str) -> StoreError:
    """Return the error for an artifact or array whose contents at two places differ."""
    return StoreError(
        f"{where}: has {item} with another content than {other}, and nothing is overwritten: it was made twice, with different "
        f"numbers (another GPU or number of threads); {way_out}"
    )


def move_all(remote: Remote, move: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call `move` for all items, in as many threads as the remote supports; on the first error, start no more and raise it."""
    with ThreadPoolExecutor(remote.threads) as threads:
        futures = [threads.submit(move, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
