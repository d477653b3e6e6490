"""What is a graph attention network, before it is built? Sizes, counts, legal degrees and cuts; no torch.

Velickovic et al., "Graph Attention Networks" (2018). A sample is a graph. B samples, N nodes of a graph.
"""

from dataclasses import dataclass

from ..entry import Boundary, Entry, Shape, TensorPlan, Unit
from ..layers import shapes as of
from ..layers.shapes import size


@dataclass(frozen=True)
class GATConfig:
    """Sizes of a graph attention network.

    Raises:
        ValueError: a size is not positive, there is no hidden layer, or dropout is no probability below 1.
    """

    nodes: int = size(2708, "nodes of a graph")
    features: int = size(1433, "numbers of a node")
    classes: int = size(7, "classes of nodes")
    width: int = size(8, "numbers that one head makes of a node")
    heads: int = size(8, "attention heads of a hidden layer, whose results stand side by side")
    output_heads: int = size(1, "attention heads of the last layer, whose results are averaged")
    layers: int = size(2, "layers, the last one included")
    dropout: float = size(0.6, "of each layer's input and of its attention")

    def __post_init__(self) -> None:
        for name in ("nodes", "features", "classes", "width", "heads", "output_heads", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        if self.layers < 2:
            raise ValueError("layers=1 leaves no hidden layer; a graph attention network has at least 2 layers")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} is not in [0, 1)")

    @property
    def hidden(self) -> int:
        """Numbers of a node between two layers."""
        return self.heads * self.width


PRESETS = {
    "tiny": GATConfig(nodes=34, features=34, classes=2, heads=4, layers=3, dropout=0.2),
    "les_miserables": GATConfig(nodes=77, features=77, classes=5, layers=3, dropout=0.2),
    "cora": GATConfig(),
}


def shapes(config: GATConfig) -> dict[str, Shape]:
    """Every parameter of the Program."""
    hidden = {
        str(layer): attention(config.hidden if layer else config.features, config.heads, config.width, config.hidden)
        for layer in range(config.layers - 1)
    }
    last = {str(config.layers - 1): attention(config.hidden, config.output_heads, config.classes, config.classes)}
    return of.within(layers=of.within(**hidden, **last))


def attention(inputs: int, heads: int, width: int, outputs: int) -> dict[str, Shape]:
    """Of a layer."""
    vectors: dict[str, Shape] = {"source": (heads, width), "target": (heads, width), "bias": (outputs,)}
    return vectors | of.within(projection=of.linear(inputs, heads * width, bias=False))


def parameters(config: GATConfig) -> int:
    """Elements of all weights."""
    return of.elements(shapes(config))


def units(config: GATConfig) -> tuple[Unit, ...]:
    """The layers."""
    return of.units(shapes(config), [f"layers.{layer}" for layer in range(config.layers)])


def boundary(config: GATConfig, samples: int, tokens: int) -> Boundary:
    """The nodes [B, N, heads x width] after a hidden layer."""
    return (((samples, config.nodes, config.hidden), "compute"),)


def flops(config: GATConfig, tokens: int) -> float:
    """Forward FLOPs of one graph: 2 per weight of a projection and node, and attention over all pairs of nodes."""
    total = 0
    for layer in range(config.layers):
        inputs = config.hidden if layer else config.features
        last = layer == config.layers - 1
        outputs = config.output_heads * config.classes if last else config.hidden
        total += config.nodes * inputs * outputs + config.nodes**2 * outputs
    return 2.0 * total


def tensor(config: GATConfig) -> TensorPlan:
    """The heads of hidden layers are split; the last layer, of few heads, is not."""
    hidden = [f"layers.{layer}" for layer in range(config.layers - 1)]
    return TensorPlan(
        columns=tuple(f"{path}.projection" for path in hidden),
        own={f"{path}.{name}": 0 for path in hidden for name in ("source", "target", "bias")},
    )


ENTRY = Entry(
    build="shardwright.models.gat.model:GAT",
    name="gat",
    paper="Velickovic et al., Graph Attention Networks, 2018",
    config=GATConfig,
    presets=PRESETS,
    dataset="karate",
    parameters=parameters,
    shapes=shapes,
    flops=flops,
    units=units,
    boundary=boundary,
    tensor=tensor,
    divides={"tensor": "heads"},
)
