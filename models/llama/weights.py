"""How are Llama's weights called in `transformers`? The same numbers under other names, in both directions."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..entry import Translation
from ..names import parameters_of, read_sizes, renamed, turned
from .entry import LlamaConfig

IN_ATTENTION = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
}
IN_MLP = {
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
ROTATIONS = ".rotary_emb.inv_freq"  # buffers in files of older versions


def names(config: LlamaConfig, in_block: Mapping[str, str]) -> dict[str, str]:
    """Our name -> theirs of every parameter of a decoder with such blocks; a tied projection is not among them."""
    modules = {"embed": "model.embed_tokens", "head.norm": "model.norm"}
    for layer in range(config.layers):
        modules |= {f"blocks.{layer}.{ours}": f"model.layers.{layer}.{theirs}" for ours, theirs in in_block.items()}
    return parameters_of(modules if config.tied else modules | {"head": "lm_head"}, "weight")


def read(tensors: Mapping[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    """The Program's state dict, from the tensors of LlamaForCausalLM.

    Raises:
        ValueError: a tensor is missing, or one is not Llama's.
    """
    known = turned(names(config, IN_ATTENTION | IN_MLP))
    return with_tied(renamed(without_copies(tensors, config), known, "Llama"), config)


def write(tensors: Mapping[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    """The tensors of LlamaForCausalLM, without a tied lm_head.weight, from the Program's state dict."""
    return {theirs: tensors[ours] for ours, theirs in names(config, IN_ATTENTION | IN_MLP).items()}


def without_copies(tensors: Mapping[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    """Their tensors without what is computed, and without the second name of a tied one."""
    second = {"lm_head.weight"} if config.tied else set()
    return {name: x for name, x in tensors.items() if not name.endswith(ROTATIONS) and name not in second}


def with_tied(ours: dict[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    """Our tensors with both names of a tied one."""
    return ours | {"head.weight": ours["embed.weight"]} if config.tied else ours


SIZES = {
    "vocab_size": "vocab_size",
    "context": "max_position_embeddings",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "hidden": "intermediate_size",
    "epsilon": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0}
BASE = 10000.0  # where a file does not say


def read_config(values: Mapping[str, Any]) -> LlamaConfig:
    """Sizes from the contents of a config.json.

    Raises:
        ValueError: a size is missing, or the file describes a variant that this model is not.
    """
    given = {"num_key_value_heads": values.get("num_attention_heads"), "tie_word_embeddings": False} | dict(values)
    sizes = read_sizes(given, SIZES, FIXED, "Llama")
    config = LlamaConfig(**sizes, base=read_base(values, BASE))
    check_heads(values, config)
    return config


def read_base(values: Mapping[str, Any], default: float) -> float:
    """The base of the rotations, as files of old and new versions say it.

    Raises:
        ValueError: the rotations are scaled.
    """
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"the config says rope_type={kind!r}; this model only knows rotations that are not scaled")
    return float(rope.get("rope_theta", values.get("rope_theta", default)))


def check_heads(values: Mapping[str, Any], config: LlamaConfig) -> None:
    """Refuse heads that are not width / heads wide.

    Raises:
        ValueError: they are not.
    """
    if values.get("head_dim") not in (None, config.head_width):
        raise ValueError(f"the config says head_dim={values['head_dim']}; this model only knows {config.head_width}")


def write_config(config: LlamaConfig) -> dict[str, Any]:
    """The contents of a config.json."""
    sizes = {theirs: getattr(config, ours) for ours, theirs in SIZES.items()}
    rotations = {
        "rope_theta": config.base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.base},
    }
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **sizes, **rotations, **FIXED}


TRANSLATION = Translation(config=read_config, describe=write_config, read=read, write=write)
