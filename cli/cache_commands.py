"""`sevila cache`: inspect, verify and clean up the store."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from cli.options import AsJson, ChainOptions, Count, Days, SeedOption, Text, Texts, Where
from cli.terminal import print_json, print_text

Id = Annotated[Text, Parameter(help="artifact id, or an unambiguous beginning of the id or of its hexadecimal part")]


def ls(
    *, stage: Annotated[Text | None, Parameter(metavar="NAME")] = None, as_json: AsJson = False, where: Where
) -> None:
    """List the artifacts.

    Args:
        stage: only artifacts of this stage
    """
    from reports.artifacts import artifact_lines, listing

    store = where.open()
    lines = artifact_lines(store, stage or "")
    if stage and not lines:  # a store may hold artifacts of stages that no longer exist
        from pipeline.engine.recipe import refuse_unknown_stage
        from stages.all import STAGES

        refuse_unknown_stage(stage, STAGES)
    print_json(lines) if as_json else print_text(listing(store, lines))


def show(id: Text, /, *, rows: Count = 3, as_json: AsJson = False, where: Where) -> None:
    """Show one artifact: its record and the first rows of its tables.

    Args:
        id: artifact id, or the beginning of the id or of its hexadecimal part, which selects the newest
        rows: number of rows to show per table
    """
    from reports.artifacts import content, description

    print_json(content(where.open(), id, rows)) if as_json else print_text(description(where.open(), id, rows))


def why(
    recipe: Text,
    stage: Text | None = None,
    /,
    *,
    chain: ChainOptions = ChainOptions(),
    seed: SeedOption = None,
    than: Annotated[Text | None, Parameter(metavar="NAME")] = None,
    as_json: AsJson = False,
    where: Where,
) -> None:
    """Explain which changes would cause artifacts to be rebuilt, traced to their root.

    Args:
        recipe: name of a recipe (`sevila recipes`) or path of a .toml file
        stage: only steps of this stage; default: every step that is not in the store
        than: compare with this named run; default: with the nearest artifact
    """
    from cache.names import named_run
    from pipeline.engine.dry_run import DryRun
    from pipeline.engine.places import KINDS
    from reports.why import why_lines
    from stages.chain import chain_of

    loaded, context, sources = chain.open(recipe, seed, where.open(), remembered=KINDS)
    if stage:
        loaded.config_of(stage)  # raises for an unknown stage
    other = named_run(context.store, than) if than else None
    plan = DryRun(loaded, context)
    plan.walk(chain_of(loaded), sources)
    lines = why_lines(plan, context.store, stage or "", other)
    print_json(lines) if as_json else print_text("\n".join(lines) or "everything is in the store")


def ancestry(id: Id, /, *, as_json: AsJson = False, where: Where) -> None:
    """Show everything that an artifact was made from, down to outside sources."""
    from cache.id_prefixes import find
    from cache.lineage import ancestry
    from reports.artifacts import ancestry_text

    store = where.open()
    origins = ancestry(store, find(store, id))
    print_json(list(origins.values())) if as_json else print_text(ancestry_text(origins))


def verify(
    *ids: Annotated[Text, Parameter(metavar="ID")],
    everything: Annotated[bool, Parameter("--all")] = False,
    drop: bool = False,
    as_json: AsJson = False,
    where: Where,
) -> int:
    """Verify artifacts against their checksums by rereading every byte; exit status 1 if there are problems.

    Args:
        ids: artifact id, or the beginning of it, or a part of the pool, space/key/part
        everything: the whole store, including unused parts of the pool
        drop: remove the damaged pieces, and only these, so that the next run of the recipe makes them again
    """
    from cli.verify_command import verify

    return verify(where.open(), ids, everything, drop, as_json)


def du(*, as_json: AsJson = False, where: Where) -> None:
    """Show the disk usage of the store."""
    from reports.disk_usage import usage, usage_text

    sizes = usage(where.open())
    print_json(sizes) if as_json else print_text(usage_text(sizes))


def gc(
    *,
    delete: bool = False,
    keep: Annotated[Texts, Parameter(metavar="ID")] = (),
    older_than: Days = 7.0,
    unnamed: bool = False,
    as_json: AsJson = False,
    where: Where,
) -> None:
    """List, or remove, the artifacts that no named run needs and that are older than a week.

    Args:
        delete: remove them; without this option, nothing is changed
        keep: keep this artifact as well (repeatable)
        older_than: keep everything younger, as its run may be resumed
        unnamed: remove artifacts although no run has a name
    """
    from cache.gc import survey, sweep
    from reports.disk_usage import survey_text

    store = where.open()
    surveyed = sweep(store, keep, older_than, unnamed) if delete else survey(store, keep, older_than)
    print_json(surveyed.as_dict()) if as_json else print_text(survey_text(surveyed, delete))
