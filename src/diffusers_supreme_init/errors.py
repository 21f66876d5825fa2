"""All exceptions and warnings of the package; a message says what was expected, what was got and what to do."""

import os


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
    """A classifier, captioner, segmenter or refiner cannot be loaded, or returns nothing usable."""


class DescriberLoadError(DescriberError):
    """A classifier, captioner, segmenter or refiner cannot be loaded, whatever the picture."""


class UnsupportedPipelineError(SupremeInitError, TypeError):
    """No backbone knows how to train on this pipeline."""


class TrainingError(SupremeInitError, RuntimeError):
    """Training cannot continue; everything learned so far is kept."""


class CheckpointError(SupremeInitError, ValueError):
    """A checkpoint is missing, unreadable, or belongs to another run."""


class EmbeddingFileError(SupremeInitError, ValueError):
    """An embedding file is missing, unreadable, or does not hold one concept."""


class ConceptLoadError(SupremeInitError, ValueError):
    """A concept does not fit a pipeline, or clashes with what the pipeline already holds."""


class OutputError(SupremeInitError, OSError):
    """A file or folder could not be written; existing files are unchanged."""


class PublishError(SupremeInitError, RuntimeError):
    """A concept could not be published; the local folder is intact, and the message describes the state of the Hub."""


class MetricError(SupremeInitError, ValueError):
    """A metric lacks its weights, or cannot measure the given inputs."""


class SupremeInitWarning(UserWarning):
    """Category of every warning of this package."""


def shown(value: object, longest: int = 80) -> str:
    """Return a value for a message, on one line: plain values as they are written, anything else as its type.

    Of what is longer than `longest`, the middle is left out: of a path, the end says most.

    >>> shown("1e-4x"), shown([0, "ten"]), shown(object())
    ("'1e-4x'", "[0, 'ten']", 'an object')
    """
    if isinstance(value, list | tuple):
        pair = "[]" if isinstance(value, list) else "()"
        ends = value if len(value) <= 2 * longest else [*value[:longest], *value[-longest:]]
        inner = ", ".join(shown(one, longest) for one in ends)
        return _cut(f"{pair[0]}{inner}{pair[1]}", longest)
    if value is None or isinstance(value, type | bool | int | float | str | bytes | os.PathLike):
        plain = os.fspath(value) if isinstance(value, os.PathLike) else value
        try:
            if isinstance(plain, str | bytes) and len(plain) > 2 * longest:
                return _cut(f"{repr(plain[:longest])[:-1]}{repr(plain[-longest:]).lstrip('b')[1:]}", longest)
            return _cut(repr(plain), longest)
        except ValueError:  # Python writes no integer of more than 4300 digits
            return "a number of thousands of digits"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in set('aeiou') else 'a'} {name}"


def one_line(said: BaseException | str, longest: int = 300) -> str:
    """Return the message of an error, or a text, on one line and cut; the class name of an error without a message."""
    return " ".join(str(said).split())[:longest] or type(said).__name__


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]}...{text[-half:]}"
