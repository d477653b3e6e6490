"""Is it the Vision Transformer of the paper, `transformers` and torchvision, and does every layout train it alike?"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import entries
import pytest
import torch
import torchvision_stubs
from learning import learn
from shardwright.models.draw import keys
from shardwright.models.entry import load_object
from shardwright.models.program import build
from shardwright.models.vit.entry import ENTRY, PRESETS, VitConfig, activations, boundary, flops, parameters
from shardwright.models.vit.model import Vit
from shardwright.models.vit.weights import TRANSLATION, read_config, write_config
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

CONFIG = VitConfig(image=12, patch=3, channels=2, classes=7, width=32, layers=2, heads=4, hidden=48, dropout=0.0)
ACCURACY = 0.9
TORCHVISION = {"base_16": "vit_b_16", "large_16": "vit_l_16"}


def program(dropout: float = 0.0) -> Vit:
    torch.manual_seed(0)
    made = build(ENTRY, replace(CONFIG, dropout=dropout))
    assert isinstance(made, Vit)
    return made


def batch(samples: int = 4) -> dict[str, Tensor]:
    random, sample = torch.Generator().manual_seed(3), torch.arange(samples)
    image = torch.randn(samples, 2, 12, 12, generator=random)
    return {"image": image, "label": sample % 7, "sample": sample, "key": keys(0, 0, sample)}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    entries.check_record(ENTRY, PRESETS[preset])


@pytest.mark.parametrize("preset", TORCHVISION)
def test_presets_have_torchvisions_sizes(preset: str) -> None:
    models = pytest.importorskip("torchvision.models", reason="the oracle is not installed")
    with torch.device("meta"):
        other = getattr(models, TORCHVISION[preset])()
    assert parameters(PRESETS[preset]) == sum(weight.numel() for weight in other.parameters())


def test_flops_are_those_that_torch_counts() -> None:
    for config in (CONFIG, PRESETS["base_16"]):
        image = torch.zeros(1, config.channels, config.image, config.image, device="meta")
        with FlopCounterMode(display=False) as counter:
            entries.on_meta(ENTRY, config).eval()({"image": image})
        assert flops(config) == counter.get_total_flops()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_the_bytes_that_a_block_keeps(dropout: float) -> None:
    config = replace(PRESETS["tiny"], dropout=dropout)
    block = Vit(config).blocks["1"]
    x, key = torch.randn(32, config.tokens, config.width, requires_grad=True), keys(0, 0, torch.arange(32))
    with entries.kept(*block.parameters()) as storages:
        block(x, key)
    assert activations(config, 32, 0, 4) == pytest.approx(sum(storages.values()), rel=0.02)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 3}, "heads=3 does not divide width=32"),
        ({"patch": 5}, "patch=5 does not divide image=12"),
        ({"classes": 0}, "classes=0 is not positive"),
        ({"dropout": -0.1}, r"dropout=-0.1 is not in \[0, 1\)"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **sizes)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"an image is \(2, 9, 9\), but the config says \(2, 12, 12\)"):
        program()({"image": torch.zeros(1, 2, 9, 9)})


def test_the_terms_are_those_of_the_logits() -> None:
    data = batch(9)
    model = entries.scattered(program())
    logits, terms = model({"image": data["image"]})["logits"], model(data)
    torch.testing.assert_close(terms["loss"][0], F.cross_entropy(logits, data["label"], reduction="sum"))
    assert float(terms["accuracy"][0]) == float((logits.argmax(-1) == data["label"]).sum())
    assert [float(count) for _, count in terms.values()] == [9.0, 9.0]


def theirs() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    return entries.scattered(transformers.ViTForImageClassification(transformers.ViTConfig(**write_config(CONFIG))))


def test_their_file_gives_our_model_their_logits_and_gradients(tmp_path: Path) -> None:
    other, ours, data = theirs(), program(), batch()
    other.save_pretrained(tmp_path)  # type: ignore[operator]
    state, config = saved(tmp_path)
    assert read_config(config) == CONFIG
    ours.load_state_dict(TRANSLATION.read(state, CONFIG))
    for training in (False, True):
        logits, expected = (
            ours.train(training)({"image": data["image"]})["logits"],
            other.train(training)(data["image"]),
        )
        torch.testing.assert_close(logits, expected.logits, rtol=0.0, atol=1e-5)
    assert float(logits.detach().std()) > 0.1
    F.cross_entropy(expected.logits, data["label"], reduction="sum").backward()
    ours(data)["loss"][0].backward()
    entries.check_gradients(entries.gradients(ours), by_our_names(other))


def saved(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    safetensors = pytest.importorskip("safetensors.torch")
    return safetensors.load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def by_our_names(other: nn.Module) -> dict[str, Tensor]:
    """Their gradients; a module in memory is called otherwise than in its file."""
    inside = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    inside |= {"o_proj": "output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    found = {}
    for name, gradient in entries.gradients(other).items():
        name = name.replace("vit.layers.", "vit.encoder.layer.")
        for short, long in inside.items():
            name = name.replace(short, long)
        found[name] = gradient
    return TRANSLATION.read(found, CONFIG)


def test_our_file_gives_their_model_our_logits(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
    safetensors = pytest.importorskip("safetensors.torch")
    ours, data = entries.scattered(program()).eval(), batch()
    state = {name: x.clone() for name, x in TRANSLATION.write(ours.state_dict(), CONFIG).items()}
    safetensors.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(write_config(CONFIG)))
    other = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(ours(data)["loss"][1], torch.tensor(4.0))
    logits = ours({"image": data["image"]})["logits"]
    torch.testing.assert_close(other(data["image"]).logits, logits, rtol=0.0, atol=1e-5)


def test_it_is_torchvisions() -> None:
    """vit_b_16's class, small, with our weights under its names."""
    torchvision_stubs.watch()
    models = pytest.importorskip("torchvision.models", reason="the oracle is not installed")
    config = replace(CONFIG, channels=3)
    ours = entries.scattered(Vit(config)).eval()
    other = models.VisionTransformer(
        image_size=12, patch_size=3, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=7
    ).eval()
    other.load_state_dict(named_as_torchvision(ours.state_dict()))
    image = batch()["image"][:, [0, 1, 0]]
    torch.testing.assert_close(ours({"image": image})["logits"], other(image), rtol=0.0, atol=1e-5)


