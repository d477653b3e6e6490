"""How are a Vision Transformer's weights called in `transformers`? The same numbers under other names, both ways."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..entry import Translation
from ..names import parameters_of, read_sizes, renamed, turned
from .entry import VitConfig

EMBED = {"embed.token": "vit.embeddings.cls_token", "embed.positions": "vit.embeddings.position_embeddings"}
MODULES = {
    "embed.patches": "vit.embeddings.patch_embeddings.projection",
    "head.norm": "vit.layernorm",
    "head.classes": "classifier",
}
FOLDER = "vit.encoder.layer."  # of blocks in files; the library's own modules are called vit.layers
IN_BLOCK = {
    "attention_norm": "layernorm_before",
    "attention.query": "attention.attention.query",
    "attention.key": "attention.attention.key",
    "attention.value": "attention.attention.value",
    "attention.output": "attention.output.dense",
    "mlp_norm": "layernorm_after",
    "mlp.expand": "intermediate.dense",
    "mlp.contract": "output.dense",
}


def read(tensors: Mapping[str, Tensor], config: VitConfig) -> dict[str, Tensor]:
    """The Program's state dict, from the tensors of ViTForImageClassification.

    Raises:
        ValueError: a tensor is missing, or one is not ViT's.
    """
    return renamed(tensors, turned(_names(config)), "ViT")


def write(tensors: Mapping[str, Tensor], config: VitConfig) -> dict[str, Tensor]:
    """The tensors of ViTForImageClassification, from the Program's state dict."""
    return renamed(tensors, _names(config), "ViT")


def _names(config: VitConfig) -> dict[str, str]:
    """Our name -> theirs, of every tensor."""
    modules = dict(MODULES)
    for layer in range(config.layers):
        modules |= {f"blocks.{layer}.{ours}": f"{FOLDER}{layer}.{theirs}" for ours, theirs in IN_BLOCK.items()}
    return EMBED | parameters_of(modules, "weight", "bias")


SIZES = {
    "image": "image_size",
    "patch": "patch_size",
    "channels": "num_channels",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "epsilon": "layer_norm_eps",
}
FIXED = {"hidden_act": "gelu", "attention_probs_dropout_prob": 0.0, "qkv_bias": True}


def read_config(values: Mapping[str, Any]) -> VitConfig:
    """Sizes from the contents of a config.json.

    Raises:
        ValueError: a size is missing, or the file describes a variant that this model is not.
    """
    sizes = read_sizes(values, SIZES, FIXED, "ViT")
    return VitConfig(**sizes, classes=len(values["id2label"]) if "id2label" in values else 1000)


def write_config(config: VitConfig) -> dict[str, Any]:
    """The contents of a config.json."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in SIZES.items()}
    names = {str(number): f"LABEL_{number}" for number in range(config.classes)}
    labels = {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}}
    return {"architectures": ["ViTForImageClassification"], "model_type": "vit", **sizes, **labels, **FIXED}


TRANSLATION = Translation(config=read_config, describe=write_config, read=read, write=write)
