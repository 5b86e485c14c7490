"""The `sevila` command: runs, plans and inspects chains without a server."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cache.errors import SevilaError, sentence
from stages import commands as do

DEFAULT_STORE = ".sevila"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for an error that the message explains, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("sevila").setLevel(logging.WARNING if options.quiet else logging.INFO)
    try:
        options.told_as = shlex.join(["sevila", *(sys.argv[1:] if arguments is None else arguments)])
        return int(options.command(options) or 0)
    except SevilaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # disk full, permission denied, a mount gone: what is finished stays
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last finished shard or state", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sevila",
        description="Video question answering with SeViLA as a staged pipeline: every step is a stored, reusable artifact.",
        epilog="Start with `sevila demo`; then `sevila run plain --annotations questions.csv --videos FOLDER "
        "--weights Salesforce/blip2-flan-t5-xl=FOLDER` on your own videos.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _command(commands, "run", do.run, "run a recipe's chain; what the store holds is not made again")
    _chain_options(run)
    _seed_option(run)
    stage = _command(commands, "stage", do.stage, "run one stage from what the store holds")
    stage.add_argument("name", help="a stage, as `sevila stages` lists them")
    _chain_options(stage)
    _seed_option(stage)
    stage.add_argument("--again", action="store_true", help="rebuild the artifact even if the store holds it")
    plan = _command(commands, "plan", do.plan, "say what a run would build and why, without running")
    _chain_options(plan)
    _seed_option(plan)
    demo = _command(commands, "demo", do.demo, "run the whole chain on a small world of its own, trainings included")
    _setting_option(demo)
    _seed_option(demo)
    _execution_options(demo)
    _results_options(_command(commands, "results", do.results, "run a full chain for several seeds and write a report"))
    _command(commands, "recipes", do.recipes, "list the recipes that come with the package")
    _command(commands, "stages", do.list_stages, "list the stages and every key of their recipe sections")
    datasets = _command(
        commands, "datasets", do.datasets, "list the data sets: what is expected where, and what is here"
    )
    datasets.add_argument(
        "names", nargs="*", metavar="NAME", help="data sets to look into: read files, look for videos"
    )
    _place_options(datasets, "annotations", "videos")
    _store_option(datasets)

    answers = _command(commands, "answers", do.answers, "print the answers of a run in words, as CSV")
    answers.add_argument("id", help="id of an answers artifact, or the beginning of it, which takes the newest")
    _store_option(answers)
    _compare_options(_command(commands, "compare", do.compare, "test whether two runs over the same questions differ"))

    cache = commands.add_parser("cache", help="look into the store").add_subparsers(required=True, metavar="COMMAND")
    listing = _command(cache, "ls", do.cache_ls, "list the artifacts")
    _store_option(listing)
    show = _command(cache, "show", do.cache_show, "show one artifact: its record and the first rows of its tables")
    show.add_argument("id", help="artifact id, or the beginning of it or of its hexadecimal part")
    show.add_argument("--rows", type=int, default=3, metavar="N", help="rows to show of each table [%(default)s]")
    _store_option(show)
    _moments_commands(commands)
    return parser


def _moments_commands(commands: Any) -> None:
    help = "moment retrieval in the files of its benchmark, QVHighlights"
    moments = commands.add_parser("moments", help=help).add_subparsers(required=True, metavar="COMMAND")
    evaluate = _command(moments, "evaluate", do.moments_evaluate, "judge a predictions file by the benchmark's metrics")
    evaluate.add_argument("predictions", type=Path, help="a submission, .jsonl")
    evaluate.add_argument("annotations", type=Path, help="the split's annotations as downloaded, .jsonl")
    evaluate.add_argument("--json", action="store_true", help="print JSON in the layout of the benchmark's evaluator")
    evaluate.add_argument(
        "--allow-outside", action="store_true", help="evaluate windows outside their video as they are, not refuse them"
    )
    export = _command(moments, "export", do.moments_export, "write retrieved moments as a submission file")
    export.add_argument("id", help="artifact id of retrieve_moments, or the beginning of it")
    export.add_argument("-o", "--output", type=Path, metavar="FILE", help="the file [standard output]")
    _store_option(export)


def _command(commands: Any, name: str, function: Callable[..., None], help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(command=function)
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")
    return parser


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
        "--changed", type=_count, metavar="N", help="changed questions to show [10; with --json all of them]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _store_option(parser)


def _results_options(parser: argparse.ArgumentParser) -> None:
    _chain_options(parser)
    parser.add_argument(
        "--seeds", nargs="+", type=_count, default=[0, 1, 2], metavar="N", help="seeds of all that is random [0 1 2]"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the report, in Markdown [standard output]")


def _chain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="name of a recipe (`sevila recipes`) or path of a .toml file")
    _setting_option(parser)
    _place_options(parser, "annotations", "videos", "weights")
    _execution_options(parser)


def _setting_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change one key of the recipe"
    )


def _seed_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=_count, metavar="N", help="seed of all that is random in the stages, and of the demo's world"
    )


def _place_options(parser: argparse.ArgumentParser, *kinds: str) -> None:
    whats = {
        "annotations": "annotation file, or folder of the files as downloaded",
        "videos": "folder of the videos",
        "weights": "weights by the name the recipe gives them: a folder or a file",
    }
    for kind in kinds:
        parser.add_argument(
            f"--{kind}",
            action="append",
            default=[],
            metavar="[NAME=]PATH",
            help=f"{whats[kind]}; else SEVILA_{kind.upper()}, sevila.toml",
        )


def _execution_options(parser: argparse.ArgumentParser) -> None:
    _store_option(parser)
    group = parser.add_argument_group("execution", "speed and place; never part of an artifact's identity")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... [the first GPU, else cpu]")
    group.add_argument(
        "--batch-tokens", type=_positive(int), default=16384, metavar="N", help="tokens in a forward pass [%(default)s]"
    )
    group.add_argument(
        "--decode-workers", type=_positive(int), default=2, metavar="N", help="processes that decode [%(default)s]"
    )
    group.add_argument(
        "--shard-megabytes",
        type=_positive(float),
        default=1024.0,
        metavar="MB",
        help="size at which a shard is cut [%(default)s]",
    )
    group.add_argument(
        "--processes",
        type=_count,
        default=0,
        metavar="N",
        help="processes of a training; 0: one for each GPU, one without GPU or where --device names one [0]",
    )
    group.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="write training curves there as well")


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise ValueError(text)
        return value

    number.__name__ = f"positive {kind.__name__}"  # argparse puts it into its message
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative, a number from 0 was wanted")
    return number


def _store_option(parser: argparse.ArgumentParser) -> None:
    store = os.environ.get("SEVILA_STORE", DEFAULT_STORE)
    parser.add_argument(
        "--store", type=Path, default=Path(store), metavar="FOLDER", help="the artifacts [SEVILA_STORE or .sevila]"
    )


if __name__ == "__main__":
    sys.exit(main())
