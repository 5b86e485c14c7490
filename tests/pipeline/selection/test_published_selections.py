"""Selections equal those of the published code, index by index."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.selection.registry import selector_named
from pipeline.selection.selector import Candidates

GOLDEN = Path(__file__).parents[2] / "golden" / "selection"
ALL_LISTS = next((each for up in GOLDEN.parents if (each := up / "shared" / "data" / "selection").is_dir()), None)
needs_all_lists = pytest.mark.skipif(ALL_LISTS is None, reason="the 24 lists are not beside this repository")


def aks_frames(published: dict[str, Any], k: int, official: bool) -> list[list[int]]:
    aks = selector_named("aks")
    options = aks.options_from({"official": official})
    return [
        [frames[position] for position in aks(Candidates.of(scores=scores), k, options)]
        for scores, frames in zip(published["scores"], published["frames"], strict=True)
    ]


def assert_matches_aks(published: dict[str, Any]) -> None:
    for k, selected in published["selected"].items():
        assert aks_frames(published, int(k), official=True) == selected, k


def assert_matches_bolt(scores: list[list[float]], published: dict[str, Any]) -> None:
    bolt = selector_named("bolt")
    for power, by_k in published.items():
        options = bolt.options_from({"power": 1.0 if power == "-1" else float(power)})
        for k, selected in by_k.items():
            chosen = [bolt(Candidates.of(scores=each), int(k), options).tolist() for each in scores]
            assert chosen == selected, (power, k)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_aks_chooses_the_frames_of_its_official_code() -> None:
    assert_matches_aks(read(GOLDEN / "aks.json"))


def test_bolt_chooses_the_positions_of_its_official_code() -> None:
    assert_matches_bolt(read(GOLDEN / "aks.json")["scores"], read(GOLDEN / "bolt.json"))


@needs_all_lists
def test_aks_chooses_the_frames_of_its_official_code_on_all_24_lists() -> None:
    assert ALL_LISTS is not None
    assert_matches_aks(read(ALL_LISTS / "aks_selection.json"))


@needs_all_lists
def test_bolt_chooses_the_positions_of_its_official_code_on_all_24_lists() -> None:
    assert ALL_LISTS is not None
    scores = read(ALL_LISTS / "aks_selection.json")["scores"]
    assert_matches_bolt(scores, read(ALL_LISTS / "bolt_selection.json")["selected_positions_by_power_and_k"])


def test_aks_chooses_16_frames_by_default_where_its_official_code_chooses_none() -> None:
    published = read(GOLDEN / "aks.json")
    official = [len(frames) for frames in aks_frames(published, 16, official=True)]
    assert official == [0, 0, 0, 0, 16]
    assert [len(frames) for frames in aks_frames(published, 16, official=False)] == [16] * 5


@pytest.mark.parametrize("k", [32, 64])
def test_default_aks_matches_its_official_code_for_large_k(k: int) -> None:
    published = read(GOLDEN / "aks.json")
    assert aks_frames(published, k, official=False) == published["selected"][str(k)]
