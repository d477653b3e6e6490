"""Does any model draw from a generator? A lint over models/: all randomness but initial weights goes through draw()."""

import ast
from pathlib import Path

import pytest
import shardwright.models.draw

MODELS = Path(shardwright.models.draw.__file__).parent
IN_PLACE = {"random_", "uniform_", "normal_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_"}
OF_TORCH = IN_PLACE | {
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli"),
    *("poisson", "binomial", "multinomial", "manual_seed", "Generator", "gumbel_softmax", "rrelu", "RReLU"),
    *("MultiheadAttention", "Transformer"),  # they hold a dropout of their own
}
OTHERS = {"random", "secrets", "numpy"}


def faults(source: str) -> list[str]:
    """What a source draws from a generator, as "line: name"; torch.nn.init may, under the caller's seed."""
    tree = ast.parse(source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    torch_names = {name for node in imports for name in from_torch(node)}
    found = []
    for node in ast.walk(tree):
        found += [f"{node.lineno}: {name}" for name in drawn(node, torch_names)]  # type: ignore[attr-defined]
    return found


def from_torch(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Names that an import binds to torch or a part of it."""
    module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    names = [
        (f"{module}.{alias.name}".lstrip("."), alias.asname or alias.name.partition(".")[0]) for alias in node.names
    ]
    return [bound for path, bound in names if path.partition(".")[0] == "torch" and not getattr(node, "level", 0)]


def drawn(node: ast.AST, torch_names: set[str]) -> list[str]:
    """Names by which one node of a source draws."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.partition(".")[0] in OTHERS]
    if isinstance(node, ast.ImportFrom) and not node.level:
        root = (node.module or "").partition(".")[0]
        return [alias.name for alias in node.names if root in OTHERS or (root == "torch" and of_torch(alias.name))]
    if isinstance(node, ast.Attribute):
        root, *path = ast.unparse(node).split(".")
        if root in torch_names:
            return [node.attr] if of_torch(node.attr) and "init" not in path else []
        return [node.attr] if node.attr in IN_PLACE else []
    if isinstance(node, ast.Call):
        of_a_layer = ast.unparse(node.func).partition(".")[0] in torch_names
        return [word.arg for word in node.keywords if word.arg in ("dropout_p", "dropout") and of_a_layer]
    return []


def of_torch(name: str) -> bool:
    return name in OF_TORCH or "dropout" in name.lower() or name.startswith("Transformer")


@pytest.mark.parametrize("path", sorted(MODELS.rglob("*.py")), ids=lambda path: str(path.relative_to(MODELS)))
def test_no_model_draws_from_a_generator(path: Path) -> None:
    assert faults(path.read_text()) == []


HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"


@pytest.mark.parametrize(
    "line",
    [
        "self.drop = nn.Dropout(0.1)",
        "x = F.dropout(x, 0.1)",
        "x = torch.nn.functional.dropout2d(x)",
        "F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)",
        "nn.LSTM(3, 4, dropout=0.1)",
        "nn.MultiheadAttention(3, 4)",
        "nn.TransformerEncoderLayer(3, 4)",
        "torch.randn(3)",
        "x.bernoulli_(0.5)",
        "self.weight.data.normal_()",
        "torch.manual_seed(0)",
        "from torch.nn import Dropout",
        "from torch.nn.functional import dropout",
        "from torch import randn as draw",
        "import random",
        "import numpy.random",
        "from numpy.random import default_rng",
        "import torch.nn as layers; layers.Dropout()",
    ],
)
def test_the_lint_sees(line: str) -> None:
    assert len(faults(HEAD + line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "self.dropout = config.dropout",
        "nn.init.normal_(weight, std=0.02)",
        "torch.nn.init.zeros_(bias)",
        "from ..draw import dropout, normal",
        "x = dropout(x, 0.1, key, 'name')",
        "Config(dropout=0.1)",
    ],
)
def test_the_lint_lets_pass(line: str) -> None:
    assert faults(HEAD + line) == []
