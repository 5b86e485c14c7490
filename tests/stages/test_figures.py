"""The plots of a report."""

import re

from pipeline.inference.visual_prompt_weights import TrainingStep
from reports.page.facts import TrainingCourse
from reports.page.figures import training_figure

LETTER_WIDTH = 0.5  # of its height, on the average


def test_all_names_of_a_legend_are_inside_their_plot_and_the_axis_says_what_it_counts() -> None:
    steps = [TrainingStep(step, 0, 1.0, 1e-3, 1.0, 10.0) for step in (1, 2, 3)]
    figures = {name: [(1, 0.5), (3, 0.6)] for name in ("accuracy", "balanced_accuracy", "yes_share")}
    svg = training_figure(TrainingCourse("Localizer pre-trained", steps, figures))
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])  # type: ignore[index]
    texts = re.findall(
        r'<text style="font-size: ([\d.]+)px[^>]*text-anchor: start[^>]* x="([\d.]+)"[^>]*>([^<]+)<', svg
    )
    ends = {text: float(x) + float(size) * LETTER_WIDTH * len(text) for size, x, text in texts}
    assert {"loss", "accuracy", "balanced accuracy", "yes share"} <= {*ends} and max(ends.values()) <= width
    assert ">step<" in svg
