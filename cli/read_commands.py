"""The read-only commands: `answers`, `compare`, `report`, `recipes`, `stages`, `datasets`."""

from __future__ import annotations

import sys
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from cache.errors import SevilaError
from cli.options import PLACE_GROUP, AsJson, Count, DataPlaces, OutputFolder, PlaceOption, SubmissionFile, Text, Where
from cli.terminal import fitted, print_data, print_json, print_table, print_text, write_output


def answers(run: Text, /, *, submission: SubmissionFile = None, as_json: AsJson = False, where: Where) -> None:
    """Print the answers of a run as text, in CSV or JSON; or write a submission.

    Args:
        run: name of a run (`sevila runs`), or id of an answers artifact, or its beginning, which selects the newest
        submission: write the numbers of the chosen options, from 0, for EgoSchema's evaluation: .json, or .csv for Kaggle
    """
    from reports.answer_table import answers_in_words, as_csv, submitted_answers
    from reports.named_runs import newest_of_run
    from stages.answer_questions import Answers

    store = where.open()
    newest = newest_of_run(store, run, Answers, "answer_questions or answer_with_vlm").record.id
    print(newest, file=sys.stderr)
    if submission is not None:
        text, n_without = submitted_answers(store, newest, submission.suffix)
        if n_without:
            print(f"{n_without:,} questions have no answer; they are written as -1", file=sys.stderr)
        return write_output(text, submission)
    rows = [row._asdict() for row in answers_in_words(store, newest)]
    print_json(rows) if as_json else print_data(as_csv(rows))


def compare(
    a: Text,
    b: Text,
    /,
    *,
    bootstrap: Literal["video", "question"] = "video",
    changed: Count | None = None,
    as_json: AsJson = False,
    where: Where,
) -> None:
    """Test whether two runs over the same questions differ.

    Two artifacts of answers are compared question by question; two named runs also by their settings.

    Args:
        a: name of a run (`sevila runs`), or id of answers or metrics, or an unambiguous beginning of it
        b: likewise
        bootstrap: unit of resampling: videos, as the questions of one video are not independent, or questions
        changed: number of changed questions to show; default: 10, or all with --json
    """
    from pipeline.metrics.resampling import Resampling
    from reports.compare import CHANGED_SHOWN, compare, comparison_text
    from reports.compare_runs import compare_runs, is_run, run_comparison_text

    store, shown = where.open(), CHANGED_SHOWN if changed is None else changed
    if is_run(store, a) or is_run(store, b):
        runs, pairs = compare_runs(store, a, b, Resampling(bootstrap))
        content, text = vars(runs), run_comparison_text(runs, pairs, shown, fitted)
    else:
        answers = compare(store, a, b, Resampling(bootstrap))
        text = comparison_text(answers, shown, fitted)
        content = vars(answers) | {"changed": answers.changed[:changed]}
    print_json(content) if as_json else print_text(text)


def report(
    run: Text,
    run_b: Text | None = None,
    /,
    *,
    output: OutputFolder = None,
    videos: Annotated[PlaceOption, Parameter(group=PLACE_GROUP)] = (),
    where: Where,
) -> None:
    """Write the report of a run, or of two runs side by side, as an HTML page, and print its path.

    The folder works offline, and can be sent or put on a web server. Frames have their videos' aspect ratio if the videos are
    available when thumbnails are first made.

    Args:
        run: name of a run (`sevila runs`), a recipe (its last run), or id of an artifact, or its beginning
        run_b: likewise; the page then shows both answers to every question
        output: folder to write to; default: one in the store
        videos: folder of the videos; default: SEVILA_VIDEOS, sevila.toml (repeatable)
    """
    from pipeline.engine.sources import Sources
    from reports.page.runs import reported_run
    from reports.page.write import write_report

    if run == run_b:
        raise SevilaError(f"{run} is given twice; expected one run, or two different ones")
    store = where.open()
    runs = [reported_run(store, name) for name in (run, run_b) if name is not None]
    with store.in_use():
        print_text(str(write_report(runs, Sources(store.digests, {"videos": list(videos)}), output)))


def recipes(*, as_json: AsJson = False) -> None:
    """List the built-in recipes."""
    from pipeline.engine.recipe import available, load
    from stages.all import STAGES

    rows = [[name, load(name, STAGES).description] for name in available()]
    if as_json:
        print_json([{"recipe": name, "about": about} for name, about in rows])
    else:
        print_table(["recipe", "about"], rows)


def stages(*, as_json: AsJson = False) -> None:
    """List the stages and the keys of their recipe sections."""
    from pipeline.engine.recipe import section_configs
    from stages.all import STAGES

    if as_json:
        print_json({section: config.model_json_schema() for section, config in section_configs(STAGES).items()})
        return
    for section, config in section_configs(STAGES).items():
        print(f"{section}: {STAGES[section].summary if section in STAGES else (config.__doc__ or '').splitlines()[0]}")
        for key, field in config.model_fields.items():
            choices = [repr(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
            values = f"{' | '.join(choices)}: " if choices else ""
            print(f"    {key} = {field.default!r}  {values}{field.description or ''}")


def datasets(
    *names: Annotated[Text, Parameter(metavar="NAME")],
    places: DataPlaces = DataPlaces(),
    as_json: AsJson = False,
    where: Where,
) -> None:
    """List the data sets: the expected files and places, and what is on this machine.

    Args:
        names: data sets to check: read their files, and look for their videos
    """
    from pipeline.datasets.registry import adapter_names
    from pipeline.engine.places import refuse_unused
    from pipeline.engine.sources import Sources
    from reports.dataset_listing import details, listing_content, overview

    places_by_kind = places.by_kind()
    refuse_unused(places_by_kind, dict.fromkeys(places_by_kind, adapter_names()))
    sources = Sources(where.open().digests, places_by_kind)
    place_of = sources.places.configured
    if as_json:
        print_json(listing_content(names, place_of, sources.missing_videos))
        return
    print_text(details(names, place_of, sources.missing_videos) if names else overview(place_of))
