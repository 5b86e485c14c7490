"""Selectors are added as a file in the folder or as an entry point of a package."""

import sys
from pathlib import Path

import pytest

import pipeline.selection
from cache.errors import SevilaError
from pipeline.selection.registry import selector_named, selector_names
from pipeline.selection.selector import Candidates
from tests.conftest import Package

FILE = """
from pipeline.selection.selector import selector

@selector(version=1, source="nobody")
def {name}(n_frames, k):
    return {positions}
"""


def test_a_file_in_the_folder_is_a_selector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first_frames.py").write_text(FILE.format(name="first_frames", positions="range(min(n_frames, k))"))
    monkeypatch.setattr(pipeline.selection, "__path__", [*pipeline.selection.__path__, str(tmp_path)])
    try:
        assert "first_frames" in selector_names()
        assert selector_named("first_frames")(Candidates.of(n_frames=9), 3).tolist() == [0, 1, 2]
    finally:
        sys.modules.pop("pipeline.selection.first_frames", None)


def test_a_package_offers_a_selector_by_an_entry_point(package: Package) -> None:
    package("last_frame", FILE.format(name="last_frame", positions="[n_frames - 1]"))
    assert "last_frame" in selector_names()
    assert selector_named("last_frame")(Candidates.of(scores=[3.0, 1.0]), 1).tolist() == [1]


@pytest.mark.parametrize("positions", ["[2, 1]", "[1, 1]", "[-1]", "[9]", "[0, 1, 2]", "[0.5]", "[[0, 1]]", "[True]"])
def test_invalid_positions_of_a_selector_are_refused(package: Package, positions: str) -> None:
    package("wrong", FILE.format(name="wrong", positions=positions))
    with pytest.raises(SevilaError, match=r"selector wrong chose .* expected at most 2 positions, ascending"):
        selector_named("wrong")(Candidates.of(n_frames=9), 2)


def test_a_selector_that_cannot_be_loaded_does_not_affect_others(package: Package) -> None:
    package("broken", "import no_such_module_anywhere\n")
    assert "broken" in selector_names()
    assert selector_named("top_k").name == "top_k"
    with pytest.raises(SevilaError, match=r"'broken' of theirs cannot be loaded: .*no_such_module_anywhere"):
        selector_named("broken")


def test_an_entry_point_that_is_not_a_selector_is_refused(package: Package) -> None:
    package("plain", "def plain(scores, k):\n    return [0]\n")
    with pytest.raises(SevilaError, match=r"entry point 'plain' of theirs is a function; .*declared by"):
        selector_named("plain")


HEAD = "from pipeline.selection.selector import Options, selector\n\n@selector(version=1, source='a test')\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def odd(score, k): ...", "odd takes score, k; expected k, options and any of n_frames, scores, .*"),
        ("def odd(scores): ...", "odd takes scores; expected k, options and"),
        ("def odd(k, options): ...", "the type of options is None; expected a class derived from Options"),
        ("def odd(k, rng): ...", "odd takes rng; expected options of a class derived from SeededOptions"),
        ("def odd(k): return 1 / 0", "selector odd failed: ZeroDivisionError.* \\(theirs_selectors.py, line 4\\)"),
    ],
)
def test_a_selector_with_invalid_parameters_or_an_error_is_reported(code: str, message: str, package: Package) -> None:
    package("odd", f"{HEAD}{code}\n")
    with pytest.raises(SevilaError, match=message):
        selector_named("odd")(Candidates.of(n_frames=9), 2)


def test_two_selectors_with_one_name_are_refused_with_their_packages(package: Package) -> None:
    package("aks", FILE.format(name="aks", positions="[0]"))
    with pytest.raises(SevilaError, match="'aks' is offered by this package and theirs"):
        selector_named("aks")


def test_an_unknown_selector_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SevilaError, match=r"'topk' \(did you mean 'top_k'\?\); there are: aks, bolt, "):
        selector_named("topk")
