"""Every exception and warning of the package; each message says what was expected, what was got and what to do."""


class SupremeInitError(Exception):
    """Base of all exceptions of this package."""


class ConfigError(SupremeInitError, ValueError):
    """A setting has a value outside its range, or two settings contradict each other."""


class PictureError(SupremeInitError, ValueError):
    """A picture or mask cannot be found, read or used."""


class PlaceholderTokenError(SupremeInitError, ValueError):
    """A placeholder token cannot serve as the name of a concept."""


class InitializerError(SupremeInitError, ValueError):
    """An initializer gives no usable initial embeddings."""


class RegionError(SupremeInitError, ValueError):
    """A point, box or mask selects nothing usable in its picture."""


class DescriberError(SupremeInitError, RuntimeError):
    """A classifier, captioner, segmenter or refiner cannot be loaded, or says nothing usable."""


class UnsupportedPipelineError(SupremeInitError, TypeError):
    """No backbone knows how to train on this pipeline."""


class TrainingError(SupremeInitError, RuntimeError):
    """Training cannot go on; what was learned before is kept."""


class CheckpointError(SupremeInitError, ValueError):
    """A checkpoint is missing, unreadable, or belongs to another run."""


class EmbeddingFileError(SupremeInitError, ValueError):
    """An embedding file is missing, unreadable, or does not hold one concept."""


class ConceptLoadError(SupremeInitError, ValueError):
    """A concept does not fit a pipeline, or clashes with what the pipeline already holds."""


class OutputError(SupremeInitError, OSError):
    """Something could not be written; what was there before is untouched."""


class PublishError(SupremeInitError, RuntimeError):
    """A concept could not be published; the local folder is whole, and the message says what is on the Hub."""


class MetricError(SupremeInitError, ValueError):
    """A metric lacks its weights, or cannot measure what it was given."""


class SupremeInitWarning(UserWarning):
    """Category of every warning of this package."""
