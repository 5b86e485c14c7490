"""What commands print: nothing of other people's steers a terminal, a log or a spreadsheet, and no output breaks the work."""

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


def steers(text: str) -> set[str]:
    """Return what a terminal would obey, or take for another line."""
    bad = {sign for sign in text if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    return bad - {"\n", *JOINERS}


def run(*words: str, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a process of its own."""
    ours = {"PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "cli", *words]
    return subprocess.run(command, cwd=cwd, env=os.environ | ours | environment, capture_output=True)


@pytest.fixture(scope="module")
def evil(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A world whose annotations try to steer, a store after a run of it, and everything that the run printed."""

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


def test_a_name_of_thousands_of_characters_is_cut_in_the_middle_of_what_a_run_prints(
    evil: tuple[Path, Path, str],
) -> None:
    (line,) = [line for line in evil[2].splitlines() if "beginsnnn" in line]
    assert len(line) < 500 and "nnn...nnn" in line and "missing" in line


def test_annotations_reach_neither_terminal_nor_log_raw(
    evil: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    world, store, told = evil
    assert r"\x1b[31m\u202eevil\u2028" in told and "purple" in told
    capsys.readouterr()
    for command in (
        ["answers", "answer_questions"],
        ["cache", "show", "list_questions", "--rows", "99"],
        ["cache", "show", "evaluate", "--rows", "99"],
        ["datasets", "plain", "--annotations", f"plain={world / 'questions.csv'}"],
    ):
        assert main([*command, "--store", str(store)]) == 0
        told += "".join(capsys.readouterr()).replace("\r\n", "\n")  # CSV ends its lines so
    assert not steers(told)
    assert not any(line.startswith("error: forged") for line in told.splitlines())


def test_file_names_in_errors_are_printable_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"x{EVIL}.toml".replace("/", "")
    (tmp_path / name).write_text("[nonsense]\n")
    assert main(["run", str(tmp_path / name)]) == 1
    told = capsys.readouterr().err
    assert not steers(told) and told.count("\n") == 1 and r"\x1b[31m" in told
    with pytest.raises(SystemExit):
        main(["recipes", name])
    assert not steers(capsys.readouterr().err)


def test_log_records_and_tracebacks_are_printable_whoever_writes_them(capsys: pytest.CaptureFixture[str]) -> None:
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
    told = stream.getvalue()
    assert not steers(told) and "Traceback" in told
    assert not any(line.startswith("error: forged") for line in told.splitlines())


def test_joiners_and_letters_of_every_script_stay_as_they_are() -> None:
    text = "نمی\u200cخواهم 👩\u200d👧 क्\u200dष Zoë 日本\u3000語\xa0"
    assert printable(text) == text


def test_markdown_and_html_in_cells_are_escaped_and_our_own_markup_is_not() -> None:
    table = markdown([["type", "id"], ["<b>|*x*|[a](javascript:b)\n&lt;_y_ what_colour", code("score`v1")]])
    shown = r"\<b\>\|\*x\*\|\[a\](javascript:b)\\n\&lt;\_y\_ what_colour"
    assert table.splitlines()[2] == f"| {shown} | `` score`v1 `` |"
    assert escaped("# `x`") == r"\# \`x\`"


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"])
def test_no_cell_of_a_csv_for_people_begins_a_formula(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(as_csv([{"question": text}])))
    assert row["question"] == "'" + printable(text)


def test_numbers_in_a_csv_for_people_stay_numbers() -> None:
    values: list[Any] = ["-5", "+3.25", "1e-3", "-1,5", -0.5, True, "", "plain"]
    (row,) = csv.DictReader(io.StringIO(as_csv([{str(place): value for place, value in enumerate(values)}])))
    assert list(row.values()) == ["-5", "+3.25", "1e-3", "-1,5", "-0.5", "True", "", "plain"]


def test_answers_of_an_artifact_that_holds_none_are_an_error_that_names_the_expected_stages(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for prefix in ("score", "list_questions", "evaluate"):
        assert main(["answers", prefix, "--store", str(finished)]) == 1
        assert "expected an artifact of answer_questions" in capsys.readouterr().err


def test_a_reader_that_has_read_enough_is_no_error_message(finished: Path) -> None:
    for words in (["stages"], ["cache", "ls", "--json", "--store", str(finished)], ["run", "--help"]):
        read, write = os.pipe()
        os.close(read)  # as `head` does at its end
        command = [sys.executable, "-m", "cli", *words]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=REPOSITORY, env=environment)
        os.close(write)
        assert done.stderr == b"" and done.returncode == 141


def test_a_terminal_that_lacks_a_letter_gets_it_escaped_and_files_get_utf_8(evil: tuple[Path, Path, str]) -> None:
    world, store, _ = evil
    done = run(*arguments("run", world, store), LC_ALL="C", PYTHONIOENCODING="")
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert rb"O\xf9 est Zo\xeb \u2603?" in done.stdout
    for command in (["answers", "answer_questions"], ["cache", "ls", "--json"]):
        done = run(*command, "--store", str(store), LC_ALL="C")
        assert done.returncode == 0 and done.stdout.decode("utf-8")
        assert command[0] == "cache" or "Où est Zoë ☃?" in done.stdout.decode("utf-8")
    json.loads(done.stdout)


def test_a_benchmark_of_which_nothing_ran_does_not_speak_of_regressions(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = tmp_path / "empty.toml"
    matrix.write_text(f'[recipes."{SMALL}"]\nchosen = []\n')
    assert main(["benchmark", str(matrix), *arguments("run", demo, tmp_path / "store")[2:]]) == 1
    told = capsys.readouterr().out
    assert "nothing was measured, 1 failed" in told and "no regression" not in told


def test_a_benchmark_runs_where_temporary_files_have_long_names(demo: Path, store: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "long.toml"
    matrix.write_text(f'[recipes."{SMALL}"]\nchosen = []\n')
    folder = tmp_path / ("t" * 142)
    folder.mkdir()
    done = run("benchmark", str(matrix), *arguments("run", demo, store)[2:], TMPDIR=str(folder))
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert b"no regression" in done.stdout


def test_json_for_programs_steers_no_terminal_and_means_what_it_meant(
    evil: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"{EVIL}\x7f\x85\U000e0041\ud800 ünï می\u200cخواهم"
    shown = printable_json(json.dumps({"a": text, "b": [1]}, indent=1, ensure_ascii=False))
    assert json.loads(shown) == {"a": text, "b": [1]} and not steers(shown) and "ünï می\u200cخواهم" in shown
    _, store, _ = evil
    capsys.readouterr()
    for command in (["cache", "ls"], ["runs"]):
        assert main([*command, "--json", "--store", str(store)]) == 0
        assert not steers(capsys.readouterr().out)


def test_python_without_checks_is_refused_in_one_line() -> None:
    done = run("cache", "ls", PYTHONOPTIMIZE="2")
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr.decode().startswith("error: Python's option -O") and done.stderr.count(b"\n") == 1
