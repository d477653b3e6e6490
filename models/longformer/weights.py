"""How are Longformer's weights called in `transformers`? The same numbers under other names, in both directions."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..entry import Translation
from ..names import parameters_of, read_sizes, renamed, turned
from .entry import RESERVED, LongformerConfig

EMBED = {
    "embed.tokens.weight": "longformer.embeddings.word_embeddings.weight",
    "embed.positions.weight": "longformer.embeddings.position_embeddings.weight",
    "embed.segment": "longformer.embeddings.token_type_embeddings.weight",
    "head.bias": "lm_head.bias",
}
MODULES = {
    "embed.norm": "longformer.embeddings.LayerNorm",
    "head.dense": "lm_head.dense",
    "head.norm": "lm_head.layer_norm",
}
IN_BLOCK = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.global_query": "attention.self.query_global",
    "attention.global_key": "attention.self.key_global",
    "attention.global_value": "attention.self.value_global",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.expand": "intermediate.dense",
    "mlp.contract": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
TIED = ("lm_head.decoder.weight", "lm_head.decoder.bias")
UNUSED = ("longformer.embeddings.position_ids", "longformer.pooler.dense.weight", "longformer.pooler.dense.bias")


def read(tensors: Mapping[str, Tensor], config: LongformerConfig) -> dict[str, Tensor]:
    """The Program's state dict, from the tensors of LongformerForMaskedLM.

    Raises:
        ValueError: a tensor is missing, or one is not Longformer's.
    """
    theirs = {name: tensor for name, tensor in tensors.items() if name not in (*TIED, *UNUSED)}
    ours = renamed(theirs, turned(_names(config)), "Longformer")
    return ours | {"head.weight": ours["embed.tokens.weight"]}


def write(tensors: Mapping[str, Tensor], config: LongformerConfig) -> dict[str, Tensor]:
    """The tensors of LongformerForMaskedLM, without the tied ones of its decoder, from the Program's state dict."""
    ours = {name: tensor for name, tensor in tensors.items() if name != "head.weight"}
    return renamed(ours, _names(config), "Longformer")


def _names(config: LongformerConfig) -> dict[str, str]:
    """Our name -> theirs, of every tensor but the tied ones."""
    modules = dict(MODULES)
    for layer in range(config.layers):
        there = f"longformer.encoder.layer.{layer}"
        modules |= {f"blocks.{layer}.{ours}": f"{there}.{theirs}" for ours, theirs in IN_BLOCK.items()}
    return EMBED | parameters_of(modules, "weight", "bias")


SIZES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "start": "bos_token_id",
    "end": "eos_token_id",
}
OWN = {"leading": "leading_tokens", "mask": "mask_token_id"}  # in our own files; theirs say nothing
FIXED = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "type_vocab_size": 1,
    "tie_word_embeddings": True,
    "pad_token_id": 1,
}


def read_config(values: Mapping[str, Any]) -> LongformerConfig:
    """Sizes from the contents of a config.json; a mask that it does not name is the last id, as in the published ones.

    Raises:
        ValueError: a size is missing, or the file describes a variant that this model is not.
    """
    sizes = read_sizes(values, SIZES, FIXED, "Longformer")
    rows, windows = values["max_position_embeddings"], values["attention_window"]
    if isinstance(windows, list) and len(set(windows)) > 1:
        raise ValueError(f"the config says attention_window={windows!r}; this Longformer has one window for all blocks")
    sizes["window"] = windows[0] if isinstance(windows, list) else windows
    own = {"mask": sizes["vocab_size"] - 1}
    own |= {ours: values[theirs] for ours, theirs in OWN.items() if theirs in values}
    return LongformerConfig(context=rows - RESERVED, **sizes, **own)


def write_config(config: LongformerConfig) -> dict[str, Any]:
    """The contents of a config.json."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in (SIZES | OWN).items()}
    sizes |= {"max_position_embeddings": config.context + RESERVED, "attention_window": config.window}
    kind = {
        "architectures": ["LongformerForMaskedLM"],
        "model_type": "longformer",
    }
    return {**kind, **sizes, "attention_probs_dropout_prob": config.dropout, **FIXED}


TRANSLATION = Translation(config=read_config, describe=write_config, read=read, write=write)
