"""What does forward keep for backward? Everything, only what costs a matrix product, only a unit's input, or bytes.

| | kept of a unit | backward |
|---|---|---|
| recompute = none | every tensor that an operation asks for | |
| recompute = selective | the results of matrix products and attention | computes the rest again |
| recompute = full | the unit's inputs | computes all of it again (Chen et al. 2016) |
| activations = int8 | large tensors as bytes | each number is off by at most 1/254 of the largest in its row |

Draws are keyed, so a recomputed forward needs no generator's state.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from ..models.axes import local

STEPS = 127  # of an int8 number on each side of zero
aten = torch.ops.aten
COSTLY = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.baddbmm.default,
        aten.convolution.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    }
)


def recompute(module: nn.Module, how: str) -> None:
    """Make a unit's backward compute again what forward did not keep, in place; how: "selective" or "full"."""
    again = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
    if how == "selective":
        again = partial(again, context_fn=partial(create_selective_checkpoint_contexts, _policy))
    module.forward = again


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in COSTLY else CheckpointPolicy.PREFER_RECOMPUTE


def keep_bytes(module: nn.Module) -> None:
    """Make a unit keep its large activations as int8, in place.

    Large is what has at least as many elements as the unit's first input: statistics of norms and of attention are
    smaller and stay as they are, and so do parameters.
    """
    module.forward = partial(_kept_as_bytes, module, module.forward)


def _kept_as_bytes(module: nn.Module, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    least = next((x.numel() for x in inputs if isinstance(x, Tensor) and x.is_floating_point()), 1)
    weights = {local(p.detach()).untyped_storage().data_ptr() for p in module.parameters()}

    def pack(x: Tensor) -> Tensor | tuple[Tensor, Tensor, torch.dtype]:
        large = x.is_floating_point() and x.ndim > 1 and x.numel() >= least
        return to_bytes(x) if large and x.untyped_storage().data_ptr() not in weights else x

    def unpack(packed: Tensor | tuple[Tensor, Tensor, torch.dtype]) -> Tensor:
        return packed if isinstance(packed, Tensor) else from_bytes(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return forward(*inputs, **named)


def to_bytes(x: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """x [..., n] as int8 [..., n], the scale [..., 1] of each row, and x's dtype."""
    scale = x.detach().abs().amax(-1, keepdim=True).float() / STEPS
    rounded = (x.detach() / scale.clamp_min(torch.finfo(torch.float32).tiny)).round_()
    return rounded.to(torch.int8), scale, x.dtype


def from_bytes(whole: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What to_bytes was given, each number off by at most 1 / 254 of the largest of its row."""
    return (whole * scale).to(dtype)
