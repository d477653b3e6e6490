"""Does anything that a result depends on draw from a generator? A lint over models/ and trainers/.

All randomness goes through models/draw.py; only initial weights come from torch's default generator, which the trainer
seeds. So functions that initialise may draw, and nothing else may, however the drawing is spelled.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import shardwright.models.draw

ROOT = Path(shardwright.models.draw.__file__).parents[1]
FILES = sorted(path for floor in ("models", "trainers") for path in (ROOT / floor).rglob("*.py"))
IN_PLACE = {"random_", "uniform_", "normal_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_"}
FUNCTIONS = {
    *("rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "normal"),
    *("randperm", "bernoulli", "poisson", "binomial", "multinomial"),
}  # of torch
LAYERS = {
    *("Generator", "default_generator", "manual_seed", "seed", "set_rng_state", "gumbel_softmax"),
    *("rrelu", "RReLU", "fractional_max_pool2d", "fractional_max_pool3d", "FractionalMaxPool2d", "FractionalMaxPool3d"),
    *("MultiheadAttention", "multi_head_attention_forward", "distributions"),  # they draw, or hold a dropout
}
PLACES = {"scaled_dot_product_attention": 5, "LSTM": 6, "GRU": 6, "RNN": 7}  # of the argument that is a dropout
GENERATORS = {"random", "secrets", "numpy.random"}  # modules
ALLOWED = {  # (file, function) -> what it may say
    ("trainers/parallelize.py", "build_seeded"): "manual_seed",  # the default generator gets the run's seed
    ("trainers/checkpoint/publish.py", ""): "secrets",  # a file's name
}


def faults(source: str, file: str = "") -> list[str]:
    """What a source draws from a generator, as "line: name"."""
    tree = ast.parse(source)
    torch_names = bound(tree, "torch")
    numpy_names = bound(tree, "numpy")
    found = []
    for node, function in within(tree):
        names = drawn(node, torch_names, numpy_names)
        if initialises(function):
            names = [name for name in names if name not in IN_PLACE | FUNCTIONS]
        names = [name for name in names if name != ALLOWED.get((file, function))]
        found += [f"{node.lineno}: {name}" for name in names]  # type: ignore[attr-defined]
    return found


def within(node: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node with the name of the function that it stands in."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node.name
    yield node, function
    for child in ast.iter_child_nodes(node):
        yield from within(child, function)


def initialises(function: str) -> bool:
    return function in ("__init__", "reset_parameters") or function.lstrip("_").startswith("initial")


def bound(tree: ast.AST, library: str) -> set[str]:
    """Names that imports of a source bind to a library or to something inside it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots = [(alias.name, alias.asname or alias.name.partition(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            roots = [(node.module or "", alias.asname or alias.name) for alias in node.names]
        else:
            continue
        names |= {name for root, name in roots if root.partition(".")[0] == library}
    return names


def drawn(node: ast.AST, torch_names: set[str], numpy_names: set[str]) -> list[str]:
    """Names by which one node of a source draws."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if generates(alias.name)]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [alias.name for alias in node.names if imported(node.module or "", alias.name)]
    if isinstance(node, ast.Attribute):
        return [node.attr] if attribute(node, torch_names, numpy_names) else []
    if isinstance(node, ast.Call) and ast.unparse(node.func).partition(".")[0] in torch_names:
        return dropouts(node)
    return []


def generates(module: str) -> bool:
    """Whether a module's purpose is drawing."""
    return any(module == name or module.startswith(f"{name}.") for name in (*GENERATORS, "torch.distributions"))


def imported(module: str, name: str) -> bool:
    return (
        generates(module) or generates(f"{module}.{name}") or (module.partition(".")[0] == "torch" and of_torch(name))
    )


def attribute(node: ast.Attribute, torch_names: set[str], numpy_names: set[str]) -> bool:
    root, *path = ast.unparse(node).split(".")
    if root in torch_names:
        return of_torch(node.attr) and "init" not in path
    if root in numpy_names:
        return node.attr == "random"
    return node.attr in IN_PLACE or node.attr == "rsample"


def of_torch(name: str) -> bool:
    known = IN_PLACE | FUNCTIONS | LAYERS
    return name in known or "dropout" in name.lower() or name.startswith("Transformer")


def dropouts(call: ast.Call) -> list[str]:
    """Arguments by which a call of torch's drops out; a literal zero drops nothing."""
    name = ast.unparse(call.func).rpartition(".")[2]
    words = [word.arg for word in call.keywords if word.arg in ("dropout_p", "dropout") and not zero(word.value)]
    places = call.args[PLACES[name] - 1 :][:1] if name in PLACES else []
    return [word for word in words if word] + [name for value in places if not zero(value)]


def zero(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_draws_from_a_generator(path: Path) -> None:
    assert faults(path.read_text(), path.relative_to(ROOT).as_posix()) == []


def test_both_floors_are_looked_at() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in FILES}
    assert {"models/gpt2/model.py", "trainers/step.py", "trainers/data/order.py"} <= names


HEAD = "import torch\nimport numpy as np\nfrom torch import nn\nfrom torch.nn import functional as F\n"


@pytest.mark.parametrize(
    "line",
    [
        "self.drop = nn.Dropout(0.1)",
        "self.drop = nn.Dropout2d(0.1)",
        "self.drop = nn.AlphaDropout(0.1)",
        "x = F.dropout(x, 0.1)",
        "x = F.alpha_dropout(x, 0.1)",
        "x = torch.nn.functional.dropout2d(x)",
        "x = torch.dropout(x, 0.1, True)",
        "F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)",
        "F.scaled_dot_product_attention(q, k, v, None, p)",
        "nn.LSTM(3, 4, dropout=0.1)",
        "nn.GRU(3, 4, dropout=config.dropout)",
        "nn.RNN(3, 4, dropout=0.1)",
        "nn.LSTM(3, 4, 2, True, False, 0.1)",
        "nn.GRU(3, 4, 2, True, False, 0.1)",
        "nn.RNN(3, 4, 2, 'tanh', True, False, 0.1)",
        "nn.MultiheadAttention(3, 4)",
        "nn.Transformer(3, 4)",
        "nn.TransformerEncoderLayer(3, 4)",
        "F.multi_head_attention_forward(q, k, v)",
        "torch.rand(3)",
        "torch.randn(3)",
        "torch.randint(0, 3, (2,))",
        "torch.randn_like(x)",
        "torch.randperm(3)",
        "torch.normal(0.0, std)",
        "torch.multinomial(p, 1)",
        "torch.bernoulli(p)",
        "torch.poisson(rate)",
        "x.bernoulli_(0.5)",
        "self.weight.data.normal_()",
        "noise = x.new_empty(3).uniform_()",
        "F.gumbel_softmax(logits)",
        "F.rrelu(x)",
        "z = posterior.rsample()",
        "torch.distributions.Normal(0, 1)",
        "from torch.distributions import Normal",
        "torch.manual_seed(0)",
        "torch.cuda.manual_seed(0)",
        "g = torch.Generator()",
        "torch.default_generator",
        "from torch.nn import Dropout",
        "from torch.nn.functional import dropout",
        "from torch import randn as draw",
        "import random",
        "import secrets",
        "import numpy.random",
        "from numpy import random as chance",
        "from numpy.random import default_rng",
        "np.random.default_rng(0)",
        "np.random.shuffle(x)",
        "import torch.nn as layers; layers.Dropout()",
        "def __init__(self): self.drop = nn.Dropout(0.1)",
        "def __init__(self): self.generator = torch.Generator()",
        "def initialise(program): np.random.seed(0)",
        "def forward(self, x): return x + torch.randn(3)",
    ],
)
def test_the_lint_sees(line: str) -> None:
    assert len(faults(HEAD + line)) == 1


def test_the_run_is_seeded_in_one_place() -> None:
    source = HEAD + "def build_seeded(): torch.manual_seed(0)"
    assert faults(source, "trainers/parallelize.py") == []
    assert faults(source, "trainers/step.py") == ["5: manual_seed"]


@pytest.mark.parametrize(
    "line",
    [
        "self.dropout = config.dropout",
        "nn.init.normal_(weight, std=0.02)",
        "torch.nn.init.zeros_(bias)",
        "def __init__(self): self.weight = nn.Parameter(torch.randn(3))",
        "def reset_parameters(self): self.weight.data.uniform_(-1, 1)",
        "def _initialise(program): program.weight.data.normal_()",
        "from ..draw import dropout, normal",
        "x = dropout(x, 0.1, key, 'name')",
        "Config(dropout=0.1)",
        "nn.LSTM(3, 4, 2, True)",
        "F.scaled_dot_product_attention(q, k, v, dropout_p=0.0)",
        "F.scaled_dot_product_attention(q, k, v, mask)",
        "x = np.arange(3)",
        "sample = batch['sample']",
        "torch.random.fork_rng(devices=[])",
    ],
)
def test_the_lint_lets_pass(line: str) -> None:
    assert faults(HEAD + line) == []
