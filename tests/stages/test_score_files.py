"""Frame selection from the two JSON files of AKS: scores and frame numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from cache.errors import MissingSourceError, RecipeError, SchemaError, SevilaError
from cli import main
from cli.terminal import write_data
from reports.score_files import select_frames

GOLDEN = Path(__file__).parents[1] / "golden" / "selection" / "aks.json"

SCORES = [[0.1, 0.9, 0.3, 0.2], [], [5, 1.5]]
FRAMES = [[0, 25, 50, 75], [], [0, 30]]


def write_files(folder: Path, scores: Any = SCORES, frames: Any = FRAMES) -> tuple[Path, Path]:
    paths = folder / "scores.json", folder / "frames.json"
    for path, content in zip(paths, (scores, frames), strict=True):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return paths


def test_a_published_score_file_gives_the_published_frame_file(tmp_path: Path) -> None:
    published = json.loads(GOLDEN.read_text())
    paths = write_files(tmp_path, published["scores"], published["frames"])
    for k, selected in published["selected"].items():
        assert select_frames(*paths, "aks", int(k), {"official": True}) == selected


def test_the_command_gives_the_published_frame_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = json.loads(GOLDEN.read_text())
    paths = [str(path) for path in write_files(tmp_path, published["scores"], published["frames"])]
    k, selected = next(iter(published["selected"].items()))
    output = tmp_path / "made" / "selected_frames.json"
    words = ["keyframes", "select", *paths, "--selector", "aks", "--official", "--k", k]
    assert main([*words, "-o", str(output)]) == 0
    assert output.read_text() == json.dumps(selected) and capsys.readouterr().out == ""
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == selected


def test_the_command_takes_a_selectors_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(path) for path in write_files(tmp_path, [[0.5] * 400], [list(range(400))])]
    selections = []
    for seed in (1, 2, 1):
        assert main(["keyframes", "select", *paths, "--selector", "q_frame", "--k", "8", "--set", f"seed={seed}"]) == 0
        selections.append(json.loads(capsys.readouterr().out))
    expected = select_frames(Path(paths[0]), Path(paths[1]), "q_frame", 8, {"seed": 1})
    assert selections[0] == selections[2] == expected != selections[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--selector", "ask"], "no selector is called 'ask' (did you mean 'aks'?)"),
        (["--selector", "bolt", "--official"], "bolt has no option 'official'"),
        (["--set", "t1"], "--set t1: expected option=value"),
        (["--selector", "mdp3"], "mdp3 needs vectors of the frames, which score files do not contain"),
    ],
)
def test_an_invalid_command_is_one_error_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["keyframes", "select", *map(str, write_files(tmp_path)), *words]) == 1
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_the_output_is_a_json_file_and_not_an_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores, frames = write_files(tmp_path)
    before = scores.read_bytes()
    (tmp_path / "link.json").symlink_to(scores)
    for output, message in (
        (scores, "an input of the command; give another file"),
        (tmp_path / "link.json", "an input of the command; give another file"),
        (tmp_path / "out.parquet", "expected a file that ends in .json"),
    ):
        with pytest.raises(SystemExit):
            main(["keyframes", "select", str(scores), str(frames), "-o", str(output)])
        assert message in capsys.readouterr().err and scores.read_bytes() == before
    assert not (tmp_path / "out.parquet").exists()


def test_each_entry_has_its_own_selection(tmp_path: Path) -> None:
    assert select_frames(*write_files(tmp_path), "top_k", 2) == [[25, 50], [], [0, 30]]
    assert select_frames(*write_files(tmp_path, [], []), "top_k", 2) == []


def test_entries_with_equal_scores_are_sampled_independently(tmp_path: Path) -> None:
    paths = write_files(tmp_path, [[0.5] * 400] * 2, [list(range(400))] * 2)
    first, second = select_frames(*paths, "q_frame", 8)
    assert first != second
    assert select_frames(*paths, "q_frame", 8) == [first, second] != select_frames(*paths, "q_frame", 8, {"seed": 1})


@pytest.mark.parametrize(
    ("scores", "frames", "message"),
    [
        (SCORES[:2], FRAMES, r"scores.json has 2 entries, .*frames.json has 3"),
        ([*SCORES[:2], [1]], FRAMES, r"entry 2 \(from 0\): 1 scores in .*, 2 frames in .*"),
        ("[[1, NaN, 2, 3], [], [1, 2]]", FRAMES, r"scores.json: entry 0 \(from 0\), score 1 is NaN"),
        ("[[1, 2, 2, 3], [], [1, -Infinity]]", FRAMES, r"entry 2 \(from 0\), score 1 is -Infinity"),
        ("[[1, 2, 2, 1e999], [], [1, 2]]", FRAMES, r"entry 0 \(from 0\), score 3 is Infinity"),
        ([[1, 2, 2, 1e300], [], [1, 2]], FRAMES, r"entry 0 \(from 0\), score 3 is 1e\+300; expected a finite number"),
        ([[1, 2, None, 3], [], [1, 2]], FRAMES, r"entry 0 \(from 0\), score 2 is null; expected a finite number"),
        ([[1, 2, 3, "0.5"], [], [1, 2]], FRAMES, r'entry 0 \(from 0\), score 3 is "0.5"'),
        ([[1, 2, True, 3], [], [1, 2]], FRAMES, r"entry 0 \(from 0\), score 2 is true"),
        ([[1, 2, [3], 3], [], [1, 2]], FRAMES, r"entry 0 \(from 0\), score 2 is \[3\]"),
        ([[1, 2, 10**400, 3], [], [1, 2]], FRAMES, r"entry 0 \(from 0\), score 2 is 10{39}\.\.\.;"),
        ([SCORES[0], {}, SCORES[2]], FRAMES, r"scores.json: entry 1 \(from 0\) is \{\}; expected a list"),
        (SCORES, [FRAMES[0], [], [0, 1.0]], r"frames.json: entry 2 \(from 0\), frame 1 is 1.0; expected ascending"),
        (SCORES, [FRAMES[0], [], [5, 4]], r"entry 2 \(from 0\), frame 1 is 4 after 5; expected ascending"),
        (SCORES, [FRAMES[0], [], [5, 5]], r"entry 2 \(from 0\), frame 1 is 5 after 5; expected ascending .* each once"),
        (SCORES, [FRAMES[0], [], [-1, 4]], r"entry 2 \(from 0\), frame 0 is -1; expected ascending"),
        (SCORES, [FRAMES[0], [], [False, 4]], r"entry 2 \(from 0\), frame 0 is false"),
        (
            {"scores": SCORES},
            FRAMES,
            r'scores.json: holds \{"scores": .*\.\.\.; expected a list with one list per question',
        ),
        ("[[1, 2", FRAMES, r"scores.json: is not JSON \(.*line 1 column 7.*\)"),
        ("[" * 100_000, FRAMES, r"scores.json: is not JSON \(.*recursion"),
        ("", FRAMES, r"scores.json: is not JSON"),
        (SCORES, "<!doctype html><p>404", r"frames.json: an HTML page"),
    ],
)
def test_an_invalid_entry_is_an_error_that_names_it(tmp_path: Path, scores: Any, frames: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        select_frames(*write_files(tmp_path, scores, frames), "top_k", 2)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    scores, _ = write_files(tmp_path)
    with pytest.raises(MissingSourceError, match=r"nowhere.json: cannot be read"):
        select_frames(scores, tmp_path / "nowhere.json", "top_k", 2)


def test_selectors_that_need_more_than_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SevilaError, match="mdp3 needs vectors of the frames, which score files do not contain"):
        select_frames(*write_files(tmp_path), "mdp3", 2)
    with pytest.raises(SevilaError, match="oracle needs moments and seconds"):
        select_frames(*write_files(tmp_path), "oracle", 2)


def test_an_unknown_selector_option_or_k_is_refused_before_the_files_are_read(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.json"
    with pytest.raises(SevilaError, match="did you mean 'aks'"):
        select_frames(nowhere, nowhere, "ask", 2)
    with pytest.raises(RecipeError, match=r"bolt has no option .official. .options of bolt: power"):
        select_frames(nowhere, nowhere, "bolt", 2, {"official": True})
    with pytest.raises(SevilaError, match="k is 0"):
        select_frames(nowhere, nowhere, "aks", 0)


def test_writing_replaces_a_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    write_data("[[1, 2]]", output)
    write_data("[[3]]", output)
    assert output.read_text() == "[[3]]"
    assert list(tmp_path.iterdir()) == [output]
