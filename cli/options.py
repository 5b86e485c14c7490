"""Options that several commands of `sevila` share: recipe, places, execution, store."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.store import Store, stores_below

DEFAULT_STORE = ".sevila"


def command(commands: Any, name: str, function: Callable[..., int | None], help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(command=function)
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")
    return parser


def chain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="name of a recipe (`sevila recipes`) or path of a .toml file")
    setting_option(parser)
    place_options(parser, "annotations", "videos", "weights")
    execution_options(parser)


def setting_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change one key of the recipe"
    )


def seed_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=count, metavar="N", help="seed of all that is random in the stages, and of the demo's world"
    )


def name_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name",
        type=_no_empty_name,
        help="keep everything that the run makes or reuses under a name (`sevila runs` lists them)",
    )
    parser.add_argument(
        "--replace", action="store_true", help="let NAME stand for this run, whatever it stood for before"
    )


def _no_empty_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty; leave the option out for a run without a name")
    return text


def place_options(parser: argparse.ArgumentParser, *kinds: str) -> None:
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


def model_options(parser: argparse.ArgumentParser) -> Any:
    store_option(parser)
    group = parser.add_argument_group("execution", "speed and place; never part of an artifact's identity")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... [the first GPU, else cpu]")
    group.add_argument(
        "--batch-tokens", type=positive(int), default=16384, metavar="N", help="tokens in a forward pass [%(default)s]"
    )
    return group


def execution_options(parser: argparse.ArgumentParser) -> None:
    group = model_options(parser)
    group.add_argument(
        "--decode-workers", type=positive(int), default=2, metavar="N", help="processes that decode [%(default)s]"
    )
    group.add_argument(
        "--shard-megabytes",
        type=positive(float),
        default=1024.0,
        metavar="MB",
        help="size at which a shard is cut [%(default)s]",
    )
    group.add_argument(
        "--processes",
        type=count,
        default=0,
        metavar="N",
        help="processes of a training; 0: one for each GPU, one without GPU or where --device names one [0]",
    )
    group.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="write training curves there as well")


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise ValueError(text)
        return value

    number.__name__ = f"positive {kind.__name__}"  # argparse puts it into its message
    return number


def days(text: str) -> float:
    number = float(text)
    if math.isnan(number) or number < 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of days from 0")
    return number


def count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative, a number from 0 was wanted")
    return number


def port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port, a number from 1 to 65535 was wanted")
    return number


def store_option(parser: argparse.ArgumentParser, inherited: bool = False) -> None:
    """`inherited`: the command before it has the option too, and what that was given stays."""
    store = Path(os.environ.get("SEVILA_STORE", DEFAULT_STORE))
    default = argparse.SUPPRESS if inherited else store
    parser.add_argument(
        "--store", type=Path, default=default, metavar="FOLDER", help="the artifacts [SEVILA_STORE or .sevila]"
    )
    parser.add_argument(
        "--below",
        type=Path,
        action="append",
        default=argparse.SUPPRESS if inherited else [],
        metavar="FOLDER",
        help="a store that is read but never written, a colleague's for example; what it holds is not made again "
        "[SEVILA_STORE_BELOW]",
    )


def json_option(parser: argparse.ArgumentParser, inherited: bool = False) -> None:
    default = argparse.SUPPRESS if inherited else False
    parser.add_argument("--json", action="store_true", default=default, help="print JSON")


def store_of(options: argparse.Namespace) -> Store:
    """Return the store that the options name, over the stores below it."""
    return Store(options.store, [*options.below, *stores_below()])
