"""The folder of a catalogue that several processes share, that a killed one left, or whose files were damaged."""

from pathlib import Path
from typing import Any

import pytest
from conftest import build_tiny_pipeline
from filelock import FileLock
from run_catalogue import draw_catalogue

from diffusers_supreme_init import OutputError, SupremeInitConfig, train_catalogue
from diffusers_supreme_init.catalogue.ledger import alone
from diffusers_supreme_init.catalogue.shards import Shard


def train(toys: Path, library: Path, **settings: Any) -> Any:
    """Make a library of untrained concepts; steps are asked for as settings."""
    config = SupremeInitConfig(**{"max_train_steps": 0, "validation_samples": 0, **settings})
    return train_catalogue(build_tiny_pipeline(), toys, library, config=config)


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    return draw_catalogue(tmp_path / "toys", range(2))


# locks


def test_a_refused_part_is_free_again(tmp_path: Path) -> None:
    """A process that kept the lock of the part it was refused would wait for itself when it tries again."""
    with FileLock(tmp_path / ".ledger-0-of-1.lock"):
        with (
            pytest.raises(OutputError, match="where part 0-of-1 is being trained") as refused,
            alone(tmp_path, Shard(1, 2)),
        ):
            pass
        assert refused.value.__traceback__ is not None  # which holds the frame, as a notebook does
        FileLock(tmp_path / ".ledger-1-of-2.lock", timeout=0).acquire()
