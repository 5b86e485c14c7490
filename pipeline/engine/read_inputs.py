"""Detection of inputs that change while a stage reads them, by comparing their content before and after."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cache.errors import InputChangedError, SevilaError
from cache.store import Store
from pipeline.engine.stage import Artifact, Stage

log = logging.getLogger("sevila")


@dataclass(frozen=True)
class ReadInputs:
    """The content digest of each input artifact of `artifact`, by the input's name, before this process reads it."""

    artifact: str
    contents: dict[str, str] = field(default_factory=dict)
    _artifacts: Mapping[str, Artifact] = field(default_factory=dict)

    @classmethod
    def of(cls, id: str, stage: Stage, inputs: Sequence[Any]) -> ReadInputs:
        """Drop the inputs' cached data of files that were replaced meanwhile, and record their content.

        Raises:
            InputChangedError: an input is gone or stale, and must be rebuilt first.
        """
        artifacts = {
            name: value for name, value in zip(stage.inputs, inputs, strict=True) if isinstance(value, Artifact)
        }
        known: dict[str, str] = {}
        for name, value in artifacts.items():
            value.forget()
            why = value.store.why_stale(value.record.id, known)
            if why:
                raise InputChangedError(
                    f"{stage.name}: its input {name} {value.id} is stale: {why}; run its recipe again"
                )
        return cls(id, {name: value.record.content for name, value in artifacts.items()}, artifacts)

    @property
    def header(self) -> dict[str, Any]:
        """The header of notes of unfinished work, which limits them to this artifact and these input contents."""
        return {"artifact": self.artifact, "input_contents": self.contents}

    def check(self) -> None:
        """Raise `InputChangedError` if an input is missing or stale, or its content has changed."""
        known: dict[str, str] = {}
        for name, value in self._artifacts.items():
            problem = _problem(value.store, str(value.id), known, self.contents[name])
            if problem:
                raise InputChangedError(
                    f"{self.artifact}: while it was made, its input {name} {value.id} {problem}; nothing of it is kept: run "
                    "its recipe again"
                )

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Guard a block that reads the inputs.

        Raises:
            InputChangedError: the block failed, and an input has changed, which may be the cause.
        """
        try:
            yield
        except (SevilaError, OSError) as error:
            try:
                self.check()
            except InputChangedError as change:
                raise change from error
            raise


def _problem(store: Store, id: str, known: dict[str, str], content: str) -> str:
    if not store.exists(id):
        return "is gone, or is being rebuilt"
    if store.record(id).content != content:
        return "was rebuilt with other content"
    why = store.why_stale(id, known)
    return f"is stale: {why}" if why else ""
