"""Textual inversion for diffusers that starts from what a picture says for itself.

Importing the package gives every diffusers pipeline `load_multitoken_inversion` and `unload_multitoken_inversion`.
"""

from .concepts import Concept, load_concepts
from .config import DescriberConfig, SupremeInitConfig
from .conversion import convert_embedding
from .describers import Describers, EndpointRefiner, LocalRefiner, RefinementStyle, Region
from .embedding_file import LearnedEmbedding, read_embedding, write_embedding
from .errors import (
    CheckpointError,
    ConceptLoadError,
    ConfigError,
    DescriberError,
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
from .evaluation import Evaluation, Score, evaluate
from .format_writers import write_embeddings
from .formats import EmbeddingFormat, read_embeddings
from .loader import MultiTokenInversionLoaderMixin, attach_to_diffusers
from .matching import LoadedConcept
from .progress import ConceptProgress
from .proposals import InitializerProposal, propose_initializer
from .publishing import Publication, push_to_hub
from .trainer import SupremeInitTextualInversionTrainer
from .version import __version__

attach_to_diffusers()

__all__ = [
    "__version__",
    # load
    "LoadedConcept",
    "MultiTokenInversionLoaderMixin",
    # train
    "Concept",
    "ConceptProgress",
    "SupremeInitConfig",
    "SupremeInitTextualInversionTrainer",
    "load_concepts",
    # describe
    "DescriberConfig",
    "Describers",
    "EndpointRefiner",
    "InitializerProposal",
    "LocalRefiner",
    "RefinementStyle",
    "Region",
    "propose_initializer",
    # files
    "EmbeddingFormat",
    "LearnedEmbedding",
    "convert_embedding",
    "read_embedding",
    "read_embeddings",
    "write_embedding",
    "write_embeddings",
    # measure
    "Evaluation",
    "Score",
    "evaluate",
    # publish
    "Publication",
    "push_to_hub",
    # errors
    "CheckpointError",
    "ConceptLoadError",
    "ConfigError",
    "DescriberError",
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
