"""How does DeepSpeed run a pipeline? Each stage is one layer of its PipelineModule, and its 1F1B order moves tensors.

Every rank of a pipeline has the step's micro-batches already, so a stage takes them from here, in order, and only what
stands between two units travels. DeepSpeed divides the last stage's objective by the number of micro-batches; here it
is multiplied by it before. The optimizer's turn in the order is left out: the trainer's own comes after it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...models.program import Terms, take_apart
from ..sharded import Sharded
from ..terms import LOSS, Batch, GradientSync, Passed, objective


class Stage(nn.Module):
    """The units of one rank, fed with the micro-batches of a step."""

    def __init__(self, program: nn.Module, first: bool) -> None:
        super().__init__()
        self.program, self.first = program, first
        self.feed([], {}, LOSS)

    def feed(self, batches: Sequence[Batch], told: Mapping[str, str], weights: Mapping[str, float]) -> None:
        """Begin a step.

        Args:
            told: further keywords of forward; weights: of each term's sum in what is differentiated.
        """
        self.batches, self.told, self.weights, self.passed = batches, told, weights, Passed()
        self.turn = 0

    def forward(self, received: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """What the next stage is sent of the next micro-batch, or the objective to be differentiated."""
        inputs = () if self.first else received if isinstance(received, tuple) else (received,)
        result = take_apart(self.program(self.batches[self.turn], *inputs, **self.told), self.weights)
        self.passed.add(self.turn, result)
        self.turn += 1
        if result.boundary:
            return result.boundary if len(result.boundary) > 1 else result.boundary[0]
        return objective(result.terms, self.weights) * len(self.batches)


class DeepSpeedPipeline:
    """One stage of a pipeline that DeepSpeed runs."""

    def __init__(
        self, deepspeed: Any, sharded: Sharded, rule: torch.optim.Optimizer, settings: Mapping[str, Any]
    ) -> None:
        """Wire one stage. Collective.

        Args:
            rule: the optimizer that DeepSpeed asks for; it is not called.
            settings: DeepSpeed's configuration.
        """
        from deepspeed.pipe import LayerSpec, PipelineModule
        from deepspeed.runtime.pipe.schedule import OptimizerStep

        stages, first = sharded.mesh.layout.pipeline, sharded.mesh.place.pipeline == 0
        module = PipelineModule(
            [LayerSpec(Stage, sharded.program, first)] * stages,
            num_stages=stages,
            loss_fn=lambda outputs, _: outputs,
            partition_method="uniform",
            dynamic_shape=True,
        )
        (self.stage,) = (part for part in module.modules() if isinstance(part, Stage))
        self.engine, *_ = deepspeed.initialize(
            model=module, optimizer=rule, config=dict(settings), dist_init_required=False
        )
        self.engine.pipeline_enable_backward_allreduce = False
        self.engine._INSTRUCTION_MAP = {**self.engine._INSTRUCTION_MAP, OptimizerStep: lambda engine: None}

    def run(
        self,
        micro_batches: Sequence[Batch],
        sync: GradientSync,
        told: Mapping[str, str],
        weights: Mapping[str, float],
    ) -> Passed:
        """Forward and backward of a step; terms on the last stage, none elsewhere."""
        self.stage.feed(micro_batches, told, weights)
        self.engine.set_train_batch_size(len(micro_batches))
        self.engine.train_batch(self._nothing(micro_batches))
        return self.stage.passed

    def evaluate(self, micro_batches: Sequence[Batch], told: Mapping[str, str]) -> Terms:
        """Forward alone; the terms on the last stage, none elsewhere."""
        self.stage.feed(micro_batches, told, LOSS)
        self.engine.eval_batch(self._nothing(micro_batches), num_micro_batches=len(micro_batches), bcast_loss=False)
        return self.stage.passed.terms

    @staticmethod
    def _nothing(micro_batches: Sequence[Batch]) -> Any:
        """What DeepSpeed loads in the place of samples and labels."""
        return iter([(torch.zeros(1), torch.zeros(1))] * len(micro_batches))
