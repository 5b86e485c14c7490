"""Tables for terminals and for pages."""

from pipeline.text_table import NBSP, aligned, markdown

SPAN = f"(44.2{NBSP}-{NBSP}53.8)"
TABLE = [
    ["keyframes", "zero-shot", "fine-tuned"],
    ["untrained Localizer", f"49.0 {SPAN}", "60.0"],
    ["oracle", "-", "94.2"],
]


def test_a_table_too_wide_for_the_terminal_breaks_its_cells_between_words_and_keeps_its_columns() -> None:
    assert aligned(TABLE, columns=36).splitlines() == [
        "keyframes      zero-shot  fine-tuned",
        "untrained           49.0        60.0",
        "Localizer  (44.2 - 53.8)",
        "oracle                 -        94.2",
    ]


def test_a_table_has_a_line_a_row_where_there_is_room_or_no_terminal() -> None:
    wide = aligned(TABLE).splitlines()
    assert len(wide) == 3 and "untrained Localizer  49.0 (44.2 - 53.8)" in wide[1]
    assert aligned(TABLE, columns=80).splitlines() == wide


def test_a_table_whose_words_do_not_fit_beside_each_other_is_left_as_it_is() -> None:
    assert aligned(TABLE, columns=20) == aligned(TABLE)


def test_an_interval_is_plain_text_in_every_kind_of_table() -> None:
    assert NBSP not in aligned(TABLE) + aligned(TABLE, columns=36) + markdown(TABLE)
