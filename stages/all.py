"""All stages that recipes may configure and stores may hold artifacts of, upstream first; those of other packages last."""

from pipeline.engine.stage import Stage
from stages.answer_questions import answer_questions
from stages.answer_with_vlm import answer_with_vlm
from stages.embed_frames import embed_frames
from stages.evaluate import evaluate
from stages.evaluate_localization import evaluate_localization
from stages.evaluate_moments import evaluate_moments
from stages.extensions import plug_in_stages
from stages.extract_features import extract_features
from stages.finetune_answerer import finetune_answerer
from stages.generate_answers import generate_answers
from stages.import_backbone import import_backbone
from stages.import_embedder import import_embedder
from stages.import_matcher import import_matcher
from stages.import_scores import import_scores
from stages.init_answerer import init_answerer
from stages.init_localizer import init_localizer
from stages.label_frames import label_frames
from stages.list_questions import list_questions
from stages.make_thumbnails import make_thumbnails
from stages.pretrain_localizer import pretrain_localizer
from stages.refine_localizer import refine_localizer
from stages.retrieve_moments import retrieve_moments
from stages.sample_frames import sample_frames
from stages.score_by_matching import score_by_matching
from stages.score_by_selector import score_by_selector
from stages.score_by_similarity import score_by_similarity
from stages.score_frames import score_frames
from stages.select_keyframes import select_keyframes
from stages.train_backbone import train_backbone
from stages.train_selector import train_selector

ALL = (
    import_backbone,
    train_backbone,
    list_questions,
    sample_frames,
    extract_features,
    init_localizer,
    init_answerer,
    pretrain_localizer,
    score_frames,
    import_scores,
    import_embedder,
    embed_frames,
    score_by_similarity,
    import_matcher,
    score_by_matching,
    train_selector,
    score_by_selector,
    select_keyframes,
    answer_questions,
    generate_answers,
    answer_with_vlm,
    label_frames,
    refine_localizer,
    finetune_answerer,
    evaluate,
    evaluate_localization,
    retrieve_moments,
    evaluate_moments,
    make_thumbnails,
)
OURS: dict[str, Stage] = {stage.name: stage for stage in ALL}
STAGES = OURS | plug_in_stages(OURS)
