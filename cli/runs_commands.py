"""What each command of `sevila runs` does with its options; `cli/__init__.py` says which options there are."""

from __future__ import annotations

import argparse

from cache.errors import CorruptArtifactError, StoreError
from cli.options import store_of
from cli.terminal import print_json, print_text


def ls(options: argparse.Namespace) -> None:
    """List the named runs."""
    from reports.named_runs import run_lines, run_listing

    store = store_of(options)
    if options.json:
        print_json([line.as_dict() for line in run_lines(store)])
    else:
        print_text(run_listing(store))


def show(options: argparse.Namespace) -> None:
    """Show one named run."""
    from cache.names import named_run
    from reports.named_runs import run_description

    store = store_of(options)
    if options.json:
        print_json(named_run(store, options.name).as_dict())
    else:
        print_text(run_description(store, options.name))


def compare(options: argparse.Namespace) -> None:
    """Print how two named runs differ."""
    from reports.named_runs import compare_runs, run_comparison_text

    found = compare_runs(store_of(options), options.a, options.b)
    if options.json:
        print_json(found.as_dict())
    else:
        print_text(run_comparison_text(found))


def remove(options: argparse.Namespace) -> None:
    """Forget a name, and say what housekeeping would now remove."""
    from cache.gc import OLDER_THAN_DAYS, survey
    from cache.names import remove_name
    from cache.show import human_size

    store = store_of(options)
    remove_name(store, options.name)
    try:
        freed = survey(store).size_bytes
    except (CorruptArtifactError, StoreError) as error:
        print_text(f"forgotten; what `sevila cache gc` would now free is not known: {error}")
        return
    print(
        f"forgotten; `sevila cache gc` would now free {human_size(freed)}, not counting what is younger than "
        f"{OLDER_THAN_DAYS:g} days"
    )
