"""The command line: names of commands and options, help texts and usage errors."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from cyclopts import App

from cli import main
from cli.app import app
from cli.options import ExecutionOptions
from pipeline.engine.stage import RunContext
from sevila.experiment import HowToRun
from workers.forms import Execution

ROOT = Path(__file__).parents[1]
FROZEN = ROOT / "tests" / "golden" / "command_line.txt"


def command_lines(tree: App, words: tuple[str, ...] = ("sevila",)) -> Iterator[str]:
    """Yield one line per command with its arguments and options."""
    if tree.default_command is not None:
        arguments = tree.assemble_argument_collection(default_parameter=app.default_parameter)
        names = [name for argument in arguments if argument.parse for name in sorted(argument.names) if name != "*"]
        yield " ".join([*words, *sorted(names, key=lambda name: name.startswith("-"))])
    for name in sorted(name for name in tree if not name.startswith("-")):
        yield from command_lines(tree[name], (*words, name))


WITHOUT_JSON = {  # commands that print no data, or print it in a data format already
    "sevila": "help",
    "sevila cache pull": "says what was moved",
    "sevila cache push": "says what was moved",
    "sevila init": "writes sevila.toml",
    "sevila keyframes export": "writes a folder or a table",
    "sevila keyframes select": "prints JSON",
    "sevila moments export": "prints the benchmark's JSON Lines",
    "sevila moments scores": "prints JSON Lines",
    "sevila report": "writes a page",
    "sevila runs rm": "removes a name",
    "sevila up": "serves",
    "sevila weights export": "writes a checkpoint",
    "sevila weights import": "says the name",
}


def test_every_command_that_prints_data_has_a_json_option() -> None:
    lines = [line.split() for line in command_lines(app.meta)] + [line.split() for line in command_lines(app)]
    without = {
        " ".join(word for word in line if word.islower() and word[0] != "-") for line in lines if "--json" not in line
    }
    assert without == set(WITHOUT_JSON)


def test_command_and_option_names_are_unchanged() -> None:
    """A change breaks users' scripts: list it in CHANGELOG.md and update the golden file."""
    assert [next(command_lines(app.meta)), *command_lines(app)] == FROZEN.read_text().splitlines()


WITH_EMPTY_NAME = """
cache why ''
run ''
stage '' demo
compare '' ''
compare a ''
answers ''
moments export ''
runs rm ''
cache show ''
cache ancestry ''
cache verify '' --drop
cache verify x ''
cache gc --keep ''
cache gc --keep x --keep=
cache ls --stage=
cache why plain ''
cache why plain --than=
""".strip().splitlines()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("cahce ls", 'Did you mean "cache"?'),
        ("cache lss", 'Did you mean "ls"?'),
        ("runs shwo x", "(did you mean 'show'?)"),
        ("run plain --sed 1", "Did you mean --se"),
        ("run", "RECIPE"),
        ("run plain --seed 1.5", "--seed: expected an integer, not '1.5'"),
        ("run plain --seed -1", "--seed. Must be >= 0."),
        ("run plain --batch-tokens 0", "--batch-tokens. Must be > 0."),
        ("run plain --shard-megabytes nan", "--shard-megabytes. Must be <"),
        ("run plain --name=", "--name. Leave the option out for a run without a name."),
        ("cache gc --older-than nan", "--older-than. Must be"),
        ("compare a b --bootstrap videos", 'Choose from: "video", "question"'),
        ("results plain --seeds", "--seeds requires at least 1"),
        ("up --port 70000", "--port. Must be < 65536."),
        ("cache verify", "Give the ids of artifacts, or --all"),
        ("cache verify x --all", "Give the ids of artifacts, or --all"),
        ("cache verify features/x", "'features/x' is neither an artifact id nor a part of the pool"),
        ("run plain --precision half", 'Choose from: "float32", "bfloat16", "int8", "fp8", "auto"'),
        ("run plain --limit 0", "--limit. Must be > 0."),
        ("run plain --batch-tokens many", "expected an integer, not 'many'"),
        ("inti", 'Did you mean "init"?'),
        ("--store '' cache ls", "expected a path, not an empty name"),
        ("report x -o ''", "expected a path, not an empty name"),
        ("ask '' Why?", "expected a video, not an empty name"),
        ("ask walk.mp4 ''", "for QUESTION. It must not be empty"),
        ("ask https://example.com/walk.mp4 Why?", "https://example.com/walk.mp4 is an address; expected a file"),
        ("cache show x --rows 1000000000000000000000", "Must be < 1"),
        ("plan plain --shard-megabytes inf", "Must be < 1"),
        *((typed, "It must not be empty.") for typed in WITH_EMPTY_NAME),
    ],
)
def test_a_usage_error_is_one_line_with_status_two(
    typed: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(shlex.split(typed))
    printed = capsys.readouterr()
    assert error.value.code == 2 and printed.out == ""
    assert message in printed.err and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert "--help`." in printed.err


def test_help_describes_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    for line in FROZEN.read_text().splitlines()[1:]:
        words = [word for word in line.split()[1:] if word.islower() and not word.startswith("-")]
        assert main([*words, "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[2].endswith(".") and "\x1b" not in "".join(lines)
        assert not [line for line in lines if line.startswith("  ") and ": " not in line], words


def test_the_last_value_of_a_global_option_wins_in_any_position(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", f"{tmp_path / 'here'}"]
    for words in (["cache", "ls", *store], [*store, "cache", "ls"], ["cache", *store, "ls", "-q"]):
        assert main(["--store", "elsewhere", *words]) == 0
        assert str(tmp_path / "here") in capsys.readouterr().out


def test_an_unknown_stage_error_suggests_the_nearest_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls", "--stage", "evalaute", "--store", str(tmp_path)]) == 1
    assert "'evalaute' is not a stage (did you mean 'evaluate'?)" in capsys.readouterr().err
    assert main(["cache", "ls", "--stage", "evaluate", "--store", str(tmp_path)]) == 0


@pytest.mark.parametrize("command", ["answers", "cache show", "cache ancestry"])
def test_an_artifact_without_a_record_is_reported_as_damaged(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    id = "answer_questions-v1-0123456789abcdef0123"
    (tmp_path / "artifacts" / id / "answers").mkdir(parents=True)
    for name in (id, "answer", "0123"):
        assert main([*command.split(), name, "--store", str(tmp_path)]) == 1
        message = capsys.readouterr().err
        assert "record.json: is lost" in message and f"sevila cache verify {id} --drop" in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["cache ls", "cache ls --json", "stages", "--help"])
def test_a_full_standard_output_is_one_error_line_with_status_one(
    command: str, unbuffered: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "cli", *command.split(), "--store", str(tmp_path)]
        done = subprocess.run(words, cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output: No space left on device;") and done.stderr.count("\n") == 1


def test_an_empty_source_path_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "plain", "--annotations", "plain="]) == 1
    assert "'plain=' names no place" in capsys.readouterr().err


def test_execution_options_have_the_same_names_in_command_form_and_api() -> None:
    command, run = ({each.name for each in fields(options)} for options in (ExecutionOptions, RunContext))
    assert Execution.model_fields.keys() - command == {"dispatch", "ray_address"}
    assert command - Execution.model_fields.keys() == {"tensorboard"}  # a local folder
    assert command - run == {"shard_megabytes"} and "shard_bytes" in run
    assert HowToRun.__annotations__.keys() - run == {"precision", "limit"}
