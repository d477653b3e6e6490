"""Is the U-Net diffusers', is noise mixed in and taken out as its schedulers do, does it learn, and does it split?"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from entries import check_differences, differences
from learning import learn
from records import check_record, counted_flops
from shardwright.models.ddpm.entry import PRESETS, DDPMConfig, boundary, flops, parameters, pieces, units
from shardwright.models.ddpm.model import DDPM
from shardwright.models.ddpm.noise import denoised, kept, noised, sample
from shardwright.models.draw import integers, keys, normal
from shardwright.models.entry import Shape
from shardwright.trainers.data.samples.digits import load
from shardwright.trainers.pipeline_cut import keep_units
from torch import Tensor, nn

TINY = PRESETS["tiny"]
CONFIG = DDPMConfig(16, 2, 8, (1, 2, 1), blocks=2, attention=(8,), groups=4, dropout=0.0, times=50, last=0.3)


def built(config: DDPMConfig = CONFIG) -> DDPM:
    torch.manual_seed(0)
    program = DDPM(config)
    for name, parameter in program.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, mean=1.0, std=0.3)
    return program


def batch(config: DDPMConfig = CONFIG, samples: int = 3) -> dict[str, Tensor]:
    image = torch.rand(samples, config.channels, config.side, config.side, generator=torch.Generator().manual_seed(1))
    return {"image": image, "key": keys(0, 0, torch.arange(samples))}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_record_is_that_of_the_built_model(preset: str) -> None:
    check_record("ddpm", preset)


def test_presets_have_the_papers_sizes() -> None:
    cifar = PRESETS["cifar10"]
    assert parameters(cifar) == pytest.approx(35.7e6, rel=0.002)  # appendix B
    assert (cifar.times, cifar.first, cifar.last, cifar.dropout, cifar.attention) == (1000, 1e-4, 0.02, 0.1, (16,))


def test_flops_are_those_that_torch_counts() -> None:
    assert flops(TINY, 0) == counted_flops("ddpm", "tiny", batch(TINY, samples=1))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"times": 0}, "times=0 is not positive"),
        ({"side": 12}, "side=12 cannot be halved 3 times"),
        ({"groups": 24}, "width=128 must be even and a multiple of groups=24"),
        ({"multipliers": ()}, "there must be one for each level"),
        ({"first": 0.5}, "first=0.5 and last=0.02 must rise"),
        ({"dropout": 1.0}, "dropout=1.0 is not"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DDPMConfig(**sizes)


IN_BLOCK = {
    "first_norm": "norm1",
    "first": "conv1",
    "time": "time_emb_proj",
    "second_norm": "norm2",
    "second": "conv2",
    "shortcut": "conv_shortcut",
}
IN_ATTENTION = {
    "attention_norm": "group_norm",
    "attention.query": "to_q",
    "attention.key": "to_k",
    "attention.value": "to_v",
    "attention.output": "to_out.0",
}
ENDS = {
    "embed.image": "conv_in",
    "embed.expand": "time_embedding.linear_1",
    "embed.contract": "time_embedding.linear_2",
    "head.norm": "conv_norm_out",
    "head.image": "conv_out",
    **{f"middle.first.{ours}": f"mid_block.resnets.0.{theirs}" for ours, theirs in IN_BLOCK.items()},
    **{f"middle.second.{ours}": f"mid_block.resnets.1.{theirs}" for ours, theirs in IN_BLOCK.items()},
    **{f"middle.first.{ours}": f"mid_block.attentions.0.{theirs}" for ours, theirs in IN_ATTENTION.items()},
}


def names(config: DDPMConfig) -> Iterator[tuple[str, str]]:
    """(our module, diffusers') of all."""
    yield from ENDS.items()
    levels, numbers = {"down": 0, "up": 0}, {"down": 0, "up": 0}
    for piece in pieces(config):
        way = piece.path.partition(".")[0]
        if way == "middle":
            continue
        level, number = f"{way}_blocks.{levels[way]}", numbers[way]
        if piece.kind == "block":
            for ours, theirs in IN_BLOCK.items():
                yield f"{piece.path}.{ours}", f"{level}.resnets.{number}.{theirs}"
            for ours, theirs in IN_ATTENTION.items():
                yield f"{piece.path}.{ours}", f"{level}.attentions.{number}.{theirs}"
            numbers[way] += 1
        else:
            yield f"{piece.path}.image", f"{level}.{way}samplers.0.conv"
            levels[way], numbers[way] = levels[way] + 1, 0


def theirs(config: DDPMConfig, program: DDPM) -> Any:
    """diffusers' U-Net, as it holds the authors' weights for CIFAR-10, with the weights of ours."""
    from diffusers import UNet2DModel

    sides = [config.side >> level for level in range(len(config.multipliers))]
    ways = ["Attn" if side in config.attention else "" for side in sides]
    model = UNet2DModel(
        sample_size=config.side,
        in_channels=config.channels,
        out_channels=config.channels,
        freq_shift=1,
        flip_sin_to_cos=False,
        down_block_types=tuple(f"{way}DownBlock2D" for way in ways),
        up_block_types=tuple(f"{way}UpBlock2D" for way in reversed(ways)),
        block_out_channels=tuple(config.width * multiplier for multiplier in config.multipliers),
        layers_per_block=config.blocks,
        downsample_padding=0,
        attention_head_dim=None,
        norm_num_groups=config.groups,
        norm_eps=1e-6,
    )
    table, ours = dict(names(config)), program.state_dict()
    copied = {f"{table[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": x for name, x in ours.items()}
    model.load_state_dict(copied)
    return model


def test_the_network_is_diffusers() -> None:
    """Values and gradients; nothing is dropped, so training and evaluation are the same."""
    program = built()
    model = theirs(CONFIG, program)
    x = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    level = torch.tensor([0, 17, 49])
    found, expected = program.predict(x, level), model(x, level).sample
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for value in (found, expected):
        value.square().sum().backward()
    table, other = dict(names(CONFIG)), dict(model.named_parameters())
    largest = max(p.grad.abs().max() for p in program.parameters())
    for name, parameter in program.named_parameters():
        path, _, kind = name.rpartition(".")
        assert (parameter.grad - other[f"{table[path]}.{kind}"].grad).abs().max() < 1e-5 * largest, name


def test_the_loss_is_the_papers() -> None:
    """Equation 14, at drawn levels and with drawn noise."""
    program, given = built(), batch()
    noise = normal(given["key"], "noise", (2, 16, 16))
    level = integers(given["key"], "level", (), 0, CONFIG.times)
    noisy = noised(2 * given["image"] - 1, noise, kept(CONFIG)[level])
    total, count = program(given)["loss"]
    torch.testing.assert_close(total, (program.predict(noisy, level) - noise).square().sum())
    assert count == given["image"].numel()


def test_noise_is_mixed_in_as_diffusers_does() -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(CONFIG.times, CONFIG.first, CONFIG.last, "linear")
    image, noise = torch.randn(2, 3, 1, 4, 4).unbind()
    level = torch.tensor([0, 20, 49])
    torch.testing.assert_close(noised(image, noise, kept(CONFIG)[level]), scheduler.add_noise(image, noise, level))


@pytest.mark.parametrize("level", [0, 1, 30, 49])
def test_a_step_back_is_diffusers(level: int) -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(CONFIG.times, CONFIG.first, CONFIG.last, "linear", clip_sample=False)
    image, noise = torch.randn(2, 3, 1, 4, 4).unbind()
    expected = scheduler.step(noise, level, image, generator=torch.Generator().manual_seed(5)).prev_sample
    shares = kept(CONFIG)
    mean, deviation = denoised(image, noise, shares[level], shares[level - 1] if level else 1.0, eta=1.0)
    drawn = torch.randn(image.shape, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(mean + deviation * drawn, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_leap_back_is_diffusers_ddim(eta: float) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(CONFIG.times, CONFIG.first, CONFIG.last, "linear", clip_sample=False)
    scheduler.set_timesteps(5)
    image, noise = torch.randn(2, 3, 1, 4, 4).unbind()
    generator = torch.Generator().manual_seed(5)
    expected = scheduler.step(noise, 40, image, eta=eta, generator=generator).prev_sample
    mean, deviation = denoised(image, noise, kept(CONFIG)[40], kept(CONFIG)[30], eta)
    drawn = torch.randn(image.shape, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(mean + deviation * drawn, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("levels", "eta"), [((), 1.0), ((99, 60, 20, 0), 0.0)])
def test_sampling_ends_at_the_only_image_there_is(levels: tuple[int, ...], eta: float) -> None:
    """Where all data is one image, the noise in any mixture is known exactly."""
    image, shares, key = torch.rand(1, 4, 4), kept(TINY), keys(0, 0, torch.arange(3))

    def network(noisy: Tensor, level: Tensor) -> Tensor:
        share = shares[level].view(-1, 1, 1, 1)
        return (noisy - share.sqrt() * image) / (1 - share).sqrt()

    found = sample(network, shares, key, (1, 4, 4), levels, eta)
    torch.testing.assert_close(found, image.expand(3, 1, 4, 4), atol=1e-4, rtol=1e-4)
    alone = sample(network, shares, key[1:2], (1, 4, 4), levels, eta)
    torch.testing.assert_close(alone, found[1:2])


def test_every_cut_gives_the_whole_and_has_the_shapes_it_says() -> None:
    config = DDPMConfig(8, 1, 8, (1, 2), blocks=1, attention=(4,), groups=4, dropout=0.3, times=50, last=0.3)
    program, given = built(config), batch(config)
    paths, expected = [unit.path for unit in units(config)], program(given)["loss"][0]
    said = boundary(config, 3, 0)
    assert sorted(said) == list(range(1, len(paths)))
    for cut, tensors in said.items():
        first, second = deepcopy(program), deepcopy(program)
        keep_units(first, paths, range(cut))
        keep_units(second, paths, range(cut, len(paths)))
        between = first(given)
        shapes: list[Shape] = [tuple(x.shape) for x in between]
        assert shapes == [shape for shape, _ in tensors], paths[cut]
        torch.testing.assert_close(second(given, *between)["loss"][0], expected)


def scaled() -> float:
    """The error of the best answer that only scales the noisy image, by a factor of its level; zero has 1."""
    images = 2 * torch.from_numpy(load().arrays["image"]) - 1
    share = kept(TINY)
    return float((1 - (1 - share) / (share * images.square().mean() + 1 - share)).mean())


def test_it_learns_what_is_noise_in_digits(ranks: Callable[..., list[Any]]) -> None:
    optimizer = {"lr": 6e-3, "weight_decay": 0.0}
    (found,) = ranks(learn, 1, deadline=200, name="ddpm", steps=120, batch=16, batches=20, optimizer=optimizer)
    assert found["held_out"]["loss"] < 0.8 * scaled() < 0.2


def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]]) -> None:
    check_differences(ranks(differences, 2, name="ddpm", strategies=["zero3", "tensor2", "pipeline2"])[0])
