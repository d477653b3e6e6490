"""What can a job say about training? Frozen values, no torch; each field's comment is its help text.

Metadata: `help` is printed by `init` and the schema; `choices` are the legal values; `minimum` and `maximum` are
inclusive, `above` and `below` exclusive. Limits of a list hold for each of its items. `otherwise` is a pair (words,
pattern) of texts that are legal beside the choices.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from .data.samples.shipped import SHIPPED

Auto = Literal["auto"]
OBJECT = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"  # package.module:object
LENGTHS = ("steps", "tokens", "epochs")  # keys of [train] of which a job states exactly one


def option(default: Any, help: str, **limits: Any) -> Any:
    """A dataclass field with its help text and limits (the module's docstring names them)."""
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class DataOptions:
    """[data]: what the model reads."""

    name: str = option(
        "stdlib",
        "where samples come from; where a job does not say, what the model's entry names, else stdlib: the Python "
        "standard library's own sources",
        choices=("stdlib", "text", "jsonl", "parquet", "arrow", *SHIPPED),
        otherwise=("package.module:object of your own", OBJECT),
    )
    path: str = option("", "file, folder or glob of text, jsonl, parquet or arrow")
    field: str = option("text", "the column that holds the text (jsonl, parquet) or the token ids (arrow)")
    tokenizer: str = option(
        "bytes",
        "how text becomes numbers; bpe is trained on the training text",
        choices=("bytes", "bpe"),
        otherwise=("path of a tokenizer.json", r".+\.json"),
    )
    vocab_size: int = option(4096, "vocabulary of a bpe tokenizer that is trained here", minimum=257)
    sequence_length: int = option(128, "tokens a sample", minimum=1)
    held_out: float = option(0.02, "share of the text that is never trained on", minimum=0.0, maximum=0.5)
    cache: str = option("", "folder of packed text; empty: $XDG_CACHE_HOME/shardwright")


@dataclass(frozen=True)
class TrainOptions:
    """[train]: how long and in what portions. Exactly one of steps, tokens, epochs."""

    steps: int | None = option(None, "optimizer steps", minimum=1)
    tokens: int | None = option(None, "tokens (samples, for data without tokens), rounded up to steps", minimum=1)
    epochs: float | None = option(None, "passes over the training data, rounded up to whole steps", above=0.0)
    global_batch: int = option(32, "samples of one optimizer step over all workers", minimum=1)
    micro_batch: int | Auto = option(
        "auto", "samples of one forward on one worker; auto: the most that fits", minimum=1
    )
    dtype: str = option(
        "fp32",
        "numbers of forward and backward; fp16: the loss is scaled, and a step whose gradient overflows left out",
        choices=("fp32", "bf16", "fp16"),
    )
    recompute: str = option(
        "none",
        "what backward computes again; full: keep only each unit's input; selective: and its matrix products",
        choices=("none", "selective", "full"),
    )
    activations: str = option(
        "exact", "what is kept for backward; int8: bytes, off by at most 1/254", choices=("exact", "int8")
    )
    compile: bool = option(False, "compile each unit of the model (torch.compile)")
    debug: bool = option(False, "compare each unit's forward and backward between workers, and name a mismatch")
    clip: float = option(1.0, "largest global gradient norm; 0 turns clipping off", minimum=0.0)
    trace: str = option(
        "",
        "steps to profile; writes a Chrome trace and a memory snapshot",
        choices=("",),
        otherwise=("first:last, such as 10:15", r"\d+:\d+"),
    )


@dataclass(frozen=True)
class OptimizerOptions:
    """[optimizer]: how the weights move."""

    name: str = option("adamw", "the update rule", choices=("adamw", "sgd", "lbfgs"))
    lr: float = option(1e-3, "peak learning rate", minimum=0.0)
    betas: tuple[float, float] = option((0.9, 0.95), "AdamW's two averages", minimum=0.0, below=1.0)
    eps: float = option(1e-8, "AdamW's epsilon", minimum=0.0)
    weight_decay: float = option(0.1, "decay of weights with two or more dims (adamw: decoupled; sgd: L2)", minimum=0.0)
    momentum: float = option(0.9, "of sgd", minimum=0.0, maximum=1.0)
    history: int = option(10, "steps that lbfgs remembers, each as two tensors a parameter", minimum=1)
    iterations: int = option(4, "of lbfgs on the batch of one step", minimum=1)
    groups: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": 'what moves differently: "pattern" = {lr = factor, weight_decay = 0.0, frozen = true}'},
    )


@dataclass(frozen=True)
class ScheduleOptions:
    """[schedule]: the learning rate over the steps, as a factor of optimizer.lr."""

    name: str = option("cosine", "shape after the warm-up", choices=("constant", "cosine", "wsd"))
    warmup: int = option(0, "steps of linear warm-up", minimum=0)
    final: float = option(0.1, "factor at the last step (cosine, wsd)", minimum=0.0, maximum=1.0)
    cooldown: float = option(0.2, "share of the steps that wsd decays over", minimum=0.0, maximum=1.0)


@dataclass(frozen=True)
class ParallelOptions:
    """[parallel]: degrees of the mesh. Their product is the number of workers; one of them may be "auto"."""

    zero: int = option(0, "0: replicas; 1, 2, 3: ZeRO stage over the shard axis", choices=(0, 1, 2, 3))
    replicate: int | Auto = option(1, "copies of the model, each on its own data", minimum=1)
    shard: int | Auto = option(1, "workers over which ZeRO splits the model, each on its own data", minimum=1)
    context: int | Auto = option(1, "workers that hold other tokens of the same samples", minimum=1)
    tensor: int | Auto = option(1, "workers that split each layer", minimum=1)
    pipeline: int | Auto = option(1, "workers that hold consecutive units", minimum=1)
    expert: int = option(
        1, "workers that hold other experts: consecutive ones of replicate x shard x context", minimum=1
    )
    schedule: str = option(
        "1f1b", "order of a pipeline's micro-batches", choices=("1f1b", "gpipe", "interleaved", "zbv")
    )
    attention: str = option(
        "gather", "over context: gather keys and values, or swap tokens for heads", choices=("gather", "ulysses")
    )
    sequence: bool = option(False, "split the tokens over tensor between split layers")
    offload: bool = option(False, "keep ZeRO-3's shards in the CPU's memory")
    engine: str = option("torch", "what shards and steps", choices=("torch", "deepspeed", "fairscale", "horovod"))


@dataclass(frozen=True)
class CheckpointOptions:
    """[checkpoint]: what is kept of a run."""

    every: int = option(0, "steps between two checkpoints; 0: only at the end and at a stop", minimum=0)
    keep: int = option(2, "newest checkpoints that are kept", minimum=1)


@dataclass(frozen=True)
class EvalOptions:
    """[eval]: loss on held-out data."""

    every: int = option(0, "steps between two evaluations; 0: only at the end", minimum=0)
    batches: int = option(8, "global batches of one evaluation", minimum=1)


@dataclass(frozen=True)
class TrackOptions:
    """[track]: where else the curves go."""

    tensorboard: bool = option(True, "write TensorBoard events into the run folder, where tensorboard is installed")
