"""Copying artifacts from a remote (cache/remote.py), each byte checked on arrival; existing files are not transferred.

As always in a store, a part's note and an artifact's record are written last, and a name after all its artifacts.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from cache.errors import CorruptArtifactError, LinkError, StoreError, did_you_mean
from cache.files import published, read_whole, refuse_link, refuse_links, sync, write_atomically
from cache.fingerprint import file_digest
from cache.manifest import Blob, Manifest, manifest_name, same_arrays
from cache.names import NAME, NAMES, NamedRun, path_of, read_named_run, takes_place
from cache.notes import NOTE_LIMIT_BYTES, write_note
from cache.pool import part_paths
from cache.pool_listing import PartId, references
from cache.pool_reader import is_there
from cache.pulled import note_pulled
from cache.push import Moved, Transfer, conflict, move_all
from cache.record import PROGRESS, RECORD
from cache.remote import NO_FILE, Remote
from cache.store import Store
from cache.untrusted import is_artifact_id, path_inside

log = logging.getLogger("sevila")


@dataclass(frozen=True)
class Incoming:
    """One artifact to pull: its manifest without excluded parts, the missing parts, and whether the artifact is missing."""

    manifest: Manifest
    parts: dict[PartId, Blob]
    is_new: bool


class Pull(Transfer):
    """The transfer of artifacts of runs and everything upstream, or of everything at a remote, to a store."""

    def __init__(
        self, store: Store, remote: Remote, runs: Sequence[str], leave_out: Collection[str], is_replacing: bool
    ) -> None:
        """Determine what the store lacks; arguments as for `Push`.

        Raises:
            StoreError: the remote has no such run, or the store has a different run or artifact under the same name or id.
            CorruptArtifactError: something at the remote is damaged.
        """
        remote.begin_reading()
        super().__init__(store, remote)
        requested = self.named(runs or self._names(), self._run_of_remote, bool(runs))
        self.runs = [run for run in requested if self._is_written(run, is_replacing)]
        pinned = list(dict.fromkeys(pin.id for run in requested for pin in run.artifacts))
        self.missing = [id for id in pinned if manifest_name(id) not in self._there]
        every = [Path(name).stem for name in self._there if name.startswith("artifacts/") and name.endswith(".json")]
        manifests = self._manifests(pinned if runs else every)
        self._incoming = []
        for manifest in manifests:
            with self.refusing_links(manifest.record.id):
                self._incoming.append(self._plan_artifact(manifest.without(leave_out)))
        self.n_artifacts = len(manifests)

    def run(self, moved: Moved = lambda n_bytes: None) -> None:
        """Pull; a kill leaves the store consistent, and the next pull resumes from there. Raises like `Push.run`."""
        for incoming in self._incoming:
            id = incoming.manifest.record.id
            with self.refusing_links(id), self._store.lock(f"{id}/pull"):
                self._bring(incoming, moved)
        for run in self.complete_runs():
            path = path_of(self._store.root, run.name)
            with self._store.lock(f"{NAMES}/{run.name}"):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_note(path, run.as_dict())
        self.end("pulled")

    def _names(self) -> list[str]:
        names = [Path(name).stem for name in self._there if name.startswith(f"{NAMES}/") and name.endswith(".json")]
        return [name for name in sorted(names) if NAME.fullmatch(name)]

    def _run_of_remote(self, name: str) -> NamedRun:
        file = path_of(Path(NAMES).parent, name).as_posix()
        if file not in self._there:
            known = self._names()
            hint = did_you_mean(name, known)
            raise StoreError(
                f"{self._remote.address}: has no run {name!r}{hint}; runs there: {', '.join(known) or 'none'}"
            )
        return self.read_run(file)

    def _is_written(self, run: NamedRun, is_replacing: bool) -> bool:
        path = path_of(self._store.root, run.name)
        return is_replacing or not path.exists() or takes_place(run, read_named_run(path), str(path))

    def _manifests(self, ids: Sequence[str]) -> list[Manifest]:
        """Return the manifests of artifacts and of everything upstream, inputs first."""
        manifests: dict[str, Manifest] = {}
        waiting = [id for id in ids if manifest_name(id) in self._there]
        with ThreadPoolExecutor(self._remote.threads) as threads:
            while waiting:
                read = zip(waiting, threads.map(self._manifest, waiting), strict=True)
                manifests |= {id: manifest for id, manifest in read if manifest is not None}
                inputs = {id for manifest in manifests.values() for id in manifest.record.inputs.values() if id}
                waiting = sorted(inputs - manifests.keys() - self.refused.keys() - {*self.missing})
                self.missing += [id for id in waiting if manifest_name(id) not in self._there and is_artifact_id(id)]
                waiting = [id for id in waiting if manifest_name(id) in self._there]
        made_from = {id: manifests.keys() & manifest.record.inputs.values() for id, manifest in manifests.items()}
        return [manifests[id] for id in TopologicalSorter(made_from).static_order()]

    def _manifest(self, id: str) -> Manifest | None:
        """Return an artifact's manifest; None if there is a link instead."""
        name = manifest_name(id)
        where = f"{self._remote.address}/{name}"
        try:
            with self.refusing_links(id):
                return Manifest.parse(id, self._remote.read(name), where)
            return None
        except CorruptArtifactError as error:
            raise CorruptArtifactError(
                f"{error}; `sevila cache push` from a store that has the artifact writes it again"
            ) from error

    def _plan_artifact(self, manifest: Manifest) -> Incoming:
        record, store = manifest.record, self._store
        refuse_link(store.own(record.id))
        is_new = not store.exists(record.id)
        if not is_new and store.record(record.id).content != record.content:
            raise self._conflict(record.id)
        parts = {part: blob for part, blob in manifest.arrays() if not self._has(part, manifest.parts[part], blob)}
        blobs = {*parts.values(), *(blob for _, blob in manifest.files() if is_new)}
        for blob in blobs:
            self._check_there(blob)
        self.plan(blobs)
        self.new += [record.id] if is_new else []
        return Incoming(manifest, parts, is_new)

    def _conflict(self, item: str) -> StoreError:
        way_out = "use another store, `--store FOLDER`"
        return conflict(str(self._store.root), item, self._remote.address, way_out)

    def _has(self, part: PartId, text: str, blob: Blob) -> bool:
        """Return whether the pool has a part, with the same array; one whose note or size is damaged counts as missing."""
        for root in self._store.roots:
            path, note = part_paths(root, *part)
            refuse_link(path)
            refuse_link(note)
            try:
                own = read_whole(note, NOTE_LIMIT_BYTES).decode()
                is_same, is_complete = same_arrays(own, text), path.stat().st_size == blob.size_bytes
            except (CorruptArtifactError, FileNotFoundError, UnicodeDecodeError):
                continue
            if not is_same:
                raise self._conflict(f"the array {'/'.join(part)}")
            if is_complete:
                return True
        return False

    def _check_there(self, blob: Blob) -> None:
        size_bytes = self._there.get(blob.name, self._there.get(blob.name.rpartition("/")[0]))
        if size_bytes == NO_FILE:
            raise LinkError(
                f"{self._remote.address}/{blob.name}: is a link, or in a linked folder; delete the link, and push again from a "
                "store that has the file"
            )
        if size_bytes != blob.size_bytes:
            difference = "is gone" if size_bytes is None else f"has {size_bytes} bytes, expected {blob.size_bytes}"
            raise CorruptArtifactError(
                f"{self._remote.address}/{blob.name}: {difference}; `sevila cache push` from a store that has it restores it"
            )

    def _bring(self, incoming: Incoming, moved: Moved) -> None:
        manifest, record = incoming.manifest, incoming.manifest.record
        move_all(self._remote, lambda part: self._bring_part(*part, manifest, moved), incoming.parts.items())
        folder = self._store.path(record.id)
        if incoming.is_new:
            folder = self._store.partial(f"{record.id}.pulled")
            refuse_links(folder)
            files = dict(manifest.files())
            move_all(self._remote, lambda name: self._bring_file(folder, name, files[name], moved), files)
        lacking = {part for part in references(self._store, record, folder) if not is_there(self._store, part)}
        self.left_out += [record.id] if lacking else []
        note_pulled(self._store, manifest.sources, [record.id] if lacking else [], [] if lacking else [record.id])
        if incoming.is_new:
            self._publish(folder, manifest)

    def _bring_part(self, part: PartId, blob: Blob, manifest: Manifest, moved: Moved) -> None:
        path, note = part_paths(self._store.root, *part)
        with self._store.lock(f"pool/{part[0]}/{part[1]}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left_over in path.parent.glob("*.part"):  # of a killed pull
                left_over.unlink()
            self._fetch(blob, path)
            write_atomically(note, manifest.parts[part].encode())
        for folder in note.parents[1:4]:  # they may be new
            sync(folder)
        moved(blob.size_bytes)

    def _bring_file(self, folder: Path, name: str, blob: Blob, moved: Moved) -> None:
        path = path_inside(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (path.is_file() and file_digest(path) == blob.sha256):  # else it is from a killed pull
            self._fetch(blob, path)
        moved(blob.size_bytes)

    def _fetch(self, blob: Blob, path: Path) -> None:
        """Copy a blob to a path, atomically, after verifying its bytes."""
        with published(path) as part:
            self._remote.get(blob.name, part)
            if part.stat().st_size != blob.size_bytes or file_digest(part) != blob.sha256:
                raise CorruptArtifactError(
                    f"{self._remote.address}/{blob.name}: its bytes do not match the SHA-256 in its name; delete it there, and "
                    "push again from a store that has the artifact"
                )

    def _publish(self, folder: Path, manifest: Manifest) -> None:
        """Write the record last and move the artifact into place, unless another process has made or pulled it meanwhile."""
        id = manifest.record.id
        progress = {f"{PROGRESS}/{name}": text for name, text in manifest.progress.items()}
        for name, text in progress.items():
            (folder / PROGRESS).mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, text.encode())
        own_files = {*manifest.record.files, *progress}
        for path in [path for path in folder.rglob("*") if not path.is_dir()]:
            if path.relative_to(folder).as_posix() not in own_files:  # of an earlier pull, perhaps from another remote
                path.unlink()
        for subfolder in [path for path in folder.rglob("*") if path.is_dir()]:
            sync(subfolder)
        with self._store.lock(f"{id}/publish"):
            if not self._store.exists(id):
                write_atomically(folder / RECORD, manifest.record_text.encode())
                self._store.move_in(id, folder)
            elif self._store.record(id).content != manifest.record.content:
                raise self._conflict(id)
            else:
                shutil.rmtree(folder)
