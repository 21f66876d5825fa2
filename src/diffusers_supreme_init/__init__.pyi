# The public names and where they live. Type checkers read this file, and so does `__init__.py`: it imports a name when
# somebody first uses it.

from . import backbones, describers, metrics
from .catalogue.library import merge_libraries, remove_concepts, verify_library
from .catalogue.result import CatalogueResult
from .catalogue.run import train_catalogue
from .concepts import Concept, load_concepts
from .config import PAPER_SETTINGS, DescriberConfig, SupremeInitConfig
from .describers import Describers, EndpointRefiner, LocalRefiner, RefinementStyle, Region
from .describers.proposal import InitializerProposal
from .errors import (
    CheckpointError,
    ConceptLoadError,
    ConfigError,
    DescriberError,
    DescriberLoadError,
    EmbeddingFileError,
    InitializerError,
    MetricError,
    OutputError,
    PictureError,
    PlaceholderTokenError,
    PublishError,
    RegionError,
    SupremeInitError,
    SupremeInitWarning,
    TrainingError,
    UnsupportedPipelineError,
)
from .evaluation import EDITING_PROMPTS, Evaluation, Score, evaluate
from .file_names import folder_name
from .files import check_writable, write_atomically
from .formats.conversion import convert_embedding
from .formats.embedding_file import LearnedEmbedding, read_embedding, write_embedding
from .formats.programs import EmbeddingProgram
from .formats.readers import EmbeddingFormat, read_embeddings
from .formats.writers import write_embeddings
from .loader import MultiTokenInversionLoaderMixin
from .loading.matching import LoadedConcept
from .pictures import fit_to_square, load_picture
from .sharing.publishing import Publication, check_can_push, push_to_hub
from .sharing.saved_folder import check_can_save
from .sharing.sheet import SheetRow, draw_sheet
from .templates import VALIDATION_TEMPLATE, fill_template
from .text.prompt_cleaning import as_written
from .trainer import SupremeInitTextualInversionTrainer
from .training.checkpoint import find_checkpoint
from .training.previews import SAMPLE_PROMPTS
from .training.progress import ConceptProgress
from .training.proposals import propose_initializer
from .version import __version__, versions

__all__ = [
    "__version__",
    "versions",
    # rooms
    "backbones",
    "describers",
    "metrics",
    # load
    "LoadedConcept",
    "MultiTokenInversionLoaderMixin",
    # train
    "PAPER_SETTINGS",
    "Concept",
    "ConceptProgress",
    "SupremeInitConfig",
    "SupremeInitTextualInversionTrainer",
    "find_checkpoint",
    "load_concepts",
    # many
    "CatalogueResult",
    "merge_libraries",
    "remove_concepts",
    "train_catalogue",
    "verify_library",
    # describe
    "DescriberConfig",
    "Describers",
    "EndpointRefiner",
    "InitializerProposal",
    "LocalRefiner",
    "RefinementStyle",
    "Region",
    "propose_initializer",
    # prompts and pictures
    "EDITING_PROMPTS",
    "SAMPLE_PROMPTS",
    "VALIDATION_TEMPLATE",
    "as_written",
    "fill_template",
    "fit_to_square",
    "load_picture",
    # files
    "EmbeddingFormat",
    "EmbeddingProgram",
    "LearnedEmbedding",
    "check_can_save",
    "check_writable",
    "convert_embedding",
    "folder_name",
    "read_embedding",
    "read_embeddings",
    "write_atomically",
    "write_embedding",
    "write_embeddings",
    # measure
    "Evaluation",
    "Score",
    "evaluate",
    # look
    "SheetRow",
    "draw_sheet",
    # publish
    "Publication",
    "check_can_push",
    "push_to_hub",
    # errors
    "CheckpointError",
    "ConceptLoadError",
    "ConfigError",
    "DescriberError",
    "DescriberLoadError",
    "EmbeddingFileError",
    "InitializerError",
    "MetricError",
    "OutputError",
    "PictureError",
    "PlaceholderTokenError",
    "PublishError",
    "RegionError",
    "SupremeInitError",
    "SupremeInitWarning",
    "TrainingError",
    "UnsupportedPipelineError",
]
