"""Why two artifacts differ: the configs and outside inputs, anywhere upstream, that are not the same."""

from __future__ import annotations

from cache.store import Store


def differences(store: Store, a: str, b: str) -> list[str]:
    """Return one line per difference, upstream first, `stage.key: A's value -> B's`; empty for one and the same artifact.

    A chain of artifacts that the store no longer holds, or that other stages made, is followed no further.
    """
    lines: list[str] = []
    seen: set[tuple[str | None, str | None]] = set()

    def walk(name: str, id_a: str | None, id_b: str | None) -> None:
        if id_a == id_b or (id_a, id_b) in seen:
            return
        seen.add((id_a, id_b))
        if id_a is None or id_b is None or not (store.exists(id_a) and store.exists(id_b)):
            lines.append(f"{name}: {id_a or 'none'} -> {id_b or 'none'}")
            return
        of_a, of_b = store.record(id_a), store.record(id_b)
        if of_a.stage != of_b.stage:
            lines.append(f"{name}: {id_a} -> {id_b}")
            return
        for key in dict.fromkeys([*of_a.inputs, *of_b.inputs]):
            walk(f"{of_a.stage}.{key}", of_a.inputs.get(key), of_b.inputs.get(key))
        settings_a, settings_b = ({"version": record.version} | record.config for record in (of_a, of_b))
        for key in dict.fromkeys([*settings_a, *settings_b]):
            if settings_a.get(key) != settings_b.get(key):
                lines.append(f"{of_a.stage}.{key}: {settings_a.get(key)} -> {settings_b.get(key)}")

    walk("answers", a, b)
    return lines
