"""How fast can this device multiply at best? Published dense figures; None where there is none to stand on."""

import torch

BF16 = {  # FLOP/s, dense, from NVIDIA's data sheets of each card (SXM where there are several)
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "L4": 121e12,
}


def peak_flops(device: torch.device, dtype: str) -> tuple[float, str] | None:
    """(FLOP/s of one device at most, where that number comes from), or None."""
    if device.type != "cuda" or dtype != "bf16":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    found = next((card for card in BF16 if card in words), None)
    return None if found is None else (BF16[found], f"{found}, bf16 dense, NVIDIA data sheet")
