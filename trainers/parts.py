"""How is a rank's part of some state shown as a part of the whole? As a DTensor laid out like another one."""

from torch import Tensor
from torch.distributed.tensor import DTensor


def shaped_like(whole: Tensor, part: Tensor) -> Tensor:
    """A rank's part of some state, as a tensor laid out as another one is; shares the part's memory."""
    if not isinstance(whole, DTensor):
        return part
    return DTensor.from_local(part, whole.device_mesh, whole.placements, shape=whole.shape, stride=whole.stride())
