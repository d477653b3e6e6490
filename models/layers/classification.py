"""What does a classifier return? Its loss, and the share of samples that it gets right."""

import torch
from torch import Tensor
from torch.nn import functional as F

Terms = dict[str, tuple[Tensor, Tensor]]


def classification(logits: Tensor, labels: Tensor) -> Terms:
    """Terms of logits [B, classes] and labels int64 [B].

    Returns:
        "loss": (sum of cross-entropies in nats, B); "accuracy": (samples whose largest logit is the label's, B).
    """
    count = torch.tensor(float(len(labels)), device=logits.device)
    right = (logits.argmax(-1) == labels).to(torch.float32).sum()
    return {"loss": (F.cross_entropy(logits.float(), labels, reduction="sum"), count), "accuracy": (right, count)}
