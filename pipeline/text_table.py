"""Tables for a terminal, and for pages in Markdown."""

from collections.abc import Callable, Sequence

Cells = Sequence[Sequence[str]]
Table = Callable[[Cells], str]  # one of the two below


def aligned(lines: Cells) -> str:
    """Cells as columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip() for name, *cells in lines
    )


def markdown(lines: Cells, n_left: int = 1) -> str:
    """Cells as a table in Markdown, the first line its head; the first `n_left` columns to the left, the others to the right."""
    head, *rest = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---" if column < n_left else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest))
