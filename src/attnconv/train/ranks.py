"""What the processes of one run tell each other; alone, a process tells itself."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from attnconv import checks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")

FAILED = 2  # exit code of a process whose first one says what the user can mend


class Ranks:
    """The processes of a launched ``fabric``. All of them have to make the same calls in the same order."""

    def __init__(self, fabric: "Fabric") -> None:
        self.fabric = fabric
        self.rank, self.world = fabric.global_rank, fabric.world_size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.world == 1:
            return values
        total = self.fabric.all_reduce(values, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def union(self, names: set[str]) -> set[str]:
        """The names that any process has."""
        if self.world == 1:
            return names
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, names)
        return set().union(*found)

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers, none of which is negative and above 10,000."""
        if self.world == 1:
            return number
        numbers = torch.zeros(self.world)
        numbers[self.rank] = number
        return int(self.sum(numbers).max().item())

    def on_first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the first process, in all of them; an InputError there ends the others silently.

        The result must be small and plain.
        """
        answer: Any = None
        failure: checks.InputError | None = None
        if self.first:
            try:
                answer = work()
            except checks.InputError as error:
                failure = error
        if self.world > 1:
            answer, failed = self.fabric.broadcast((answer, failure is not None))
            if failed and not self.first:
                raise SystemExit(FAILED)
        if failure is not None:
            raise failure
        return answer

    def first_then_others(self, work: Callable[[], T]) -> T:
        """Do ``work`` in every process, in the others once the first is done: a download, say."""
        results = []
        self.on_first(lambda: results.append(work()))
        return results[0] if self.first else work()


def is_first_process() -> bool:
    """Whether this process speaks for its run: always, but for the others of several."""
    available = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not available or torch.distributed.get_rank() == 0
