"""README and docs: commands parse, links resolve, and the README is short."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cli.app import app

ROOT = Path(__file__).parents[1]
GENERATED = {"tables.md", "recipes.md", "commands.md"}  # written by `make docs`
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
VARIABLE = re.compile(r'^(\w+)="(.*)"$', re.MULTILINE)
CODE = re.compile(r"^```(?:bash|console|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def shell_commands(document: Path) -> list[str]:
    """Return the commands in the shell code blocks of a document, with continuation lines joined."""
    code = "".join(CODE.findall(document.read_text(encoding="utf-8"))).replace("\\\n", " ")
    return [line.strip() for line in code.splitlines() if line.strip()]


def commands_in(document: Path) -> list[str]:
    """Return the `sevila` commands of a document, with variables replaced."""
    lines = shell_commands(document)
    for name, value in VARIABLE.findall("\n".join(lines)):
        lines = [line.replace(f"${name}", value) for line in lines]
    return [line for line in lines if line.startswith("sevila ") and "..." not in line and "--install" not in line]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_commands_parse(document: Path) -> None:
    for command in commands_in(document):
        tokens = shlex.split(command, comments=True)[1:]
        _, bound, _ = app.meta.parse_args(tokens, exit_on_error=False, print_error=False)
        app.parse_args(bound.args, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_repository_files_exist(document: Path) -> None:
    links = LINK.findall(document.read_text(encoding="utf-8"))
    targets = [link for link in links if "://" not in link and Path(link).name not in GENERATED]
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150 and max(map(len, lines)) <= 120
    assert len(commands_in(ROOT / "README.md")) > 5, "the blocks of code were not recognized"
