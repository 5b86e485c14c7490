"""What each command of `sevila cache` does with its options; cli.py says which options there are."""

from __future__ import annotations

import argparse

from stages.options import store_of


def ls(options: argparse.Namespace) -> None:
    """List the artifacts."""
    from cache.show import listing

    print(listing(store_of(options)))


def show(options: argparse.Namespace) -> None:
    """Show one artifact."""
    from cache.show import description

    print(description(store_of(options), options.id, options.rows))
