"""Generated pages of the manual cover every table, key and command."""

import sys
from pathlib import Path

import pytest

from cli.app import app
from pipeline.engine.recipe import available, section_configs
from stages.all import STAGES
from stages.score_frames import FrameScores

pytest.importorskip("mkdocs")
sys.path.append(str(Path(__file__).parents[1] / "docs"))
pages = __import__("pages")


def test_every_table_column_is_documented_with_its_schema_comment() -> None:
    text = pages.tables()
    for stage in STAGES.values():
        for name, schema in stage.output.tables.items():
            section = text.split(f"## {name}, of {stage.name}\n")[1].split("\n## ")[0]
            assert all(f"| `{column}` | " in section for column in schema.columns)
    assert "| `probability_yes` | float32 or not finite | softmax over the whole vocabulary |" in text
    assert pages.column_notes(FrameScores)["frame_scores", "position"] == "in the question's clip"
    assert "| `rows` | list\\<int32\\> | rows of these frames among the video's frames" in text
    assert "The parts of the video that answer a question, where the data set knows them" in text.split("## moments")[1]


def test_every_column_has_a_meaning_and_every_table_its_own_description() -> None:
    lines = [line for line in pages.tables().splitlines() if line.startswith("| `")]
    assert [line for line in lines if not line.rstrip("| ").split(" | ")[2:]] == []
    assert "| `gradient_norm` | float64 | before clipping |" in lines
    assert "| `width` | int32 or null | of the coded pictures, in pixels |" in lines
    text = pages.tables()
    assert "\nOne optimizer step; a row of the table `curves`.\n" in text  # the row's docstring, not the artifact's
    assert "\nWhat is said, in the video's time; no rows unless" in text


def test_code_in_a_description_stays_code() -> None:
    assert "data set, as `sevila datasets` names it" in pages.recipes()


def test_every_recipe_and_key_is_documented_with_its_default() -> None:
    text = pages.recipes()
    for section, config in section_configs(STAGES).items():
        body = text.split(f"### [{section}]\n")[1].split("\n### ")[0]
        assert all(f"| `{key}` | `{field.default!r}` | " in body for key, field in config.model_fields.items())
    assert all(f"| `{name}` | " in text for name in available())


def test_every_command_is_documented_with_its_options() -> None:
    text = pages.commands()
    assert text.startswith("# Commands\n")
    assert all(f"[`{name}`](#sevila-{name})" in text for name in app if not name.startswith("-"))
    assert "--batch-tokens" in text and "tokens in a forward pass" in text
