"""The plots of a report."""

import re

from pipeline.inference.visual_prompt_weights import TrainingStep
from pipeline.metrics.calibration import CalibrationBin
from pipeline.metrics.comparison import PairedRow
from reports.page.facts import TrainingCourse
from reports.page.figures import calibration_figure, gains_figure, training_figure
from reports.page.numbers import Gain

LETTER_WIDTH = 0.5  # of the font size, on average


def test_legend_texts_fit_into_the_plot_and_the_axis_has_a_label() -> None:
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


def test_a_long_model_name_leaves_room_for_the_plot() -> None:
    name = "uniform, k = 1, vlm=Qwen/Qwen2.5-VL-7B-Instruct,answer_with_vlm.instruction=Answer with the letter alone."
    bins = {
        label: [CalibrationBin(0.2, 0.3, 40, 0.25, 0.2), CalibrationBin(0.7, 0.8, 40, 0.75, 0.7)]
        for label in (name, f"top_k, {name}")
    }
    paired = PairedRow("overall", "overall", True, 1000, 50.0, 55.0, 5.0, 1.0, 9.0, 75, 125, 0.0005)
    for figure in (calibration_figure(bins), gains_figure([Gain(f"{name} → top_k, {name}", paired)])):
        # The name is wrapped: a plot without room for it warns, and warnings are errors.
        assert figure and ">uniform, k = 1, " in figure
