from pathlib import Path

import pytest

from cache.errors import CorruptArtifactError
from cache.notes import read_note


@pytest.mark.parametrize("value", ["NaN", r'"\ud800"', "[" * 900 + "]" * 900, "[" * 10**5 + "]" * 10**5])
def test_a_note_of_what_nobody_writes_is_damaged_like_any_other(value: str, tmp_path: Path) -> None:
    (tmp_path / "note.json").write_text(f'{{"a": {value}, "checksum": "0"}}')
    with pytest.raises(CorruptArtifactError, match=r"note\.json"):
        read_note(tmp_path / "note.json")
