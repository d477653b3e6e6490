"""Is it torchvision's ResNet with the same weights, does it learn, and does no layout change it?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from learning import learn
from records import check_record, counted_flops
from shardwright.jobs.verify import verify
from shardwright.models.axes import ALONE
from shardwright.models.layers import batch_norm
from shardwright.models.resnet18.entry import PRESETS, FeatureSizes, ResNetConfig, flops, parameters
from shardwright.models.resnet18.model import Features, ResNet
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.nn import functional as F

MODULES = {"first": "conv1", "first_norm": "bn1", "second": "conv2", "second_norm": "bn2"}
MODULES |= {"shortcut": "downsample.0", "shortcut_norm": "downsample.1"}


def batch(config: ResNetConfig, samples: int = 4) -> dict[str, Tensor]:
    shape = (samples, config.channels, config.image, config.image)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return {"image": images, "label": torch.arange(samples) % config.classes}


def theirs_of(name: str, config: FeatureSizes) -> str:
    """torchvision's name of a tensor of ours."""
    if name.startswith("head"):
        return name.replace("head", "fc")
    if name.startswith("features.stem"):
        return name.replace("features.stem.convolution", "conv1").replace("features.stem.norm", "bn1")
    _, _, index, module, tensor = name.split(".")
    stage, block = next(
        (stage, int(index) - sum(config.blocks[:stage]))
        for stage in range(len(config.blocks))
        if int(index) < sum(config.blocks[: stage + 1])
    )
    return f"layer{stage + 1}.{block}.{MODULES[module]}.{tensor}"


def oracle(config: ResNetConfig, program: ResNet) -> nn.Module:
    from torchvision.models.resnet import BasicBlock
    from torchvision.models.resnet import ResNet as Theirs

    made = Theirs(BasicBlock, list(config.blocks), num_classes=config.classes)
    if config.stem == "small":
        made.conv1, made.maxpool = nn.Conv2d(config.channels, config.width, 3, padding=1, bias=False), nn.Identity()
    weights = {theirs_of(name, config): tensor.clone() for name, tensor in program.state_dict().items()}
    missing, unexpected = made.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return made


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    check_record("resnet18", preset)


def test_presets_have_the_papers_sizes() -> None:
    assert parameters(PRESETS["imagenet"]) == 11_689_512
    assert parameters(PRESETS["imagenet34"]) == 21_797_672
    assert flops(PRESETS["imagenet"], 1) / 2 == pytest.approx(1.8e9, rel=0.02)  # table 1 counts multiply-adds
    assert flops(PRESETS["imagenet34"], 1) / 2 == pytest.approx(3.6e9, rel=0.02)


@pytest.mark.parametrize("preset", ["tiny", "imagenet"])
def test_flops_are_those_that_torch_counts(preset: str) -> None:
    config = PRESETS[preset]
    data = {"image": torch.zeros(1, config.channels, config.image, config.image)}
    assert flops(config, 1) == counted_flops("resnet18", preset, data)


@pytest.mark.parametrize("stem", ["paper", "small"])
def test_it_is_torchvisions_network(stem: Any) -> None:
    torch.manual_seed(0)
    config = ResNetConfig(width=64, image=33 if stem == "paper" else 8, classes=5, stem=stem)
    program = ResNet(config)
    theirs = oracle(config, program)
    for _ in range(2):  # the second time with running statistics of the first
        data = batch(config)
        loss, count = program(data)["loss"]
        expected = F.cross_entropy(theirs(data["image"]), data["label"])
        assert torch.allclose(loss / count, expected, atol=1e-5)
    (loss / count).backward()
    expected.backward()
    gradients = {theirs_of(name, config): p.grad for name, p in program.named_parameters()}
    for name, parameter in theirs.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-5), name
    found = {theirs_of(name, config): buffer for name, buffer in program.named_buffers()}
    for name, buffer in theirs.named_buffers():
        assert name.endswith("num_batches_tracked") or torch.allclose(found[name], buffer, atol=1e-5), name
    logits = program.eval()({"image": batch(config)["image"]})["logits"]
    assert torch.allclose(logits, theirs.eval()(batch(config)["image"]), atol=1e-5)


@pytest.mark.parametrize(
    "config", [PRESETS["tiny"], ResNetConfig(width=2, image=37), ResNetConfig(width=2, image=8, stem="small")]
)
def test_sides_are_those_of_the_feature_maps(config: ResNetConfig) -> None:
    features = Features(config).eval()
    seen: list[int] = []
    for module in (features.stem, *features.blocks.values()):
        module.register_forward_hook(lambda _, __, y: seen.append(y.shape[-1]))
    features(torch.zeros(1, config.channels, config.image, config.image))
    assert tuple(seen) == config.sides


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"blocks": (2, 2)}, "must name the same stages"), ({"strides": (1, 2, 0, 2)}, r"strides=\(1, 2, 0, 2\) is not"),
     ({"classes": 0}, "classes=0 is not positive")],
)  # fmt: skip
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNetConfig(**sizes)


def test_it_learns_digits(ranks: Callable[..., list[Any]]) -> None:
    found = ranks(learn, 1, deadline=200, name="resnet18", steps=150, batch=64, optimizer={"lr": 1e-2}, batches=6)[0]
    assert found["held_out"]["accuracy"] > 0.9, found


def differences(worker: Worker, strategy: str, fault: bool = False) -> dict[str, float] | None:
    if fault:
        unsynchronised()
    return verify(worker, "resnet18", "tiny", {}, "", strategy, {})


@pytest.mark.parametrize("strategy", ["zero2", "tensor2", "pipeline2", "ddp_tensor2"])
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= 1e-5 for value in found.values()), found


def unsynchronised() -> None:
    """Each rank normalises over its own samples."""
    batch_norm.BatchNorm.axes = property(lambda self: ALONE, lambda self, axes: None)


def test_a_missed_synchronisation_is_found(ranks: Callable[..., list[Any]]) -> None:
    found = ranks(differences, 2, strategy="ddp", fault=True)[0]
    assert found["loss"] > 1e-3 and found["gradient"] > 1e-2, found
