"""Tables for terminals and for pages."""

from pipeline.text_table import NBSP, aligned, markdown

SPAN = f"(44.2{NBSP}-{NBSP}53.8)"
TABLE = [
    ["keyframes", "zero-shot", "fine-tuned"],
    ["untrained Localizer", f"49.0 {SPAN}", "60.0"],
    ["oracle", "-", "94.2"],
]


def test_a_table_too_wide_for_the_terminal_wraps_cells_between_words() -> None:
    assert aligned(TABLE, columns=36).splitlines() == [
        "keyframes      zero-shot  fine-tuned",
        "untrained           49.0        60.0",
        "Localizer  (44.2 - 53.8)",
        "oracle                 -        94.2",
    ]


def test_a_table_that_fits_has_one_line_per_row() -> None:
    wide = aligned(TABLE).splitlines()
    assert len(wide) == 3 and "untrained Localizer  49.0 (44.2 - 53.8)" in wide[1]
    assert aligned(TABLE, columns=80).splitlines() == wide


def test_a_table_whose_words_do_not_fit_is_not_wrapped() -> None:
    assert aligned(TABLE, columns=20) == aligned(TABLE)


def test_no_break_spaces_are_replaced_in_every_table() -> None:
    assert NBSP not in aligned(TABLE) + aligned(TABLE, columns=36) + markdown(TABLE)
