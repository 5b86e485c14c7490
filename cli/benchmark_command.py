"""`sevila benchmark`: one night of a matrix, or the trend of all."""

from __future__ import annotations

import argparse

from cli.options import store_of
from cli.terminal import print_text


def benchmark(options: argparse.Namespace) -> int:
    """Run one night and print what it found; 1 if something became worse or failed. Or print the trend."""
    from pipeline.benchmarks.matrix import load_matrix
    from reports.benchmark import folder_of, run_night
    from reports.benchmark_history import History
    from reports.benchmark_text import night_text, trend_text

    matrix, store = load_matrix(options.matrix), store_of(options)
    if options.history:
        print_text(trend_text(matrix, History(folder_of(store, matrix)).read(), options.nights))
        return 0
    places = {"annotations": options.annotations, "videos": options.videos, "weights": options.weights}
    night = run_night(matrix, store, places, options.device, options.batch_tokens)
    print_text(night_text(night))
    return 1 if night.verdict else 0
