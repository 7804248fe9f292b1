"""What this machine computes on, and in which type."""

import gc
import os
import platform
from typing import Any

import psutil
import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def default_device() -> torch.device:
    """The GPU of this process (the first one, where it is alone), or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def resolve_dtype(setting: str = "auto", device: torch.device | None = None) -> torch.dtype:
    """The compute type: `setting` itself, or for `auto` bfloat16 from compute capability 8.0, float16 below, float32 on a CPU."""
    return DTYPES[_choose_dtype(setting, device or default_device())[0]]


def describe_hardware(setting: str = "auto") -> dict[str, Any]:
    """Device, chosen dtype with the reason in words, and memory in bytes: for `doctor` and `env.json`."""
    device = default_device()
    dtype, why = _choose_dtype(setting, device)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name, capability = torch.cuda.get_device_name(device), ".".join(map(str, torch.cuda.get_device_capability(device)))
    else:
        memory = psutil.virtual_memory()
        free, total = memory.available, memory.total
        name, capability = platform.processor() or platform.machine(), None
    return {
        "device": str(device),
        "device_name": name,
        "compute_capability": capability,
        "dtype": dtype,
        "dtype_why": why,
        "memory_total": total,
        "memory_free": free,
        "cpus": os.cpu_count(),
    }


def release_memory() -> None:
    """Give the memory of models that are no longer referred to back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _choose_dtype(setting: str, device: torch.device) -> tuple[str, str]:
    if setting != "auto":
        return setting, "the recipe says so"
    if device.type != "cuda":
        return "float32", "a CPU computes fastest and most exactly in float32"
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 8:
        return "bfloat16", f"compute capability {major}.{minor} has bfloat16"
    return "float16", f"compute capability {major}.{minor} is below 8.0 and has no fast bfloat16"
