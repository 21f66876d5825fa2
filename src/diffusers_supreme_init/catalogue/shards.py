"""Which concepts are a process's own: by the hash of their names, so that nobody has to be asked."""

import hashlib
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from ..errors import ConfigError, shown
from ..triggers import folded


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a catalogue.

    It depends only on a concept's name, so that a concept whose picture changes stays with the machine that has it.

    Attributes:
        index: From 0.
        count: Number of parts.
    """

    index: int = 0
    count: int = 1

    def holds(self, name: str) -> bool:
        """Whether a concept, named by its placeholder token, belongs to this part."""
        digest = hashlib.sha256(folded(name).encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


def own_shard(accelerator: Accelerator, num_shards: int, shard_index: int) -> Shard:
    """Return this process's part: of a part of the catalogue, if `accelerate launch` started several processes.

    Args:
        accelerator: The process's accelerator.
        num_shards: Number of parts.
        shard_index: The part of all processes that were started together, from 0.

    Raises:
        ConfigError: There is no such part.
    """
    if type(num_shards) is not int or num_shards < 1:
        raise ConfigError(f"num_shards: expected a number from 1, got {shown(num_shards)}")
    if type(shard_index) is not int or not 0 <= shard_index < num_shards:
        raise ConfigError(
            f"shard_index: expected a number from 0 to {num_shards - 1} with num_shards={num_shards}, got "
            f"{shown(shard_index)}"
        )
    state = accelerator.state
    return Shard(shard_index * state.num_processes + state.process_index, num_shards * state.num_processes)


class OwnProcess(Accelerator):
    """An accelerator of a process that works by itself, whatever `accelerate launch` has started beside it.

    It has the process's device and precision. Nothing is summed, and no progress bar is shown for a single concept.
    """

    num_processes = property(lambda self: 1)
    process_index = property(lambda self: 0)
    is_main_process = property(lambda self: True)
    is_local_main_process = property(lambda self: False)

    def reduce(self, tensor: Any, reduction: str = "sum", scale: float = 1.0) -> Any:
        """Return the tensor: there is nobody to add it to."""
        return tensor
