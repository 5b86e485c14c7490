"""`python -m tests.faults`: tries every kind of fault and writes a report; exit status 1 if anything went wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.disks import mount_problem
from tests.faults.kinds import KINDS
from tests.faults.report import report
from tests.faults.trials import run_trials


def main() -> int:
    """Parse the options, try the faults and write the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    for name, count in (("kills", 100), ("flips", 100), ("disks", 16), ("races", 16), ("troubles", 20)):
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N", help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random choices [0]")
    parser.add_argument("--only", nargs="*", default=[], metavar="KIND[/TRIAL]", help="try these only")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the report, in Markdown [standard output]")
    options = parser.parse_args()
    requested, skipped = {**vars(options), "videos": 1000}, {}
    kinds = [kind for kind in KINDS if not options.only or kind.name in {name.split("/")[0] for name in options.only}]
    if problem := mount_problem():
        skipped = {kind.name: problem for kind in kinds if kind.of == "disks"}
    counts = [(kind, kind.count(requested)) for kind in kinds if kind.name not in skipped]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        tallies = run_trials(
            counts, options.seed, Path(folder), options.only, lambda text: print(text, file=sys.stderr)
        )
        seconds = time.monotonic() - started
        text = report(kinds, tallies, skipped, options.seed, seconds, Path(folder))
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return int(any(tally.n_failures for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