def named_as_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {
        "embed.token": "class_token",
        "embed.positions": "encoder.pos_embedding",
        "embed.patches": "conv_proj",
        "head.norm": "encoder.ln",
        "head.classes": "heads.head",
        "attention_norm": "ln_1",
        "attention.output": "self_attention.out_proj",
        "mlp_norm": "ln_2",
        "mlp.expand": "mlp.0",
        "mlp.contract": "mlp.3",
        "blocks.": "encoder.layers.encoder_layer_",
    }
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith((".query.weight", ".query.bias")):
            parts = [state[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            name, tensor = name.replace("attention.query.", "self_attention.in_proj_"), torch.cat(parts)
        for ours, other in names.items():
            name = name.replace(ours, other) if "self_attention.in" not in name or ours == "blocks." else name
        found[name] = tensor
    return {name: x for name, x in found.items() if ".attention.key" not in name and ".attention.value" not in name}


@pytest.mark.parametrize("preset", PRESETS)
def test_sizes_there_and_back(preset: str) -> None:
    assert read_config(write_config(PRESETS[preset])) == PRESETS[preset]
    assert load_object(ENTRY.weights) is TRANSLATION
    with pytest.raises(ValueError, match="qkv_bias=False; this ViT only knows True"):
        read_config(write_config(CONFIG) | {"qkv_bias": False})


def test_stages_in_a_row_are_the_whole() -> None:
    whole, first, last, data = (*(entries.scattered(program(0.3)) for _ in range(3)), batch())
    first.head, last.embed = None, None  # type: ignore[assignment]
    del first.blocks["1"], last.blocks["0"]  # type: ignore[operator, union-attr]
    state = first(data)
    assert [(tuple(x.shape), "compute") for x in state] == list(boundary(CONFIG, 4, 0))
    torch.testing.assert_close(last(data, *state), whole(data))


def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]]) -> None:
    strategies = ["ddp", "zero3", "tensor2", "pipeline2"]
    found = ranks(entries.differences, 2, name="vit", strategies=strategies, config={"dropout": 0.1})[0]
    assert list(found) == strategies
    entries.check_differences(found)


def test_it_learns(ranks: Callable[..., list[Any]]) -> None:
    found = ranks(learn, 1, deadline=240, name="vit", steps=160, batch=64, batches=5)[0]
    assert found["held_out"]["accuracy"] > ACCURACY, found
