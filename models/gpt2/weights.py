"""How are GPT-2's weights called in `transformers`? The same numbers under other names, in both directions.

There a block's query, key and value are one fused matrix, and matrices are stored as [inputs, outputs].
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..entry import Translation
from .entry import GPT2Config

MODULES = {"embed.tokens": "wte", "embed.positions": "wpe", "head.norm": "ln_f"}
IN_BLOCK = {
    "attention_norm": "ln_1",
    "attention.output": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.expand": "mlp.c_fc",
    "mlp.contract": "mlp.c_proj",
}
FUSED = ("attention.query", "attention.key", "attention.value")
BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks in files of older versions
PREFIX = "transformer."


def read(tensors: Mapping[str, Tensor], config: GPT2Config) -> dict[str, Tensor]:
    """The Program's state dict, from the tensors of GPT2LMHeadModel or GPT2Model.

    Raises:
        ValueError: a tensor is missing, or one is not GPT-2's.
    """
    theirs = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if not name.endswith(BUFFERS)}
    theirs.pop("lm_head.weight", None)
    _check_names(theirs, config)
    ours = {}
    for name, other in _names(config):
        ours[name] = _turned(other, theirs[other])
    for layer in range(config.layers):
        for kind in ("weight", "bias"):
            other = f"h.{layer}.attn.c_attn.{kind}"
            parts = _turned(other, theirs[other]).chunk(3)
            ours |= {f"blocks.{layer}.{part}.{kind}": tensor for part, tensor in zip(FUSED, parts, strict=True)}
    return ours | {"head.weight": ours["embed.tokens.weight"]}


def write(tensors: Mapping[str, Tensor], config: GPT2Config) -> dict[str, Tensor]:
    """The tensors of GPT2LMHeadModel, without the tied lm_head.weight, from the Program's state dict."""
    theirs = {PREFIX + other: _turned(other, tensors[name]) for name, other in _names(config)}
    for layer in range(config.layers):
        for kind in ("weight", "bias"):
            other = f"h.{layer}.attn.c_attn.{kind}"
            parts = [tensors[f"blocks.{layer}.{part}.{kind}"] for part in FUSED]
            theirs[PREFIX + other] = _turned(other, torch.cat(parts))
    return theirs


def _names(config: GPT2Config) -> list[tuple[str, str]]:
    """(our name, their name) of every tensor but the fused ones and the tied one."""
    modules = dict(MODULES)
    for layer in range(config.layers):
        modules |= {f"blocks.{layer}.{ours}": f"h.{layer}.{theirs}" for ours, theirs in IN_BLOCK.items()}
    kinds = {name: ("weight",) if name.startswith("embed.") else ("weight", "bias") for name in modules}
    return [(f"{name}.{kind}", f"{other}.{kind}") for name, other in modules.items() for kind in kinds[name]]


def _turned(name: str, tensor: Tensor) -> Tensor:
    """The matrix of a linear layer transposed, anything else as it is; its own inverse."""
    return tensor.T.contiguous() if ".c_" in name and name.endswith(".weight") else tensor


def _check_names(theirs: Mapping[str, Tensor], config: GPT2Config) -> None:
    known = {other for _, other in _names(config)}
    known |= {f"h.{layer}.attn.c_attn.{kind}" for layer in range(config.layers) for kind in ("weight", "bias")}
    for problem, names in (("lack", known - set(theirs)), ("are not GPT-2's:", set(theirs) - known)):
        if names:
            raise ValueError(f"the tensors {problem} {', '.join(sorted(names)[:4])} ({len(names)} in all)")


SIZES = {
    "vocab_size": "vocab_size",
    "context": "n_positions",
    "width": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "dropout": "resid_pdrop",
}
FIXED = {  # what this model always does, in the words of their config
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
}


def read_config(values: Mapping[str, Any]) -> GPT2Config:
    """Sizes from the contents of a config.json.

    Raises:
        ValueError: a size is missing, or the file describes a variant that this model is not.
    """
    missing = [theirs for theirs in SIZES.values() if theirs not in values]
    if missing:
        raise ValueError(f"the config lacks {', '.join(missing)}")
    config = GPT2Config(**{ours: values[theirs] for ours, theirs in SIZES.items()})
    wanted = FIXED | {"n_inner": (None, 4 * config.width), "embd_pdrop": config.dropout, "attn_pdrop": config.dropout}
    for name, value in wanted.items():
        if name in values and values[name] not in (value if isinstance(value, tuple) else (value,)):
            raise ValueError(f"the config says {name}={values[name]!r}; this GPT-2 only knows {value!r}")
    return config


def write_config(config: GPT2Config) -> dict[str, Any]:
    """The contents of a config.json."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in SIZES.items()}
    dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop"), config.dropout)
    end = 50256 if config.vocab_size > 50256 else None
    kind = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "bos_token_id": end, "eos_token_id": end}
    return {**kind, **sizes, **dropout, **FIXED}


TRANSLATION = Translation(config=read_config, describe=write_config, read=read, write=write)
