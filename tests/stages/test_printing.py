"""Printed output: foreign text cannot control a terminal, a log or a spreadsheet, and printing never fails the work."""

import csv
import io
import json
import logging
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from cache.printable import JOINERS, printable
from cli import main
from cli.terminal import printable_json
from pipeline.text_table import code, escaped, markdown
from reports.answer_table import as_csv
from tests.small_world import SMALL
from tests.stages.runs import arguments, edited

REPOSITORY = Path(__file__).parents[2]
EVIL = "\x1b]0;owned\x07\x1b[31m\u202eevil\u2028\r\nerror: forged\x9b2J"


def control_characters(text: str) -> set[str]:
    """Return the characters that a terminal would obey or take for a line break."""
    bad = {sign for sign in text if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    return bad - {"\n", *JOINERS}


def run(*words: str, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a subprocess."""
    ours = {"PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "cli", *words]
    return subprocess.run(command, cwd=cwd, env=os.environ | ours | environment, capture_output=True)


@pytest.fixture(scope="module")
def evil(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A world with control characters in its annotations, a store after a run of it, and the run's output."""

    def edit(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        rows[0] |= {"question": f"What {EVIL}?", "type": f"colour{EVIL}"}
        rows[1] |= {"question": "Où est Zoë ☃?"}
        nowhere = {"video": f"begins{'n' * 6000}"}
        return [*rows, rows[1] | {"video": f"none{EVIL}"}, rows[1] | nowhere, rows[2] | {"answer": f"purple{EVIL}"}]

    folder = tmp_path_factory.mktemp("evil")
    world = edited(demo, folder / "world", edit)
    done = run(*arguments("run", world, folder / "store"))
    assert done.returncode == 0, done.stderr.decode()
    return world, folder / "store", (done.stdout + done.stderr).decode()


def test_run_shortens_very_long_names(
    evil: tuple[Path, Path, str],
) -> None:
    (line,) = [line for line in evil[2].splitlines() if "beginsnnn" in line]
    assert len(line) < 500 and "nnn...nnn" in line and "missing" in line


def test_control_characters_of_annotations_are_escaped(
    evil: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    world, store, output = evil
    assert r"\x1b[31m\u202eevil\u2028" in output and "purple" in output
    capsys.readouterr()
    for command in (
        ["answers", "answer_questions"],
        ["cache", "show", "list_questions", "--rows", "99"],
        ["cache", "show", "evaluate", "--rows", "99"],
        ["datasets", "plain", "--annotations", f"plain={world / 'questions.csv'}"],
    ):
        assert main([*command, "--store", str(store)]) == 0
        output += "".join(capsys.readouterr()).replace("\r\n", "\n")  # line ends of CSV
    assert not control_characters(output)
    assert not any(line.startswith("error: forged") for line in output.splitlines())


def test_file_names_in_errors_are_printable_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"x{EVIL}.toml".replace("/", "")
    (tmp_path / name).write_text("[nonsense]\n")
    assert main(["run", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert not control_characters(error) and error.count("\n") == 1 and r"\x1b[31m" in error
    with pytest.raises(SystemExit):
        main(["recipes", name])
    assert not control_characters(capsys.readouterr().err)


def test_log_records_and_tracebacks_of_any_library_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    stream = io.StringIO()
    handler, log = logging.StreamHandler(stream), logging.getLogger("some.library")
    log.addHandler(handler)
    try:
        log.warning("reading %s", EVIL)
        try:
            raise KeyError(EVIL) from ValueError(EVIL)
        except KeyError:
            log.exception("failed at %s", EVIL)
    finally:
        log.removeHandler(handler)
    output = stream.getvalue()
    assert not control_characters(output) and "Traceback" in output
    assert not any(line.startswith("error: forged") for line in output.splitlines())


def test_joiners_and_letters_of_every_script_are_kept() -> None:
    text = "نمی\u200cخواهم 👩\u200d👧 क्\u200dष Zoë 日本\u3000語\xa0"
    assert printable(text) == text


def test_table_cells_escape_markdown_and_html_except_code_spans() -> None:
    table = markdown([["type", "id"], ["<b>|*x*|[a](javascript:b)\n&lt;_y_ what_colour", code("score`v1")]])
    shown = r"\<b\>\|\*x\*\|\[a\](javascript:b)\\n\&lt;\_y\_ what_colour"
    assert table.splitlines()[2] == f"| {shown} | `` score`v1 `` |"
    assert escaped("# `x`") == r"\# \`x\`"


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"])
def test_no_csv_cell_begins_a_formula(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(as_csv([{"question": text}])))
    assert row["question"] == "'" + printable(text)


def test_numbers_in_a_csv_are_unchanged() -> None:
    values: list[Any] = ["-5", "+3.25", "1e-3", "-1,5", -0.5, True, "", "plain"]
    (row,) = csv.DictReader(io.StringIO(as_csv([{str(place): value for place, value in enumerate(values)}])))
    assert list(row.values()) == ["-5", "+3.25", "1e-3", "-1,5", "-0.5", "True", "", "plain"]


def test_answers_of_another_kind_of_artifact_are_an_error(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for prefix in ("score", "list_questions", "evaluate"):
        assert main(["answers", prefix, "--store", str(finished)]) == 1
        assert "expected an artifact of answer_questions" in capsys.readouterr().err


def test_a_closed_pipe_prints_no_error(finished: Path) -> None:
    for words in (["stages"], ["cache", "ls", "--json", "--store", str(finished)], ["run", "--help"]):
        read, write = os.pipe()
        os.close(read)  # as `head` does at its end
        command = [sys.executable, "-m", "cli", *words]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=REPOSITORY, env=environment)
        os.close(write)
        assert done.stderr == b"" and done.returncode == 141


def test_run_escapes_unencodable_characters_and_data_is_utf_8(evil: tuple[Path, Path, str]) -> None:
    world, store, _ = evil
    done = run(*arguments("run", world, store), LC_ALL="C", PYTHONIOENCODING="")
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert rb"O\xf9 est Zo\xeb \u2603?" in done.stdout
    for command in (["answers", "answer_questions"], ["cache", "ls", "--json"]):
        done = run(*command, "--store", str(store), LC_ALL="C")
        assert done.returncode == 0 and done.stdout.decode("utf-8")
        assert command[0] == "cache" or "Où est Zoë ☃?" in done.stdout.decode("utf-8")
    json.loads(done.stdout)


def test_a_benchmark_without_measurements_does_not_report_no_regression(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = tmp_path / "empty.toml"
    matrix.write_text(f'[recipes."{SMALL}"]\nchosen = []\n')
    assert main(["benchmark", str(matrix), *arguments("run", demo, tmp_path / "store")[2:]]) == 1
    output = capsys.readouterr().out
    assert "nothing was measured, 1 failed" in output and "no regression" not in output


def test_a_benchmark_runs_with_a_long_temporary_folder(demo: Path, store: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "long.toml"
    matrix.write_text(f'[recipes."{SMALL}"]\nchosen = []\n')
    folder = tmp_path / ("t" * 142)
    folder.mkdir()
    done = run("benchmark", str(matrix), *arguments("run", demo, store)[2:], TMPDIR=str(folder))
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert b"no regression" in done.stdout


def test_json_output_escapes_control_characters_and_keeps_its_values(
    evil: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"{EVIL}\x7f\x85\U000e0041\ud800 ünï می\u200cخواهم"
    shown = printable_json(json.dumps({"a": text, "b": [1]}, indent=1, ensure_ascii=False))
    assert json.loads(shown) == {"a": text, "b": [1]} and not control_characters(shown) and "ünï می\u200cخواهم" in shown
    _, store, _ = evil
    capsys.readouterr()
    for command in (["cache", "ls"], ["runs"]):
        assert main([*command, "--json", "--store", str(store)]) == 0
        assert not control_characters(capsys.readouterr().out)


def test_python_with_option_o_is_refused() -> None:
    done = run("cache", "ls", PYTHONOPTIMIZE="2")
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr.decode().startswith("error: Python's option -O") and done.stderr.count(b"\n") == 1
