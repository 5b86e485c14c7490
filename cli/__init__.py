"""The `sevila` command: reads options, calls, prints; a file for each group of commands."""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pipeline  # noqa: F401 - clears what BLAS libraries read when they are loaded, as cache loads numpy
from cache.errors import SevilaError, sentence
from cache.printable import printable
from cli import cache_commands as do_cache
from cli import commands as do
from cli import runs_commands as do_runs
from cli.benchmark_command import benchmark
from cli.options import (
    chain_options,
    command,
    count,
    days,
    execution_options,
    json_option,
    model_options,
    name_options,
    place_options,
    port,
    positive,
    seed_option,
    setting_option,
    store_option,
)
from cli.terminal import drop_output, flush_output, set_up_output


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for an error that the message explains, 130 when interrupted.

    141, as if ended by SIGPIPE, where what reads our output has read enough.
    """
    set_up_output(is_program=arguments is None)
    try:
        try:
            return _status(sys.argv[1:] if arguments is None else arguments)
        finally:
            flush_output()
    except OSError as error:
        if drop_output() and isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        print(f"error: {printable(sentence(error))}", file=sys.stderr)
        return 1


def _status(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("sevila").setLevel(logging.WARNING if options.quiet else logging.INFO)
    try:
        if sys.flags.optimize:
            raise SevilaError("Python's option -O, or PYTHONOPTIMIZE, takes checks out of libraries: run without it")
        options.told_as = shlex.join(["sevila", *arguments])
        return int(options.command(options) or 0)
    except BrokenPipeError:  # most likely of our output
        raise
    except SevilaError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:  # disk full, permission denied, a mount gone: what is finished stays
        print(f"error: {printable(sentence(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last finished shard or state", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))  # arguments may be the names of other people's files


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sevila",
        description="Video question answering with SeViLA as a staged pipeline: every step is a stored, reusable artifact.",
        epilog="Start with `sevila demo`; then `sevila run plain --annotations questions.csv --videos FOLDER "
        "--weights Salesforce/blip2-flan-t5-xl=FOLDER` on your own videos.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = command(commands, "run", do.run, "run a recipe's chain; what the store holds is not made again")
    chain_options(run)
    seed_option(run)
    name_options(run)
    stage = command(commands, "stage", do.stage, "run one stage from what the store holds")
    stage.add_argument("name", help="a stage, as `sevila stages` lists them")
    chain_options(stage)
    seed_option(stage)
    stage.add_argument("--again", action="store_true", help="rebuild the artifact even if the store holds it")
    plan = command(commands, "plan", do.plan, "say what a run would build and why, without running")
    chain_options(plan)
    seed_option(plan)
    demo = command(commands, "demo", do.demo, "run the whole chain on a small world of its own, trainings included")
    setting_option(demo)
    seed_option(demo)
    name_options(demo)
    execution_options(demo)
    _up_options(command(commands, "up", do.up, "start Prefect's server and workers on this machine, until Ctrl-C"))
    _results_options(command(commands, "results", do.results, "run a full chain for several seeds and write a report"))
    _benchmark_options(
        command(
            commands,
            "benchmark",
            benchmark,
            "run a matrix of settings from cached features, and say what became worse since the nights before",
        )
    )
    command(commands, "recipes", do.recipes, "list the recipes that come with the package")
    command(commands, "stages", do.list_stages, "list the stages and every key of their recipe sections")
    datasets = command(
        commands, "datasets", do.datasets, "list the data sets: what is expected where, and what is here"
    )
    datasets.add_argument(
        "names", nargs="*", metavar="NAME", help="data sets to look into: read files, look for videos"
    )
    place_options(datasets, "annotations", "videos")
    store_option(datasets)

    answers = command(commands, "answers", do.answers, "print the answers of a run in words, as CSV")
    answers.add_argument("id", help="id of an answers artifact, or the beginning of it, which takes the newest")
    store_option(answers)
    _compare_options(command(commands, "compare", do.compare, "test whether two runs over the same questions differ"))

    _cache_commands(commands)
    _runs_commands(commands)
    _moments_commands(commands)
    return parser


def _cache_commands(commands: Any) -> None:
    cache = commands.add_parser("cache", help="look into the store, and keep it tidy")
    cache = cache.add_subparsers(required=True, metavar="COMMAND")
    listing = command(cache, "ls", do_cache.ls, "list the artifacts")
    listing.add_argument("--stage", default="", metavar="NAME", help="only artifacts of this stage")
    json_option(listing)
    store_option(listing)
    show = command(cache, "show", do_cache.show, "show one artifact: its record and the first rows of its tables")
    show.add_argument("id", help="artifact id, or the beginning of it or of its hexadecimal part")
    show.add_argument("--rows", type=count, default=3, metavar="N", help="rows to show of each table [%(default)s]")
    store_option(show)
    _verify_options(command(cache, "verify", do_cache.verify, "reread every byte of artifacts against their checksums"))
    usage = command(cache, "du", do_cache.usage, "say what takes the store's space")
    json_option(usage)
    store_option(usage)
    _gc_options(
        command(cache, "gc", do_cache.gc, "say what nobody keeps: neither a named run nor its age; or remove it")
    )
    why = command(cache, "why", do_cache.why, "say which change makes an artifact be rebuilt, followed to its root")
    chain_options(why)
    why.add_argument(
        "stage", nargs="?", default="", help="only steps of this stage [every step that is not in the store]"
    )
    why.add_argument("--than", default="", metavar="NAME", help="compare with this named run [the nearest artifact]")
    seed_option(why)
    ancestry = command(
        cache, "ancestry", do_cache.ancestry, "show all that an artifact was made from, to outside sources"
    )
    ancestry.add_argument("id", help="artifact id, or an unambiguous beginning")
    store_option(ancestry)


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ids", nargs="*", metavar="ID", help="artifact, or the beginning of its id; or part of the pool"
    )
    parser.add_argument("--all", action="store_true", help="the whole store, and parts of the pool that nobody uses")
    parser.add_argument(
        "--drop",
        action="store_true",
        help="remove what is damaged, and only that, so that the next run of its recipe makes it again",
    )
    store_option(parser)


def _gc_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--delete", action="store_true", help="remove it; without this, nothing is changed")
    parser.add_argument("--keep", action="append", default=[], metavar="ID", help="keep this artifact too (repeatable)")
    parser.add_argument(
        "--older-than",
        type=days,
        default=7.0,
        metavar="DAYS",
        help="keep what is younger: it may belong to a run that is to be resumed [%(default)g]",
    )
    parser.add_argument("--unnamed", action="store_true", help="remove even though no run has a name")
    json_option(parser)
    store_option(parser)


def _runs_commands(commands: Any) -> None:
    runs = command(commands, "runs", do_runs.ls, "list named runs; or show, compare or forget them")
    store_option(runs)
    json_option(runs)
    parsers = runs.add_subparsers(metavar="COMMAND")
    show = command(parsers, "show", do_runs.show, "show one named run: its settings and artifacts")
    compare = command(parsers, "compare", do_runs.compare, "test whether two named runs differ, setting by setting")
    remove = command(parsers, "rm", do_runs.remove, "forget a name; its artifacts stay until `sevila cache gc`")
    for parser, names in ((show, ["name"]), (compare, ["a", "b"]), (remove, ["name"])):
        for name in names:
            parser.add_argument(name, metavar=name.upper(), help="name of a run")
        store_option(parser, inherited=True)
    for parser in (show, compare):
        json_option(parser, inherited=True)


def _moments_commands(commands: Any) -> None:
    help = "moment retrieval in the files of its benchmark, QVHighlights"
    moments = commands.add_parser("moments", help=help).add_subparsers(required=True, metavar="COMMAND")
    evaluate = command(moments, "evaluate", do.moments_evaluate, "judge a predictions file by the benchmark's metrics")
    evaluate.add_argument("predictions", type=Path, help="a submission, .jsonl")
    evaluate.add_argument("annotations", type=Path, help="the split's annotations as downloaded, .jsonl")
    evaluate.add_argument("--json", action="store_true", help="print JSON in the layout of the benchmark's evaluator")
    evaluate.add_argument(
        "--allow-outside", action="store_true", help="evaluate windows outside their video as they are, not refuse them"
    )
    export = command(moments, "export", do.moments_export, "write retrieved moments as a submission file")
    export.add_argument("id", help="artifact id of retrieve_moments, or the beginning of it")
    export.add_argument("-o", "--output", type=Path, metavar="FILE", help="the file [standard output]")
    store_option(export)


def _compare_options(parser: argparse.ArgumentParser) -> None:
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="id of answers or metrics, or an unambiguous beginning")
    parser.add_argument(
        "--bootstrap",
        choices=("video", "question"),
        default="video",
        help="what is resampled: whole videos, as their questions are not independent, or questions [%(default)s]",
    )
    parser.add_argument(
        "--changed", type=count, metavar="N", help="changed questions to show [10; with --json all of them]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    store_option(parser)


def _up_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=port, default=4200, metavar="N", help="port of the server on 127.0.0.1 [4200]")
    parser.add_argument(
        "--gpu-workers", type=count, default=0, metavar="N", help="workers of pool gpu; 0: one for each GPU, or one [0]"
    )
    parser.add_argument(
        "--runs", type=positive(int), default=4, metavar="N", help="runs that pool cpu does at once [4]"
    )
    store_option(parser)


def _benchmark_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        'A matrix is a TOML file: [recipes.NAME] with lines `setting = ["stage.key=value", ...]`; alpha, keep_nights, since = '
        "DATE (nights before it are not compared with), [tolerance] throughput_percent and peak_memory_percent. Scores, "
        "keyframes and answers are made anew in a store of the night; what they read must be in the store. Exit status 1: "
        "something became worse, or a setting failed."
    )
    parser.add_argument("matrix", help="demo, nextqa, or path of a .toml file; its name names the history")
    parser.add_argument("--history", action="store_true", help="run nothing; print the trend of the last nights")
    parser.add_argument(
        "--nights", type=positive(int), default=14, metavar="N", help="nights that --history shows [%(default)s]"
    )
    place_options(parser, "annotations", "videos", "weights")
    model_options(parser)


def _results_options(parser: argparse.ArgumentParser) -> None:
    chain_options(parser)
    name_options(parser)
    parser.add_argument(
        "--seeds", nargs="+", type=count, default=[0, 1, 2], metavar="N", help="seeds of all that is random [0 1 2]"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the report, in Markdown [standard output]")
