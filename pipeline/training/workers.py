"""The data-parallel workers of one training, seen from one of them; alone, every exchange is the identity."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who trains together.

    Attributes:
        rank, num_workers: this worker's place. More than one need an initialised torch.distributed process group.
    """

    rank: int = 0
    num_workers: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this worker writes checkpoints and logs."""
        return self.rank == 0

    @classmethod
    def of_process_group(cls) -> "Workers":
        """All processes of torch.distributed's default group; alone if there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(rank=dist.get_rank(), num_workers=dist.get_world_size())

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the workers, in one exchange per dtype and device.

        Every worker passes tensors of equal shapes in equal order.
        """
        if self.num_workers == 1:
            return
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for group in groups.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            dist.all_reduce(flat)
            sizes = [tensor.numel() for tensor in group]
            for tensor, summed in zip(group, torch.split(flat, sizes), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def mean_in_place(self, tensors: Sequence[Tensor]) -> None:
        """As `sum_in_place`, with the mean."""
        if self.num_workers > 1:
            self.sum_in_place(tensors)
            for tensor in tensors:
                tensor.div_(self.num_workers)

    def wait_for_all(self) -> None:
        """Return once every worker has called this."""
        if self.num_workers > 1:
            dist.barrier()
