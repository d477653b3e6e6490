"""A peak is stated for known cards in bf16, and for nothing else."""

import pytest
import torch
from shardwright.trainers.peak import peak_flops

CARDS = [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A100-SXM4-40GB", 312e12), ("NVIDIA H200", 989e12)]


@pytest.mark.parametrize(("name", "peak"), CARDS)
def test_known_cards(monkeypatch: pytest.MonkeyPatch, name: str, peak: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found = peak_flops(torch.device("cuda", 0), "bf16")
    assert found is not None and found[0] == peak


def test_nothing_is_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T1000")
    assert peak_flops(torch.device("cuda", 0), "bf16") is None
    assert peak_flops(torch.device("cuda", 0), "fp32") is None
    assert peak_flops(torch.device("cpu"), "bf16") is None
