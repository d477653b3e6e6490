"""Is a view what it says, drawn from the sample's key alone?"""

import pytest
import torch
from shardwright.models.draw import keys
from shardwright.models.layers.view_sizes import ViewSizes
from shardwright.models.layers.views import places, view
from torch import Tensor

STILL = ViewSizes(crop=1.0, flip=0.0, jitter=0.0, grey=0.0)
KEY = keys(0, 0, torch.arange(4096))


def images(count: int, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_view_without_changes_is_the_image() -> None:
    assert torch.allclose(view(images(8), KEY[:8], "first", STILL), images(8), atol=1e-6)


def test_a_mirrored_view_is_the_mirrored_image() -> None:
    sizes = ViewSizes(crop=1.0, flip=1.0, jitter=0.0, grey=0.0)
    assert torch.allclose(view(images(8), KEY[:8], "first", sizes), images(8).flip(-1), atol=1e-6)


def test_a_view_of_colours_may_lose_them() -> None:
    sizes = ViewSizes(crop=1.0, flip=0.0, jitter=0.0, grey=1.0)
    seen = view(images(8, 3), KEY[:8], "first", sizes)
    assert torch.allclose(seen[:, 0], seen[:, 1], atol=1e-6) and torch.allclose(seen[:, 0], seen[:, 2], atol=1e-6)


def test_crops_show_what_they_say_and_stay_inside() -> None:
    maps = places(KEY, "first", ViewSizes(crop=0.25, flip=0.5))
    width, height = maps[:, 0, 0].abs(), maps[:, 1, 1]
    assert 0.25 - 1e-4 <= (width * height).min() < 0.27 and (width * height).max() <= 1.0 + 1e-6
    assert (maps[:, 0, 2].abs() + width).max() <= 1.0 + 1e-6 and (maps[:, 1, 2].abs() + height).max() <= 1.0 + 1e-6
    assert (maps[:, 0, 0] < 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert maps[:, :, 2].mean().abs() < 0.01 and maps[:, :, 2].abs().max() > 0.4


def test_turns_keep_lengths() -> None:
    maps = places(KEY, "first", ViewSizes(crop=1.0, turn=30.0, flip=0.0))
    rotation = maps[:, :, :2]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(2).expand_as(rotation), atol=1e-5)
    assert rotation[:, 1, 0].max() == pytest.approx(0.5, abs=0.01) and rotation[:, 1, 0].min() < -0.49


def test_noise_has_its_deviation_and_jitter_changes_the_brightness() -> None:
    noisy = ViewSizes(crop=1.0, flip=0.0, jitter=0.0, grey=0.0, noise=0.2)
    assert (view(images(512), KEY[:512], "a", noisy) - images(512)).std() == pytest.approx(0.2, rel=0.02)
    jittered = ViewSizes(crop=1.0, flip=0.0, jitter=0.5, grey=0.0)
    means = view(images(512), KEY[:512], "a", jittered).mean((1, 2, 3)) / images(512).mean((1, 2, 3))
    assert 0.6 - 1e-4 <= means.min() < 0.65 and 1.35 < means.max() <= 1.4 + 1e-4


def test_a_view_depends_on_its_sample_and_name_and_not_on_the_batch() -> None:
    sizes = ViewSizes(crop=0.5, turn=10.0, jitter=0.5, noise=0.1)
    whole = view(images(8), KEY[:8], "first", sizes)
    assert torch.equal(whole[3:5], view(images(8)[3:5], KEY[3:5], "first", sizes))
    assert not torch.equal(whole, view(images(8), KEY[:8], "second", sizes))
    assert not torch.equal(whole, view(images(8), keys(0, 1, torch.arange(8)), "first", sizes))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"crop": 0.0}, "crop=0.0 would show nothing"),
        ({"flip": 1.5}, r"flip=1.5 is not in \[0, 1\]"),
        ({"noise": -1.0}, "noise=-1.0 is negative"),
    ],
)
def test_impossible_strengths_are_refused(sizes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewSizes(**sizes)
