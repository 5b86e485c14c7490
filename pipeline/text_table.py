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


def markdown(lines: Cells) -> str:
    """Cells as a table in Markdown, the first line its head; columns as in `aligned`."""
    head, *rest = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest))
