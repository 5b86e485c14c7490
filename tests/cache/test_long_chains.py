"""Chains of artifacts longer than Python's recursion limit."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from cache.errors import CorruptArtifactError
from cache.gc import survey, sweep
from cache.lineage import ancestry, differences
from cache.manifest import with_inputs
from cache.notes import CHECKSUM, checksum
from cache.push import Push
from cache.record import RECORD, Record, artifact_id
from cache.remote import Remote
from cache.store import Store
from cache.verify import Verification
from reports.artifacts import ancestry_text, artifact_lines
from reports.disk_usage import usage

LENGTH = sys.getrecursionlimit() + 200


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str, str]:
    """Return a store of two chains whose first configs differ, and the last artifact of each; files are not synced."""
    store = Store(tmp_path_factory.mktemp("chains"))
    ends = []
    for seed in range(2):
        before: Record | None = None
        for number in range(LENGTH):
            config, inputs = {"seed": seed if number == 0 else 0}, {"before": before.id if before else None}
            id = artifact_id("make", 1, config, inputs)
            contents = {"before": before.content} if before else {}
            finished = "2020-01-01T00:00:00+00:00"
            before = Record(id, "make", 1, "thing", config, inputs, input_contents=contents, finished=finished).sealed()
            store.own(id).mkdir(parents=True)
            write_record(store, before)
        assert before is not None
        ends.append(before.id)
    return store, ends[0], ends[1]


def write_record(store: Store, record: Record) -> None:
    text = json.dumps({**record.as_note(), CHECKSUM: checksum(record.as_note())})
    (store.own(record.id) / RECORD).write_text(text)


def test_a_long_chain_is_listed_verified_and_traced(chains: tuple[Store, str, str]) -> None:
    store, end, _ = chains
    assert len(artifact_lines(store)) == 2 * LENGTH
    assert len(ancestry_text(ancestry(store, end)).splitlines()) == LENGTH
    verification = Verification(store)
    verification.artifacts(store)
    assert not verification.problems
    assert len(with_inputs(store, [end], store.exists)) == LENGTH


def test_two_long_chains_are_compared_down_to_their_first_difference(chains: tuple[Store, str, str]) -> None:
    assert differences(*chains) == ["make.seed: 0 -> 1"]


def test_changed_content_of_the_first_artifact_makes_the_last_stale(chains: tuple[Store, str, str]) -> None:
    store, end, _ = chains
    first = next(record for id in ancestry(store, end) if not (record := store.record(id)).inputs["before"])
    write_record(store, dataclasses.replace(first, rows={"things": 1}).sealed())
    try:
        assert store.why_stale(end).endswith(f"its input before {first.id} has other content now")
    finally:
        write_record(store, first)


def test_a_long_chain_is_measured_and_removed(chains: tuple[Store, str, str]) -> None:
    store, end, other = chains
    assert usage(store)
    assert [item.depth for item in survey(store, [end]).goes if item.name == other] == [LENGTH]
    sweep(store, [end], unnamed=True)
    assert len(list(store)) == LENGTH


def test_records_with_cyclic_inputs_are_listed_and_not_pushed(tmp_path: Path) -> None:
    store, ids = Store(tmp_path / "store"), ["make-v1-" + letter * 20 for letter in "ab"]
    for id, other in (ids, ids[::-1]):
        store.own(id).mkdir(parents=True)
        write_record(store, Record(id, "make", 1, "thing", {}, {"other": other, "self": id}).sealed())
    assert sorted(line.id for line in artifact_lines(store)) == ids
    assert len(survey(store).goes) == 2
    with pytest.raises(CorruptArtifactError, match="its stage, config and inputs have the id make-v1-"):
        Push(store, Remote(str(tmp_path / "remote")), [], [], False).run()
