"""Which concepts are a process's own: by the hash of their names, so that nobody has to be asked."""

import hashlib
from dataclasses import dataclass

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


def own_shard(num_shards: int, shard_index: int, *, num_processes: int = 1, process_index: int = 0) -> Shard:
    """Return a process's part: of a part of the catalogue, if `accelerate launch` started several processes.

    Args:
        num_shards: Number of parts.
        shard_index: The part of all processes that were started together, from 0.
        num_processes: Number of processes that were started together.
        process_index: This one among them, from 0.

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
    return Shard(shard_index * num_processes + process_index, num_shards * num_processes)
