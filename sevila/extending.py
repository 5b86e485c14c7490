"""The API for packages that extend SeViLA; docs/extending/ has a page and an example for each kind of extension."""

from cache.tables import Schema
from pipeline.datasets.adapter import About, Headline, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.rows import Row, collect_split, read_csv, read_json_list, read_jsonl
from pipeline.datasets.readers.values import BadRow, option_index, video_name
from pipeline.engine.output import Output
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.engine.weights import Weights
from pipeline.inference.backbone import Backbone, StoredBackbone, describe_backbone
from pipeline.models.config_parts import Activation, ConfigPart, Epsilon, Layers, LayerSize, TokenId
from pipeline.models.language_kind import LanguageKind
from pipeline.models.languages.llama import LlamaSizes
from pipeline.models.prompts import PromptStyle
from pipeline.selection.selector import Floats, Options, Positions, SeededOptions, selector
from stages.answer_questions import Answers
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores
from stages.select_keyframes import Keyframes

__all__ = [
    "About",
    "Activation",
    "Annotations",
    "Answers",
    "Artifact",
    "Backbone",
    "BadRow",
    "Config",
    "ConfigPart",
    "Epsilon",
    "Floats",
    "FrameScores",
    "Frames",
    "Headline",
    "Keyframes",
    "LanguageKind",
    "LayerSize",
    "Layers",
    "LlamaSizes",
    "Options",
    "Output",
    "Positions",
    "PromptStyle",
    "Question",
    "Questions",
    "Row",
    "RunContext",
    "Schema",
    "SeededOptions",
    "SplitFile",
    "StoredBackbone",
    "TokenId",
    "Video",
    "Weights",
    "collect_split",
    "describe_backbone",
    "find_files",
    "option_index",
    "read_csv",
    "read_json_list",
    "read_jsonl",
    "selector",
    "stage",
    "video_name",
]
