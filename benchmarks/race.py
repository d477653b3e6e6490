"""How long do the same steps take each contender? One rank of the race: blocks of steps in turn, the same two ranks.

The Hugging Face Trainer owns its loop, so it is the host: after each of its blocks the others take theirs. The order of
the others rotates. Blocks are timed from barrier to barrier.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from contenders import BareStep, Contender, FabricLoop, Loop, PlainLoop, Recipe
from shardwright.jobs.check import check_job
from shardwright.jobs.load import load_job
from shardwright.jobs.run_folder import RunFolder
from shardwright.jobs.train import training
from shardwright.trainers.data.dataset import open_data
from shardwright.trainers.session import Training
from shardwright.trainers.terms import Batch
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

TRAINER = "Hugging Face Trainer"
AGREEMENT = 1e-3  # largest difference of the contenders' losses


class Race:
    """Times of the contenders' blocks."""

    def __init__(self, contenders: Mapping[str, Contender], block: int) -> None:
        self.contenders, self.block = contenders, block
        names = (*contenders, TRAINER)
        self.seconds: dict[str, list[float]] = {name: [] for name in names}  # of one step, by round
        self.core: dict[str, list[float]] = {name: [] for name in names}  # of them, this rank's own on the processor
        self.losses: dict[str, float] = {}

    def round(self, number: int) -> None:
        """Let every contender but the host take its block of a round."""
        names = list(self.contenders)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with self.timed(name):
                for index in range(number * self.block, (number + 1) * self.block):
                    loss = self.contenders[name].step(index)
            self.note(name, loss)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a block from barrier to barrier."""
        start = self.start()
        yield
        self.stop(name, start)

    def start(self) -> tuple[float, float]:
        """The clocks when all ranks are here."""
        dist.barrier()
        return time.perf_counter(), time.process_time()

    def stop(self, name: str, start: tuple[float, float]) -> None:
        """Keep the seconds of one step of the block that ends here."""
        dist.barrier()
        self.seconds[name].append((time.perf_counter() - start[0]) / self.block)
        self.core[name].append((time.process_time() - start[1]) / self.block)

    def note(self, name: str, loss: float) -> None:
        """Keep the loss of a contender's last step, averaged over the ranks."""
        mean = torch.tensor(loss, dtype=torch.float64)
        dist.all_reduce(mean)
        self.losses[name] = mean.item() / dist.get_world_size()

    def agree(self) -> float:
        """The largest difference of the losses after equally many steps.

        Raises:
            RuntimeError: it is so large that the contenders did not do the same work.
        """
        found = max(self.losses.values()) - min(self.losses.values())
        if not found <= AGREEMENT:
            raise RuntimeError(f"the contenders did not take the same steps; their losses: {self.losses}")
        return found


class Turns(TrainerCallback):
    """Lets the others take their block before each of the Trainer's."""

    def __init__(self, race: Race, objective: "Objective") -> None:
        self.race, self.objective, self.begun = race, objective, (0.0, 0.0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **fields: Any
    ) -> None:
        """The others begin."""
        self.race.round(0)
        self.begun = self.race.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **fields: Any) -> None:
        """At the end of a block, hand over."""
        number, rest = divmod(state.global_step, self.race.block)
        if rest:
            return
        self.race.stop(TRAINER, self.begun)
        self.race.note(TRAINER, self.objective.loss)
        self.race.agree()
        if state.global_step < state.max_steps:
            self.race.round(number)
            self.begun = self.race.start()


class Objective(nn.Module):
    """The model as the Trainer calls it: by names, for a loss."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program, self.loss = program, 0.0

    def forward(self, inputs: Tensor, targets: Tensor, sample: Tensor, key: Tensor) -> dict[str, Tensor]:
        """The mean loss of a batch."""
        total, count = self.program({"inputs": inputs, "targets": targets, "sample": sample, "key": key})["loss"]
        loss = total / count
        self.loss = float(loss)
        return {"loss": loss}


class Ready(IterableDataset[Batch]):
    """A recipe's batches, in order."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __iter__(self) -> Iterator[Batch]:
        return self.recipe.batches()


class Host(Trainer):
    """The Trainer on ready batches."""

    def get_train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.train_dataset, batch_size=None)


def host(race: Race, recipe: Recipe, folder: str) -> Host:
    """A Trainer over the recipe, with nothing switched on that the others do not do."""
    objective = Objective(recipe.program)
    arguments = TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        ddp_backend="gloo",
        ddp_find_unused_parameters=False,
        max_steps=recipe.steps,
        max_grad_norm=recipe.clip,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    return Host(
        objective,
        arguments,
        train_dataset=Ready(recipe),
        optimizers=(recipe.rule, recipe.schedule),
        callbacks=[Turns(race, objective)],
    )


def race(worker: Worker, overrides: list[str], folder: str, block: int) -> dict[str, Any]:
    """Run the race that [train] of the job is long; seconds of one step by contender and round."""
    os.environ |= {
        "RANK": str(worker.rank),
        "LOCAL_RANK": str(worker.rank),
        "WORLD_SIZE": str(worker.world_size),
        "LOCAL_WORLD_SIZE": str(worker.world_size),
    }
    asked = open_training(overrides, folder)
    found = Race(
        {
            "our loop": Loop(worker, asked),
            "our step alone": BareStep(worker, asked),
            "plain PyTorch DDP": PlainLoop(Recipe(worker, asked)),
            "Lightning Fabric": FabricLoop(Recipe(worker, asked), worker.world_size),
        },
        block,
    )
    host(found, Recipe(worker, asked), folder).train()
    parameters = sum(p.numel() for p in found.contenders["plain PyTorch DDP"].model.parameters())
    return {"seconds": found.seconds, "core": found.core, "loss_difference": found.agree(), "parameters": parameters}


def open_training(overrides: list[str], folder: str) -> Training:
    """The main job with other values, as a worker of it reads it."""
    job = load_job("gpt", overrides)
    checked = check_job(job)
    data = open_data(job.spec.data, checked.entry.data)
    return training(job, checked, data, RunFolder(Path(folder)), available=None)
