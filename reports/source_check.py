"""The configured paths of weights and data on this machine, and whether they exist."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pipeline.engine.places import PlaceLookup, config_file
from pipeline.models.released import RELEASED
from reports.findings import Finding
from reports.weights import placed_weights


def weight_findings(given: Mapping[str, Iterable[str]]) -> Iterator[Finding]:
    """The weights that have a place, and of those that recipes name the ones that have none; `given` is as for `PlaceLookup`."""
    lookup = PlaceLookup(given)
    for line in placed_weights(lookup.all_of("weights")):
        fix = f"`sevila weights import {line.name or 'NAME'} PATH` writes another place into {config_file()}"
        if lookup.given("weights", line.name):
            fix = f"--weights {line.name or 'NAME'}=PATH with another path"
        here = Finding("weights", "ok", f"{line.name or 'all names'}: {line.where}, {line.state}")
        yield here if line.size_bytes is not None else here._replace(state="problem", fix=fix)
    for name, known in RELEASED.items():
        if lookup.configured("weights", name) is None:
            fix = f"{known.files} ({known.size}) from {known.page}; then `sevila weights import {name} PATH`"
            yield Finding("weights", "note", f"{name} has no place; recipes that name it cannot run without", fix)


def dataset_findings(given: Mapping[str, Iterable[str]]) -> Iterator[Finding]:
    """The data sets that have a place, and whether it is there; `given` is as for `PlaceLookup`."""
    lookup = PlaceLookup(given)
    n_places = 0
    for kind in ("annotations", "videos"):
        for name, path in lookup.all_of(kind).items():
            n_places += 1
            where = f"--{kind}" if lookup.given(kind, name) else f"[{kind}] in {config_file()}"
            fix = f"mount or download it, or change {where}"
            text = f"{kind} {name or 'of all names'}: {path}"
            is_here = path.exists()
            yield (
                Finding("data sets", "ok", text)
                if is_here
                else Finding("data sets", "problem", f"{text}: nothing is there", fix)
            )
    if not n_places:
        yield Finding(
            "data sets",
            "note",
            f"none has a place in {config_file()} or the environment",
            "`sevila datasets` says what is expected where; the demo brings its own",
        )
