"""How are Mixtral's weights called in `transformers`? The same numbers under other names, in both directions.

Published files hold each expert's matrices (w1 gates, w3 goes up, w2 down); a model in memory stacks them, with gate
and up in one. Both are read; files are written as they are published.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..entry import Translation
from ..llama.weights import (
    IN_ATTENTION,
    SIZES,
    check_heads,
    names,
    read_base,
    with_tied,
    without_copies,
)
from ..names import read_sizes, renamed, turned
from .entry import MixtralConfig

IN_BLOCK = IN_ATTENTION | {
    "mixture_norm": "post_attention_layernorm",
    "mixture.router": "block_sparse_moe.gate",
}
STACKS = {"gate": "w1", "up": "w3", "down": "w2"}


def read(tensors: Mapping[str, Tensor], config: MixtralConfig) -> dict[str, Tensor]:
    """The Program's state dict, from the tensors of MixtralForCausalLM, in memory or in files.

    Raises:
        ValueError: a tensor is missing, or one is not Mixtral's.
    """
    published = _published(without_copies(tensors, config))
    parts = renamed(published, turned(names(config, IN_BLOCK) | _expert_names(config)), "Mixtral")
    ours = {name: parts[name] for name in names(config, IN_BLOCK)}
    for layer in range(config.layers):
        for stack in STACKS:
            each = [parts[f"blocks.{layer}.{stack}.{expert}"] for expert in range(config.experts)]
            ours[f"blocks.{layer}.mixture.experts.{stack}"] = torch.stack(each)
    return with_tied(ours, config)


def write(tensors: Mapping[str, Tensor], config: MixtralConfig) -> dict[str, Tensor]:
    """The tensors of MixtralForCausalLM as in published files, from the Program's state dict."""
    theirs = {other: tensors[ours] for ours, other in names(config, IN_BLOCK).items()}
    for name, other in _expert_names(config).items():
        block, stack, expert = name.rsplit(".", 2)
        theirs[other] = tensors[f"{block}.mixture.experts.{stack}"][int(expert)].contiguous()
    return theirs


def _expert_names(config: MixtralConfig) -> dict[str, str]:
    """ "blocks.LAYER.STACK.EXPERT" -> the published name of one matrix."""
    return {
        f"blocks.{layer}.{stack}.{expert}": f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{theirs}.weight"
        for layer in range(config.layers)
        for stack, theirs in STACKS.items()
        for expert in range(config.experts)
    }


def _published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names of files, where they have those of a model in memory."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = name.replace(".mlp.", ".block_sparse_moe.")
        above, _, kind = name.rpartition(".experts.")
        if kind == "gate_up_proj":
            parts = dict(zip(("w1", "w3"), tensor.chunk(2, 1), strict=True))
        elif kind == "down_proj":
            parts = {"w2": tensor}
        else:
            found[name] = tensor
            continue
        for stack, experts in parts.items():
            found |= {f"{above}.experts.{i}.{stack}.weight": expert for i, expert in enumerate(experts)}
    return found


OWN_SIZES = SIZES | {
    "experts": "num_local_experts",
    "choices": "num_experts_per_tok",
    "balance": "router_aux_loss_coef",
}
FIXED = {"hidden_act": "silu", "attention_dropout": 0.0, "sliding_window": None, "router_jitter_noise": 0.0}
BASE = 1000000.0  # where a file does not say


def read_config(values: Mapping[str, Any]) -> MixtralConfig:
    """Sizes from the contents of a config.json.

    Raises:
        ValueError: a size is missing, or the file describes a variant that this model is not.
    """
    sizes = read_sizes({"tie_word_embeddings": False} | dict(values), OWN_SIZES, FIXED, "Mixtral")
    config = MixtralConfig(**sizes, base=read_base(values, BASE))
    check_heads(values, config)
    return config


def write_config(config: MixtralConfig) -> dict[str, Any]:
    """The contents of a config.json."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in OWN_SIZES.items()}
    rotations = {"rope_theta": config.base, "rope_parameters": {"rope_type": "default", "rope_theta": config.base}}
    kind = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "output_router_logits": True}
    return {**kind, **sizes, **rotations, **FIXED}


TRANSLATION = Translation(config=read_config, describe=write_config, read=read, write=write)
