"""Textual inversion for diffusers that starts from what a caption already says.

Importing the package gives every diffusers pipeline `load_multitoken_inversion` and `unload_multitoken_inversion`.
"""

from .concepts import Concept, load_concepts
from .config import SupremeInitConfig
from .embedding_file import LearnedEmbedding, read_embedding, write_embedding
from .errors import (
    CheckpointError,
    ConceptLoadError,
    ConfigError,
    EmbeddingFileError,
    InitializerError,
    OutputError,
    PictureError,
    PlaceholderTokenError,
    SupremeInitError,
    SupremeInitWarning,
    TrainingError,
    UnsupportedPipelineError,
)
from .loader import LoadedConcept, MultiTokenInversionLoaderMixin, attach_to_diffusers
from .progress import ConceptProgress
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
    # the file
    "LearnedEmbedding",
    "read_embedding",
    "write_embedding",
    # errors
    "CheckpointError",
    "ConceptLoadError",
    "ConfigError",
    "EmbeddingFileError",
    "InitializerError",
    "OutputError",
    "PictureError",
    "PlaceholderTokenError",
    "SupremeInitError",
    "SupremeInitWarning",
    "TrainingError",
    "UnsupportedPipelineError",
]
