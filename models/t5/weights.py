"""How are T5's weights called in `transformers`? The same numbers under other names, in both directions."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..entry import Translation
from ..names import parameters_of, read_sizes, renamed, turned
from .entry import T5Config

MODULES = {
    "embed.tokens": "shared",
    "embed.near": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "embed.far": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "memory.norm": "encoder.final_layer_norm",
    "head.norm": "decoder.final_layer_norm",
}
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # of the shared embedding
ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}
MLP = {"relu": {"expand": "wi", "contract": "wo"}, "gated-gelu": {"gate": "wi_0", "expand": "wi_1", "contract": "wo"}}
LAYERS = {  # (our name, theirs) of the branches of a block, in their order
    "encoder": (("attention", "SelfAttention"), ("mlp", "DenseReluDense")),
    "decoder": (("attention", "SelfAttention"), ("memory", "EncDecAttention"), ("mlp", "DenseReluDense")),
}


def read(tensors: Mapping[str, Tensor], config: T5Config) -> dict[str, Tensor]:
    """The Program's state dict, from the tensors of T5ForConditionalGeneration.

    Raises:
        ValueError: a tensor is missing, or one is not T5's.
    """
    copies = (*COPIES, "lm_head.weight") if config.tied else COPIES
    ours = renamed({name: x for name, x in tensors.items() if name not in copies}, turned(_names(config)), "T5")
    return ours | ({"head.weight": ours["embed.tokens.weight"]} if config.tied else {})


def write(tensors: Mapping[str, Tensor], config: T5Config) -> dict[str, Tensor]:
    """The tensors of T5ForConditionalGeneration, without copies of its shared embedding, from our state dict."""
    ours = {name: x for name, x in tensors.items() if not (config.tied and name == "head.weight")}
    return renamed(ours, _names(config), "T5")


def _names(config: T5Config) -> dict[str, str]:
    """Our name -> theirs, of every tensor but copies."""
    modules = dict(MODULES)
    for stack, branches in LAYERS.items():
        for layer in range(config.layers):
            for number, (ours, theirs) in enumerate(branches):
                here, there = f"{stack}.{layer}.{ours}", f"{stack}.block.{layer}.layer.{number}"
                inside = MLP[config.activation] if ours == "mlp" else ATTENTION
                modules |= {f"{here}.{name}": f"{there}.{theirs}.{other}" for name, other in inside.items()}
                modules[f"{here}_norm"] = f"{there}.layer_norm"
    projection = {} if config.tied else {"head.weight": "lm_head.weight"}
    return parameters_of(modules, "weight") | projection


SIZES = {
    "vocab_size": "vocab_size",
    "width": "d_model",
    "layers": "num_layers",
    "heads": "num_heads",
    "head_width": "d_kv",
    "hidden": "d_ff",
    "buckets": "relative_attention_num_buckets",
    "reach": "relative_attention_max_distance",
    "activation": "feed_forward_proj",
    "dropout": "dropout_rate",
    "tied": "tie_word_embeddings",
}
OWN = {"context": "text_length", "sentinel": "first_sentinel_id", "sentinels": "sentinels"}  # may be absent
IDS = {"start": "decoder_start_token_id", "end": "eos_token_id"}


def read_config(values: Mapping[str, Any]) -> T5Config:
    """Sizes from the contents of a config.json; sentinels that it does not name are those of the published ones.

    Raises:
        ValueError: a size is missing, or the file describes a variant that this model is not.
    """
    fixed = {"layer_norm_epsilon": 1e-6, "num_decoder_layers": values.get("num_layers")}
    sizes = read_sizes(values, SIZES, fixed, "T5")
    known = {ours: values[theirs] for ours, theirs in (OWN | IDS).items() if values.get(theirs) is not None}
    return T5Config(**{**sizes, **known})


def write_config(config: T5Config) -> dict[str, Any]:
    """The contents of a config.json."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in (SIZES | OWN | IDS).items()}
    kind = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "pad_token_id": config.start}
    more = {"num_decoder_layers": config.layers, "scale_decoder_outputs": config.tied, "layer_norm_epsilon": 1e-6}
    return {**kind, **sizes, **more}


TRANSLATION = Translation(config=read_config, describe=write_config, read=read, write=write)
