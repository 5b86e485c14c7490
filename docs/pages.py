"""Pages of the documentation that are generated from the code: tables, recipes and keys, commands; a hook of mkdocs.yml."""

from __future__ import annotations

import ast
import inspect
import sys
import tokenize
from collections.abc import Iterator, Mapping
from io import StringIO
from types import ModuleType
from typing import Any, get_args

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from cache import pool_listing
from cache.tables import OR_NOT_FINITE, OR_NULL
from cli.app import app
from pipeline.engine.recipe import available, load, section_configs
from pipeline.engine.stage import Config
from pipeline.text_table import Markup, code, escaped, markdown
from stages.all import STAGES

TABLES = """# Tables

The output of stages: Parquet files in the artifact's folder, `<store>/artifacts/<id>/NAME.parquet`, or a folder `NAME` with a
file per shard. Names contain the unit: `seconds`, `_percent`, `size_bytes`; `frame_index` counts the frames of a video from 0. A
null means "not known". `sevila.artifact(ID).arrow(NAME)` reads a table in Python."""

# Descriptions of columns by name, for those without a comment in the schema.
EVERYWHERE = {
    "question_id": "of the question, as in questions of list_questions",
    "video_id": "of the video, as in videos of list_questions",
    "clip_id": "of the part of the video that the question is about, as in questions of list_questions",
    "status": "ok or failed",
    "reason": "of the failure, `code: details` or a code alone; empty if it did not fail",
    "frame_index": "of the frame in the video, from 0",
    "seconds": "of the frame in the video",
    "start_seconds": "in the video",
    "end_seconds": "in the video",
    "position": "of the frame in the question's clip, from 0",
    "path": "below the folder of videos",
    "other_paths": "alternative paths",
    "file": "name of the file",
    "line": "of the file, from 1",
    "text": "of the subtitle, reply or answer",
    "clip": "number of the interval of 2 s, from 0",
    "ratings": "one per annotator, 0 to 4",
    "prediction": "index of the chosen option; null when failed",
    "option_logits": "raw logits of the options' letters, as in answers",
    "n_questions": "number of questions",
    "mean_average_precision_percent": "mean over the queries",
    "phase": "read, see or tell: language model, ViT, Q-Former",
    "figure": "what was measured",
    "share": "of the held-out texts or images, 0 to 1",
}

RECIPES = """# Recipes and keys

A recipe is a TOML file with a section per stage; `sevila run` takes its name or path. The package has these:"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the written ones."""
    for name, text in {"tables.md": tables(), "recipes.md": recipes(), "commands.md": commands()}.items():
        files.append(File.generated(config, name, content=text))
    return files


def commands() -> str:
    """Return every command with its options."""
    return str(app.generate_docs()).replace("# sevila", "# Commands", 1)


def recipes() -> str:
    """Return the recipes, and every key of every section."""
    rows = [[code(name), Markup(load(name, STAGES).description)] for name in available()]
    parts = [RECIPES, markdown([["recipe", "about"], *rows], n_left=2), "## Keys"]
    for section, config in section_configs(STAGES).items():
        about = STAGES[section].summary if section in STAGES else str(inspect.getdoc(config))
        parts += [f"### [{section}]", about, _keys(config)]
    return "\n\n".join(parts)


def _keys(config: type[Config]) -> str:
    rows: list[list[str]] = []
    for key, field in config.model_fields.items():
        choices = [str(code(choice)) for choice in get_args(field.annotation) if isinstance(choice, str)]
        meaning = Markup("; ".join(filter(None, (", ".join(choices), _with_code(field.description or "")))))
        rows.append([code(key), code(repr(field.default)), meaning])
    return markdown([["key", "default", "meaning"], *rows], n_left=3) if rows else "It has no keys."


def _with_code(text: str) -> Markup:
    """Return a text as Markdown, with backticks marking code."""
    return Markup("".join(code(part) if n % 2 else escaped(part) for n, part in enumerate(text.split("`"))))


def tables() -> str:
    """Return the columns of every stage's tables, with their comments in the schema."""
    parts = [TABLES]
    for stage in STAGES.values():
        notes = column_notes(stage.output)
        for name, schema in stage.output.tables.items():
            rows = [
                [
                    code(column),
                    kind
                    + OR_NULL * (column in schema.may_be_null)
                    + OR_NOT_FINITE * (column in schema.may_be_not_finite),
                    _with_code(notes.get((name, column)) or EVERYWHERE.get(column, "")),
                ]
                for column, kind in schema.columns.items()
            ]
            whole = str(inspect.getdoc(stage.output)).split("\n\n")[0].replace("\n", " ")
            about = notes.get((name, ""), whole)
            heading = f"## {name}, of {stage.name}"
            parts += [heading, about, markdown([["column", "type", "meaning"], *rows], n_left=3)]
    return "\n\n".join(parts)


def column_notes(kind: type[Any]) -> Mapping[tuple[str, str], str]:
    """Return the comment of each column of an artifact's tables, by table and column; column "" is the table itself."""
    owners = [base for base in reversed(kind.__mro__) if "tables" in vars(base)]
    of_owners = [notes for owner in owners for notes in _notes(owner)]
    parts = dict(_notes(pool_listing))["PARTS"]
    return {
        (name, column): note
        for name, columns in [*of_owners, *([("parts", parts)] if "parts" in kind.tables else [])]
        for column, note in columns.items()
    }


def _notes(holder: type[Any] | ModuleType) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name of each schema in a class's dict or in a module, with the comments of its columns.

    A schema is `Schema(...)`, or `schema_of(N, ROW)`, whose columns are the fields of the class ROW.
    """
    tree, comments = _parsed(holder)
    for node in ast.walk(tree):
        named = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else []
        if isinstance(node, ast.Assign):
            named = [(node.targets[0], node.value)]
        for name, call in named:
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            if call.func.id == "schema_of":
                notes = _row_notes(vars(sys.modules[holder.__module__])[ast.unparse(call.args[1])])
            elif call.func.id == "Schema":
                lines = {str(column.arg): column.lineno for column in call.keywords}
                lines = {"": call.lineno} | ({} if call.lineno in lines.values() else lines)
                notes = {column: _comment(comments, line) for column, line in lines.items()}
            else:
                continue
            yield ast.unparse(name).strip("'"), {column: note for column, note in notes.items() if note}


def _row_notes(row: type[Any]) -> dict[str, str]:
    """Return what a class of rows says of itself, by "", and the comment at each of its fields."""
    tree, comments = _parsed(row)
    fields = [node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]
    notes = {ast.unparse(field.target): _comment(comments, field.lineno) for field in fields}
    return {"": " ".join(str(inspect.getdoc(row)).split()), **notes}


def _parsed(holder: type[Any] | ModuleType) -> tuple[ast.Module, dict[int, tokenize.TokenInfo]]:
    """Return the source of a class or module as a tree, and its comments by line."""
    source = inspect.getsource(holder)
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    return ast.parse(source), {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}


def _comment(comments: Mapping[int, tokenize.TokenInfo], line: int) -> str:
    """Return the comment at the end of a line, or the one that fills the lines above it."""
    if line in comments:
        return comments[line].string.strip("# ")
    above = line - 1
    while above in comments and not comments[above].line.split("#")[0].strip():
        above -= 1
    return " ".join(comments[number].string.strip("# ") for number in range(above + 1, line))
