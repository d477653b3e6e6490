"""Which part of a tensor does this rank hold? Between a whole tensor's DTensor and the local memory behind it."""

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shaped_like(whole: Tensor, part: Tensor) -> Tensor:
    """A rank's part of some state, as a tensor laid out as another one is; shares the part's memory."""
    if not isinstance(whole, DTensor):
        return part
    return DTensor.from_local(part, whole.device_mesh, whole.placements, shape=whole.shape, stride=whole.stride())
