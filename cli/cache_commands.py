"""What each command of `sevila cache` does with its options; `cli/__init__.py` says which options there are."""

from __future__ import annotations

import argparse

from cli.options import store_of
from cli.terminal import print_json, print_text


def ls(options: argparse.Namespace) -> None:
    """List the artifacts."""
    from cache.show import artifact_lines, listing
    from reports.why import unusual

    store = store_of(options)
    lines = artifact_lines(store, options.stage, unusual)
    if options.json:
        print_json([line.as_dict() for line in lines])
    else:
        print_text(listing(store, lines))


def show(options: argparse.Namespace) -> None:
    """Show one artifact."""
    from cache.show import description

    print_text(description(store_of(options), options.id, options.rows))


def verify(options: argparse.Namespace) -> int:
    """Check artifacts, drop what is damaged if asked to, and return 1 if something is wrong after that."""
    from cli.verify_command import verify

    return verify(options)


def usage(options: argparse.Namespace) -> None:
    """Print what takes the space of a store."""
    from cache.usage import usage, usage_text

    found = usage(store_of(options))
    if options.json:
        print_json(found.as_dict())
    else:
        print_text(usage_text(found))


def gc(options: argparse.Namespace) -> None:
    """Print what nobody keeps, or remove it."""
    from cache.gc import survey, survey_text, sweep

    store, what = store_of(options), (options.keep, options.older_than)
    found = sweep(store, *what, options.unnamed) if options.delete else survey(store, *what)
    if options.json:
        print_json(found.as_dict())
    else:
        print_text(survey_text(found, options.delete))


def why(options: argparse.Namespace) -> None:
    """Print which changes make artifacts be rebuilt."""
    from cache.names import named_run
    from cli.commands import context
    from pipeline.engine.places import KINDS
    from pipeline.engine.steps import Plan
    from reports.why import why_lines
    from stages.chain import chain_of

    recipe, run, sources = context(options, download=False, remembered=KINDS)
    if options.stage:
        recipe.config_of(options.stage)  # an unknown stage is told before anything is walked
    than = named_run(run.store, options.than) if options.than else None
    plan = Plan(recipe, run)
    plan.walk(chain_of(recipe), sources)
    lines = why_lines(plan, run.store, options.stage, than)
    print_text("\n".join(lines) or "everything is in the store")


def ancestry(options: argparse.Namespace) -> None:
    """Print all that an artifact was made from."""
    from cache.lineage import ancestry, ancestry_text
    from reports.why import unusual

    store = store_of(options)
    print_text(ancestry_text(ancestry(store, store.find(options.id)), unusual))
