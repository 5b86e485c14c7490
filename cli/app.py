"""The tree of commands, the options that all of them share, and errors in arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter, UnusedCliTokensError

from cache.errors import did_you_mean
from cli import (
    ask_command,
    cache_commands,
    doctor_command,
    keyframes_commands,
    moments_commands,
    read_commands,
    reproduce_command,
    run_commands,
    runs_commands,
    share_commands,
    sweep_command,
    weights_commands,
)
from cli.options import DEFAULT_STORE, EVERYWHERE, CommandLine, Folder, Folders, StorePlace, UsageError
from cli.terminal import help_console, is_terminal, set_up_log

RUN = Group.create_ordered("Run")
READ = Group.create_ordered("Read what runs left")
KEEP = Group.create_ordered("Manage the store")
KNOWN = Group.create_ordered("Check the machine, and list what can be run")
ABOUT = Group.create_ordered("About the command")

Commands = dict[str, Callable[..., Any]]

# Names of commands; `--help` shows the docstrings.
COMMANDS: dict[Group, Commands] = {
    RUN: {
        "demo": run_commands.demo,
        "ask": ask_command.ask,
        "init": run_commands.init,
        "run": run_commands.run,
        "plan": run_commands.plan,
        "stage": run_commands.stage,
        "results": run_commands.results,
        "sweep": sweep_command.sweep,
        "reproduce": reproduce_command.reproduce,
        "benchmark": run_commands.benchmark,
        "up": run_commands.up,
    },
    READ: {
        "report": read_commands.report,
        "answers": read_commands.answers,
        "compare": read_commands.compare,
    },
    KNOWN: {
        "doctor": doctor_command.doctor,
        "recipes": read_commands.recipes,
        "stages": read_commands.stages,
        "datasets": read_commands.datasets,
    },
}
MOMENTS: Commands = {
    "evaluate": moments_commands.evaluate,
    "scores": moments_commands.scores,
    "export": moments_commands.export,
}
KEYFRAMES: Commands = {"select": keyframes_commands.select, "export": keyframes_commands.export}
WEIGHT_COMMANDS: Commands = {
    "ls": weights_commands.ls,
    "show": weights_commands.show,
    "import": weights_commands.import_weights,
    "export": weights_commands.export,
    "compare": weights_commands.compare,
}
RUNS: Commands = {"show": runs_commands.show, "rm": runs_commands.remove}
CACHE: Commands = {
    "ls": cache_commands.ls,
    "show": cache_commands.show,
    "why": cache_commands.why,
    "ancestry": cache_commands.ancestry,
    "verify": cache_commands.verify,
    "du": cache_commands.du,
    "gc": cache_commands.gc,
    "push": share_commands.push,
    "pull": share_commands.pull,
}


def run_command(arguments: Sequence[str], command_line: str) -> int:
    """Run the command in the arguments and return its exit status; `command_line` is the text as typed, for reports.

    Raises:
        UsageError: no command accepts these arguments.
    """
    try:
        return int(_call(app.meta, arguments, command_line=command_line) or 0)
    except CycloptsError as error:
        raise UsageError(_usage_message(error)) from error


def _call(tree: App, tokens: Sequence[str], **context: Any) -> Any:
    """Call the command that the tokens name, with the values of `context` that it accepts."""
    command, bound, context_names = tree.parse_args(tokens, exit_on_error=False, print_error=False)
    if getattr(command, "__func__", None) is App.help_print:
        bound.arguments["console"] = help_console()
    return command(*bound.args, **bound.kwargs, **{name: context[name] for name in context_names})


def _usage_message(error: CycloptsError) -> str:
    error.verbose = False
    command, message = " ".join(["sevila", *(error.command_chain or ())]), str(error)
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens and error.app is not None:
        token = error.unused_tokens[0]
        message = f"`{command}` accepts no {token!r}{did_you_mean(token, (n for n in error.app if n[0] != '-'))}."
    return f"{message}{'' if message.endswith(('.', '?')) else '.'} See `{command} --help`."


def _shown_default(value: Any) -> Any:
    return None if value is None or value is False or value in ("", [], ()) else value


def _add(parent: App, commands: Commands, group: Group | None = None) -> None:
    for position, (name, command) in enumerate(commands.items()):
        parent.command(command, name=name, sort_key=position, group=group)


app = App(
    "sevila",
    help="""Video question answering with SeViLA as a staged pipeline: every step is a stored, reusable artifact.

Start with `sevila demo`; then, on your own videos:
sevila run plain --annotations questions.csv --videos FOLDER --weights Salesforce/blip2-flan-t5-xl=FOLDER""",
    help_format="plaintext",
    help_formatter="default" if is_terminal() else "plain",
    version=lambda: version("sevila-pipeline"),
    default_parameter=Parameter(negative=(), allow_repeating=True, show_default=_shown_default),
)
for group, commands in COMMANDS.items():
    _add(app, commands, group)
moments = App("moments", help="Moment retrieval: evaluate, use and write submission files.", group=READ, sort_key=9)
_add(moments, MOMENTS)
keyframes = App(
    "keyframes", help="Select keyframes by external scores, and export them for other models.", group=READ, sort_key=8
)
_add(keyframes, KEYFRAMES)
runs = App("runs", help="List named runs; show or remove one.", group=KEEP, sort_key=0)
runs.default(runs_commands.ls)
_add(runs, RUNS)
cache = App("cache", help="Inspect, verify, clean up and share the store.", group=KEEP, sort_key=1)
_add(cache, CACHE)
weights = App("weights", help="List, inspect, compare, import and export weights.", group=KEEP, sort_key=2)
_add(weights, WEIGHT_COMMANDS)
for subcommands in (keyframes, moments, runs, cache, weights):
    app.command(subcommands)
app.register_install_completion_command(group=ABOUT)
for flag in ("--help", "--version"):
    app[flag].group = ABOUT


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    store: Annotated[Folder, Parameter(env_var="SEVILA_STORE", group=EVERYWHERE)] = DEFAULT_STORE,
    below: Annotated[Folders, Parameter(group=EVERYWHERE)] = (),
    quiet: Annotated[bool, Parameter(alias="-q", group=EVERYWHERE)] = False,
    verbose: Annotated[bool, Parameter(alias="-v", group=EVERYWHERE)] = False,
    command_line: CommandLine,
) -> Any:
    """Call the command that the tokens name.

    Args:
        store: folder of the artifacts
        below: a read-only store, for example a colleague's, whose artifacts are reused (repeatable)
        quiet: print only results, warnings and errors
        verbose: print the id of every artifact that is made or reused
    """
    set_up_log(quiet, verbose)
    return _call(app, tokens, where=StorePlace(store, below), command_line=command_line)
