"""An accelerator for one of several processes that do not talk to each other."""

from typing import Any

from accelerate import Accelerator


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
