"""Does torchvision run beside this torch, for us and for whatever imports it because it is there?"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"
OPERATORS = """
boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.1], [2.0, 2.0, 3.0, 3.0]])
assert ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]
picture = torch.ones(1, 1, 8, 8, requires_grad=True)
pooled = ops.roi_align(picture, torch.tensor([[0.0, 1.0, 1.0, 5.0, 5.0]]), 2)
assert torch.equal(pooled, torch.ones(1, 1, 2, 2))
pooled.sum().backward()
assert torch.isclose(picture.grad.sum(), torch.tensor(4.0))
weight = torch.rand(1, 1, 3, 3)
still = ops.deform_conv2d(picture, torch.zeros(1, 18, 6, 6), weight)
assert torch.allclose(still, torch.nn.functional.conv2d(picture, weight))
"""
ours = "from torchvision_stubs import torchvision\nops = torchvision().ops\nimport torch" + OPERATORS
theirs = "import torchvision_stubs\ntorchvision_stubs.watch()\nfrom torchvision import ops\nimport torch" + OPERATORS
transformers = (
    "import torchvision_stubs\ntorchvision_stubs.watch()\n"
    "from transformers import GPT2LMHeadModel, ViTModel\nfrom transformers.utils import is_torchvision_available\n"
    "import transformers.image_utils\nassert is_torchvision_available()\n"
)


@pytest.mark.parametrize("code", [ours, theirs, transformers], ids=["ours", "theirs", "transformers"])
@pytest.mark.parametrize("cache", ["empty", "full"])
def test_its_operators_are_the_compiled_ones(code: str, cache: str, tmp_path: Path) -> None:
    places = {"PYTHONPATH": str(SUPPORT)} | ({"XDG_CACHE_HOME": str(tmp_path)} if cache == "empty" else {})
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | places, cwd=tmp_path, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the libraries are those of ELF")
def test_without_a_compiler_it_says_what_to_install(tmp_path: Path) -> None:
    places = {"PYTHONPATH": str(SUPPORT), "XDG_CACHE_HOME": str(tmp_path), "PATH": ""}
    alone = "import torch\nassert torch.version.cuda is None\nfrom torchvision_stubs import torchvision\ntorchvision()"
    done = subprocess.run([sys.executable, "-c", alone], env=os.environ | places, text=True, capture_output=True)
    if "AssertionError" in done.stderr:
        pytest.skip("this torch has CUDA's libraries, so that nothing is compiled")
    assert "install gcc and binutils" in done.stderr.splitlines()[-1]
