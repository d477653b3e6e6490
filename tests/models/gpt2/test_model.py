"""Does GPT-2 do as its Program's contract says: whole, cut into stages, split over heads, with dropout?"""

from dataclasses import replace

import pytest
import torch
from shardwright.models.axes import Axes, Axis
from shardwright.models.draw import dropout, keys
from shardwright.models.gpt2.entry import ENTRY, GPT2Config, boundary
from shardwright.models.gpt2.model import GPT2
from shardwright.models.layers.tokens import Tokens
from shardwright.models.program import build
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CONFIG = GPT2Config(vocab_size=61, context=24, width=32, layers=3, heads=4, dropout=0.0)


def program(dropout: float = 0.0, seed: int = 0) -> GPT2:
    torch.manual_seed(seed)
    made = build(ENTRY, replace(CONFIG, dropout=dropout))
    assert isinstance(made, GPT2)
    return made


def batch(size: int = 4, length: int = 20, step: int = 0) -> dict[str, Tensor]:
    tokens = torch.randint(61, (size, length + 1), generator=torch.Generator().manual_seed(1))
    sample = torch.arange(size)
    targets = tokens[:, 1:].clone()
    targets[0, :7] = -100
    return {"inputs": tokens[:, :-1], "targets": targets, "sample": sample, "key": keys(0, step, sample)}


def rows(whole: dict[str, Tensor], part: slice) -> dict[str, Tensor]:
    return {name: tensor[part] for name, tensor in whole.items()}


def test_the_loss_is_that_of_the_logits() -> None:
    model, data = program(), batch()
    total, count = model(data)["loss"]
    logits = model({"inputs": data["inputs"]})["logits"]
    assert logits.shape == (4, 20, 61)
    torch.testing.assert_close(total, F.cross_entropy(logits.flatten(0, 1), data["targets"].flatten(), reduction="sum"))
    assert float(count) == 4 * 20 - 7


def test_a_token_sees_only_those_before_it() -> None:
    model = program().eval()
    inputs = batch()["inputs"]
    changed = inputs.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 61
    before, after = (model({"inputs": tokens})["logits"] for tokens in (inputs, changed))
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert (before[:, 12:] - after[:, 12:]).abs().amax(-1).min() > 1e-3


