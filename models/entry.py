"""What does an architecture say of itself before anything is built? One record per entry, without torch.

A catalog entry and a user's own entry are the same record. `build` may be a callable or the text "module:name",
which is imported only where a model is really built; so planning a catalog entry never loads torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

Shape = tuple[int, ...]
Counts = Callable[[Mapping[str, Any]], Mapping[str, Any]]  # batch -> term -> number of its items
Boundary = tuple[tuple[Shape, str], ...]  # shape and dtype name ("compute" for the run's) of each tensor at a cut

Ties = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Unit:
    """One unit of ZeRO-3 gathering, of recomputation and of pipeline cuts."""

    path: str  # dotted module path inside the Program, such as "blocks.3" ("network.blocks.3" where there is a loss)
    parameters: int  # elements it owns; a tied weight counts where it is first used


@dataclass(frozen=True)
class TensorPlan:
    """What splits over the tensor axis; patterns (fnmatch) of module paths, or of names of parameters and buffers.

    Linear and convolution layers are replaced by split forms. A module that splits its own arithmetic (a recurrent
    cell, a batch norm over split channels) has the attribute `axes`, and names its tensors in `own`.
    """

    columns: tuple[str, ...] = ()  # layers whose weight splits along its output features; the output stays split
    rows: tuple[str, ...] = ()  # layers whose weight splits along its input features; the output is summed
    inputs: tuple[str, ...] = ()  # modules whose input gradient is summed once, not once per column layer
    own: Mapping[str, int] = field(default_factory=dict)  # parameter or buffer -> the dim that is split
    vocabulary: tuple[str, ...] = ()  # parameters whose dim 0 splits where the degree divides it, and else stays whole
    between: tuple[str, ...] = ()  # parameters used between split layers. Naming them allows sequence parallel, under
    # which each rank has only some tokens there, so that their gradients are parts of a sum


@dataclass(frozen=True)
class Phase:
    """Some consecutive steps in the cycle of an entry that trains its networks in turn.

    The Program's forward is told by `phase=name`; only the parameters that a phase trains are updated.
    """

    name: str
    trains: tuple[str, ...] = ("*",)  # patterns of parameter names
    times: int = 1  # steps in a row
    lr: float = 1.0  # factor of the learning rate


@dataclass(frozen=True)
class Stream:
    """State of each sample slot, carried from a step to the next (a recurrent layer's hidden state, an environment).

    Slot i is position i of every global batch. Rows come in as batch[name] [B, *shape] and leave forward as
    result["state"][name]; they are zero where a slot begins.
    """

    shape: Shape
    dtype: str = "float32"
    unit: str = ""  # path of the unit that uses it, which puts it on a pipeline stage


@dataclass(frozen=True)
class Follow:
    """Untrained parameters that follow others: after an update, target = decay target + (1 - decay) source."""

    target: str  # module path; its parameters have requires_grad=False
    source: str  # module path of the same structure
    decay: float | Callable[[int, int], float]  # or (updates made, steps of the run) -> decay
    every: int = 1  # updates between two


@dataclass(frozen=True)
class Translation:
    """Weights and sizes in the words of `transformers` and back; tensors are name -> Tensor."""

    config: Callable[[Mapping[str, Any]], Any]  # contents of a config.json to the entry's config
    describe: Callable[[Any], dict[str, Any]]  # the entry's config to the contents of a config.json
    read: Callable[[Mapping[str, Any], Any], dict[str, Any]]  # (theirs, config): the Program's state dict
    write: Callable[[Mapping[str, Any], Any], dict[str, Any]]  # (the Program's state dict, config): theirs


@dataclass(frozen=True)
class Entry:
    """An architecture.

    The Program is an nn.Module whose `forward(batch, *state)` is the objective: it returns named (sum, count)
    terms, "loss" among them, as scalars; the step divides by the count summed over micro-batches and data ranks.
    `batch` is a dict of tensors whose first dim is the sample, with the random key of each sample under "key".
    Without `loss`, build returns the Program; with it, build returns a network and loss(network, batch) gives
    (sum, count), or the named terms; the Program then holds the network under the name `network`.

    An entry with `units` and `boundary` can be cut for a pipeline: `forward` passes over units that are absent
    (None, or missing in a ModuleDict), takes the boundary tensors as `*state` where the first unit is absent, and
    returns them as a tuple where the last unit is absent.

    Four widenings serve what is not one network, one loss and one data set: `phases` (networks trained in turn),
    data="experience" (samples that the Program makes itself by acting), `streams` and `follows` (state beside the
    trained parameters) and `solver` (an update that is no optimizer's).
    """

    build: str | Callable[..., Any]  # (config) -> nn.Module; () -> nn.Module where config is None
    loss: Callable[[Any, Mapping[str, Any]], Any] | None = None
    name: str = ""
    paper: str = ""
    config: type | None = None  # a frozen dataclass of sizes
    presets: Mapping[str, Any] = field(default_factory=dict)  # name -> config
    data: Literal["tokens", "samples", "experience"] = "samples"
    # tokens: batches of inputs and targets from packed text; experience: no data set, a batch holds only "sample" and
    # "key" of the slots 0 to global_batch - 1, each step the same ones, and what they live through is in `streams`
    dataset: str = ""  # a data.name: what the entry learns from where a job does not say
    continues: bool = True  # tokens: "logits" are of the next one, so that a text can be continued
    parameters: Callable[[Any], int] | None = None  # elements, tied weights once
    shapes: Callable[[Any], Mapping[str, Shape]] | None = None  # each parameter's name -> shape, a tied one its owner's
    flops: Callable[[Any, int], float] | None = None  # (config, tokens per sample): forward FLOPs of one sample
    activations: Callable[[Any, int, int, int], int] | None = None
    # (config, samples, tokens, bytes per element): bytes that one unit keeps for backward
    ends: Callable[[Any, int, int, int], tuple[int, int]] | None = None
    # likewise, where first and last unit are not like the others: bytes that the last one keeps, the loss included, and
    # bytes more that its backward needs before its weights have gradients; the first one's output is the second's input
    units: Callable[[Any], tuple[Unit, ...]] | None = None  # in order; None: the whole Program is one unit
    boundary: Callable[[Any, int, int], Boundary | Mapping[int, Boundary]] | None = None
    # (config, samples, tokens): the tensors between two units; where cuts differ, by the index of the unit behind
    tensor: Callable[[Any], TensorPlan] | None = None
    divides: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    # axis -> the config's sizes that its degree must divide ("ulysses": those that context x tensor must divide)
    context: Mapping[str, int] = field(default_factory=dict)  # batch tensor -> its dim of tokens, split over context;
    # the batch then also holds "position" int64 [B, T of this rank], each token's place in its sample
    experts: tuple[str, ...] = ()  # patterns of parameters whose dim 0 is the expert, split over the expert axis
    tied: Ties = ()  # (owner, alias) parameter paths that are one parameter
    tied_by: Callable[[Any], Ties] | None = None  # the same, where the config decides
    coupled: Literal["none", "data", "batch"] = "none"
    # what couples the samples: data: those of one micro-batch over all data ranks, whom the Program asks over
    # axes.data; batch: the same, and a global batch is one micro-batch
    objective: Mapping[str, float] = field(default_factory=lambda: {"loss": 1.0})  # term -> weight of its mean
    counts: str | Counts | None = None
    # batch -> counts of the objective's terms, needed where there are several: they are known before any backward
    phases: tuple[Phase, ...] = ()  # in turn; none: every step trains everything, and forward gets no `phase`
    streams: Callable[[Any], Mapping[str, Stream]] | None = None
    follows: tuple[Follow, ...] | Callable[[Any], tuple[Follow, ...]] = ()  # may be by config
    solver: str = ""  # "module:name" of what makes the update instead of an optimizer (trainers/solvers.py)
    refusals: Mapping[str, str] = field(default_factory=dict)
    # the sentence why not, of an axis that cannot be split, or of a way to keep less for backward: "selective", "int8"
    weights: str = ""  # "module:name" of a Translation


def counting(entry: Entry) -> Counts | None:
    """What counts the objective's terms in a batch."""
    found: Counts | None = load_object(entry.counts) if isinstance(entry.counts, str) else entry.counts
    return found


def ties(entry: Entry, config: Any) -> Ties:
    """(owner, alias) of the parameters that are one parameter."""
    return entry.tied_by(config) if entry.tied_by else entry.tied


def followers(entry: Entry, config: Any) -> tuple[Follow, ...]:
    """What follows what."""
    return entry.follows(config) if callable(entry.follows) else entry.follows


def boundary_before(entry: Entry, config: Any, samples: int, tokens: int, unit: int) -> Boundary:
    """The tensors that reach a unit, other than the first, from those before it."""
    assert entry.boundary is not None
    found = entry.boundary(config, samples, tokens)
    return found[unit] if isinstance(found, Mapping) else found


def load_object(path: str) -> Any:
    """The object that "package.module:name" names.

    Raises:
        ValueError: the text is not of that form, or the module holds no such name.
        ModuleNotFoundError: there is no such module.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{path!r} is not of the form package.module:name")
    found = import_module(module)
    try:
        return getattr(found, name)
    except AttributeError:
        raise ValueError(f"module {module!r} has no object {name!r}") from None
