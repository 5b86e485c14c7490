"""Checks of this machine: libraries, devices, decoders, the store's disk and file system, places of weights and data."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from cache.files import sync
from cache.store import Store
from pipeline.engine.places import PlaceLookup, config_file
from pipeline.models.released import RELEASED
from pipeline.text_table import human_size
from pipeline.video.decoding import installed_decoders
from reports.findings import Finding
from reports.weights import placed_weights
from stages.sample_frames import SampleFrames

PACKAGE = "sevila-pipeline"
LITTLE_DISK_BYTES = 10e9
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "lustre", "fuse", "9p", "ceph", "gpfs", "beegfs")


def installation() -> Iterator[Finding]:
    """Check the package, Python, and that every library has a supported version."""
    version = importlib.metadata.version(PACKAGE)
    yield Finding("installation", "ok", f"sevila {version}, Python {platform.python_version()}, {platform.platform()}")
    is_supported = True
    for requirement in map(Requirement, importlib.metadata.requires(PACKAGE) or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            installed = ""
        if not installed or not requirement.specifier.contains(installed, prereleases=True):
            is_supported = False
            text = f"{requirement.name} is {installed or 'missing'}; expected {requirement.specifier}"
            yield Finding("installation", "problem", text, f"pip install '{requirement.name}{requirement.specifier}'")
    if is_supported:
        yield Finding("installation", "ok", "all libraries have supported versions")


def devices() -> Iterator[Finding]:
    """List cores, memory and GPUs."""
    import torch

    memory = psutil.virtual_memory()
    yield Finding(
        "devices",
        "ok",
        f"{os.cpu_count()} cores, {human_size(memory.total)} memory, {human_size(memory.available)} of it free",
    )
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield Finding("devices", "ok", f"cuda:{number} {name}, {human_size(total)}, {human_size(free)} of it free")
    if not torch.cuda.device_count():
        why = "torch is built without CUDA" if torch.version.cuda is None else "torch sees no GPU here"
        yield Finding(
            "devices",
            "note",
            f"no GPU ({why}, {torch.__version__}): the demo runs without one, BLIP-2 on whole data sets needs one",
            "on a CPU, give --precision float32",
        )


def decoders() -> Iterator[Finding]:
    """Check that the installed decoders are those of the recipes, which are part of the identity of frames."""
    config, installed = SampleFrames(), installed_decoders()  # type: ignore[call-arg]
    pinned = (config.decoder, config.fallback_decoder)
    if installed == pinned:
        yield Finding("decoders", "ok", ", ".join(installed))
        return
    pins = " ".join(name.replace("pyav", "av").replace("-", "==") for name in pinned)
    fix = f"pip install {pins}; or --set sample_frames.decoder=... , which gives frames of another identity"
    yield Finding("decoders", "problem", f"{', '.join(installed)}; recipes ask for {', '.join(pinned)}", fix)


def store_disk(root: Path) -> Iterator[Finding]:
    """Check the store's disk: free space, type, locks and syncs (for parallel processes), and that the store has no links."""
    Store(root)  # raises if it contains a link
    folder = next(path for path in (root.absolute(), *root.absolute().parents) if path.is_dir())
    state = "" if folder == root.absolute() else " (does not exist yet)"
    kind = file_system(folder)
    free = shutil.disk_usage(folder).free
    space = Finding("store", "ok", f"{root}{state}: {human_size(free)} free on {kind}")
    if free < LITTLE_DISK_BYTES:
        space = space._replace(
            state="note",
            fix="frames and features of NExT-QA take about 150 GB; choose another disk by --store FOLDER or SEVILA_STORE",
        )
    yield space
    if not os.access(folder, os.W_OK):
        fix = "give a writable folder by --store; this one can still be read by --below"
        yield Finding("store", "problem", f"{folder} cannot be written", fix)
        return
    with tempfile.TemporaryDirectory(prefix=".sevila-doctor-", dir=folder) as trial_folder:
        yield from _file_system_works(Path(trial_folder), kind)


def file_system(folder: Path) -> str:
    """Return the type of the file system of a folder, from the list of mounts."""
    real = folder.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if real.is_relative_to(mount.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "an unknown file system"


def _file_system_works(folder: Path, kind: str) -> Iterator[Finding]:
    first, second = (folder / "lock").open("a+"), (folder / "lock").open("a+")
    with first, second:
        fcntl.flock(first, fcntl.LOCK_EX)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fix = "put the store on a local disk, NFSv4, or Lustre mounted with -o flock"
            yield Finding("store", "problem", "locks (flock) do not lock: two runs would write the same shard", fix)
        except BlockingIOError:
            is_network = kind.startswith(NETWORK_FILE_SYSTEMS)
            limit = " on this host; between hosts this depends on the mount options" if is_network else ""
            yield Finding("store", "ok", f"locks work{limit}")
        first.write("x")
        first.flush()
        os.fsync(first.fileno())
    os.rename(folder / "lock", folder / "renamed")
    if sync(folder):
        yield Finding("store", "ok", "files and folders can be synced and renamed")
    else:
        yield Finding("store", "note", "folders cannot be synced: a power failure may lose the last finished artifacts")


def weight_findings(places: Mapping[str, Iterable[str]]) -> Iterator[Finding]:
    """Check the weights that have a place, and list released weights without one; `places` as for `PlaceLookup`."""
    lookup = PlaceLookup(places)
    for line in placed_weights(lookup.all_of("weights")):
        fix = f"`sevila weights import {line.name or 'NAME'} PATH` writes another path into {config_file()}"
        if lookup.is_on_command_line("weights", line.name):
            fix = f"--weights {line.name or 'NAME'}=PATH with another path"
        finding = Finding("weights", "ok", f"{line.name or 'all names'}: {line.where}, {line.state}")
        yield finding if line.size_bytes is not None else finding._replace(state="problem", fix=fix)
    for name, released in RELEASED.items():
        if lookup.configured("weights", name) is None:
            fix = f"{released.files} ({released.size}) from {released.page}; then `sevila weights import {name} PATH`"
            yield Finding("weights", "note", f"{name} has no place; recipes that name it cannot run", fix)


def dataset_findings(places: Mapping[str, Iterable[str]]) -> Iterator[Finding]:
    """Check that the places of data sets exist; `places` as for `PlaceLookup`."""
    lookup = PlaceLookup(places)
    n_places = 0
    for kind in ("annotations", "videos"):
        for name, path in lookup.all_of(kind).items():
            n_places += 1
            setting = f"--{kind}" if lookup.is_on_command_line(kind, name) else f"[{kind}] in {config_file()}"
            fix = f"mount or download it, or change {setting}"
            finding = Finding("data sets", "ok", f"{kind} {name or 'of all names'}: {path}")
            if not path.exists():
                finding = finding._replace(state="problem", text=f"{finding.text}: does not exist", fix=fix)
            yield finding
    if not n_places:
        yield Finding(
            "data sets",
            "note",
            f"none has a place in {config_file()} or the environment",
            "`sevila datasets` lists the expected files; the demo brings its own",
        )