def test_both_ways_of_attention_agree() -> None:
    """The drawn way with a probability that drops nothing is the fused way."""
    fused, drawn = program(), program(dropout=1e-12)
    data = batch()
    results = []
    for model in (fused, drawn):
        total, _ = model(data)["loss"]
        total.backward()
        results.append((total, {name: weight.grad for name, weight in model.named_parameters()}))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_the_seed_sets_the_weights() -> None:
    first, again, other = program(seed=5).state_dict(), program(seed=5).state_dict(), program(seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed.tokens.weight"], other["embed.tokens.weight"])


def test_weights_begin_as_in_the_paper() -> None:
    torch.manual_seed(0)
    model = GPT2(replace(CONFIG, width=256, layers=8))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif "norm" in name:
            assert bool((weight == 1).all()), name
        else:
            ends = name.endswith(("attention.output.weight", "mlp.contract.weight"))
            assert float(weight.detach().std()) == pytest.approx(0.02 / 4 if ends else 0.02, rel=0.05), name


def test_one_weight_is_embedding_and_projection() -> None:
    model = program()
    assert model.head is not None and model.embed is not None
    assert model.head.weight is model.embed.tokens.weight
    for alias in ("embed.tokens.weight", "head.weight"):
        assert alias in model.state_dict()


def cut(model: GPT2, layers: range, *, first: bool, last: bool) -> GPT2:
    """A pipeline stage, as the trainer makes one."""
    if not first:
        model.embed = None
    if not last:
        model.head = None
    model.blocks = nn.ModuleDict({name: block for name, block in model.blocks.items() if int(name) in layers})
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_stages_in_a_row_are_the_whole(dropout: float) -> None:
    whole, data = program(dropout), batch()
    stages = [
        cut(program(dropout), range(1), first=True, last=False),
        cut(program(dropout), range(1, 3), first=False, last=False),
        cut(program(dropout), range(0), first=False, last=True),
    ]
    expected, _ = whole(data)["loss"]
    expected.backward()
    ((shape, _),) = boundary(CONFIG, 4, 20)
    state: tuple[Tensor, ...] = ()
    for stage in stages[:-1]:
        state = stage(data, *state)
        assert [tensor.shape for tensor in state] == [shape]
    total, _ = stages[-1](data, *state)["loss"]
    total.backward()
    torch.testing.assert_close(total, expected)
    found = {name: weight.grad for stage in stages for name, weight in stage.named_parameters()}
    found["embed.tokens.weight"] = found["embed.tokens.weight"] + found.pop("head.weight")
    torch.testing.assert_close(found, {name: weight.grad for name, weight in whole.named_parameters()})


def split(model: GPT2, index: int, degree: int) -> GPT2:
    """This rank's slice of every linear layer; the bias of a row layer stays on the first rank."""
    for block in model.blocks.values():
        attention, mlp = block.attention, block.mlp
        for layer in (attention.query, attention.key, attention.value, mlp.expand):
            layer.weight = nn.Parameter(layer.weight.detach().chunk(degree)[index])
            layer.bias = nn.Parameter(layer.bias.detach().chunk(degree)[index])
        for layer in (attention.output, mlp.contract):
            layer.weight = nn.Parameter(layer.weight.detach().chunk(degree, dim=1)[index])
            layer.bias = nn.Parameter(layer.bias.detach() * (index == 0))
        attention.axes = Axes(tensor=Axis(index, degree))
    return model


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_slices_of_the_heads_add_up_to_attention(degree: int, dropout: float) -> None:
    x, key = torch.randn(4, 20, 32, generator=torch.Generator().manual_seed(2)), batch()["key"]
    whole = program(dropout).blocks["1"]
    parts = [split(program(dropout), index, degree).blocks["1"] for index in range(degree)]
    torch.testing.assert_close(sum(part.attention(x, key) for part in parts), whole.attention(x, key))
    torch.testing.assert_close(sum(part.mlp(x) for part in parts), whole.mlp(x))


def test_dropout_follows_the_sample_and_not_the_micro_batch() -> None:
    model, data = program(0.3), batch()
    whole, _ = model(data)["loss"]
    halves = [model(rows(data, part))["loss"][0] for part in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(halves[0] + halves[1], whole)
    later, _ = model(batch(step=1))["loss"]
    assert abs(float((later - whole).detach())) > 1e-3


def test_every_dropout_draws_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def listening(x: Tensor, p: float, key: Tensor, name: str, *place: tuple[int, ...]) -> Tensor:
        names.append(name)
        return dropout(x, p, key, name, *place)

    for module in ("gpt2.model", "layers.attention"):
        monkeypatch.setattr(f"shardwright.models.{module}.dropout", listening)
    program(0.3)(batch())
    assert len(names) == len(set(names)) == 1 + 3 * CONFIG.layers


def test_evaluation_drops_nothing_and_needs_no_key() -> None:
    data = batch()
    data.pop("key")
    plain, _ = program()(data)["loss"]
    evaluated, _ = program(0.3).eval()(data)["loss"]
    torch.testing.assert_close(plain, evaluated)
    with pytest.raises(ValueError, match="needs the random key"):
        program(0.3)(data)


def test_a_recomputed_block_draws_again_what_it_drew() -> None:
    x, key = torch.randn(4, 20, 32, generator=torch.Generator().manual_seed(2)), batch()["key"]
    gradients = []
    for recompute in (False, True):
        block = program(0.4).blocks["0"]
        if recompute:
            y = checkpoint(block, x, key, Tokens(20), use_reentrant=False, preserve_rng_state=False)
        else:
            y = block(x, key, Tokens(20))
        y.square().sum().backward()
        gradients.append([weight.grad for weight in block.parameters()])
    torch.testing.assert_close(*gradients, rtol=0.0, atol=0.0)


def test_too_long_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens, but context=24"):
        program()({"inputs": torch.zeros(1, 25, dtype=torch.int64)})
