"""How are BERT's weights called in `transformers`? The same numbers under other names, in both directions."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..entry import Translation
from ..names import parameters_of, read_sizes, renamed, turned
from .entry import BertConfig

TABLES = {"tokens": "word_embeddings", "positions": "position_embeddings", "segments": "token_type_embeddings"}
MODULES = {
    "embed.norm": "bert.embeddings.LayerNorm",
    "head.tokens.dense": "cls.predictions.transform.dense",
    "head.tokens.norm": "cls.predictions.transform.LayerNorm",
    "head.pool": "bert.pooler.dense",
    "head.next": "cls.seq_relationship",
}
IN_BLOCK = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.expand": "intermediate.dense",
    "mlp.contract": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
BUFFER = "bert.embeddings.position_ids"  # in files of older versions


def read(tensors: Mapping[str, Tensor], config: BertConfig) -> dict[str, Tensor]:
    """The Program's state dict, from the tensors of BertForPreTraining.

    Raises:
        ValueError: a tensor is missing, or one is not BERT's.
    """
    theirs = {name: tensor for name, tensor in tensors.items() if name not in (*TIED, BUFFER)}
    ours = renamed(theirs, turned(_names(config)), "BERT")
    return ours | {"head.tokens.weight": ours["embed.tokens.weight"]}


def write(tensors: Mapping[str, Tensor], config: BertConfig) -> dict[str, Tensor]:
    """The tensors of BertForPreTraining, without the tied ones of its decoder, from the Program's state dict."""
    ours = {name: tensor for name, tensor in tensors.items() if name != "head.tokens.weight"}
    return renamed(ours, _names(config), "BERT")


def _names(config: BertConfig) -> dict[str, str]:
    """Our name -> theirs, of every tensor but the tied ones."""
    modules = dict(MODULES)
    for layer in range(config.layers):
        modules |= {
            f"blocks.{layer}.{ours}": f"bert.encoder.layer.{layer}.{theirs}" for ours, theirs in IN_BLOCK.items()
        }
    tables = {f"embed.{ours}": f"bert.embeddings.{theirs}" for ours, theirs in TABLES.items()}
    bias = {"head.tokens.bias": "cls.predictions.bias"}
    return parameters_of(modules, "weight", "bias") | parameters_of(tables, "weight") | bias


SIZES = {
    "vocab_size": "vocab_size",
    "context": "max_position_embeddings",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "dropout": "hidden_dropout_prob",
}
IDS = {"cls": "cls_token_id", "sep": "sep_token_id", "mask": "mask_token_id"}  # in our own files; theirs say nothing
FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2, "tie_word_embeddings": True}


def read_config(values: Mapping[str, Any]) -> BertConfig:
    """Sizes from the contents of a config.json; special tokens that it does not name are those of the published ones.

    Raises:
        ValueError: a size is missing, or the file describes a variant that this model is not.
    """
    sizes = read_sizes(values, SIZES, FIXED, "BERT")
    read_sizes(values, {}, {"attention_probs_dropout_prob": sizes["dropout"]}, "BERT")
    return BertConfig(**sizes, **{ours: values[theirs] for ours, theirs in IDS.items() if theirs in values})


def write_config(config: BertConfig) -> dict[str, Any]:
    """The contents of a config.json."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in (SIZES | IDS).items()}
    kind = {"architectures": ["BertForPreTraining"], "model_type": "bert", "pad_token_id": None}
    return {**kind, **sizes, "attention_probs_dropout_prob": config.dropout, **FIXED}


TRANSLATION = Translation(config=read_config, describe=write_config, read=read, write=write)
