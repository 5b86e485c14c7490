"""`sevila runs`: list, show and remove named runs."""

from __future__ import annotations

from cache.errors import CorruptArtifactError, StoreError
from cli.options import AsJson, Text, Where
from cli.terminal import print_json, print_text


def ls(*, as_json: AsJson = False, where: Where) -> None:
    """List named runs; show or remove one."""
    from reports.named_runs import run_lines, run_listing

    store = where.open()
    print_json(run_lines(store)) if as_json else print_text(run_listing(store))


def show(name: Text, /, *, as_json: AsJson = False, where: Where) -> None:
    """Show one named run: its settings and artifacts.

    Args:
        name: name of a run
    """
    from cache.names import named_run
    from reports.named_runs import run_description

    store = where.open()
    print_json(named_run(store, name).as_dict()) if as_json else print_text(run_description(store, name))


def remove(name: Text, /, *, where: Where) -> None:
    """Remove a name; its artifacts stay until `sevila cache gc --delete`.

    Args:
        name: name of a run
    """
    from cache.gc import OLDER_THAN_DAYS, survey
    from cache.names import remove_name
    from pipeline.text_table import human_size

    store = where.open()
    remove_name(store, name)
    try:
        freed = survey(store).size_bytes
    except (CorruptArtifactError, StoreError) as error:
        print_text(f"removed; the space that `sevila cache gc` would free is unknown: {error}")
        return
    print(
        f"removed; `sevila cache gc` would now free {human_size(freed)}, without artifacts younger than "
        f"{OLDER_THAN_DAYS:g} days"
    )
