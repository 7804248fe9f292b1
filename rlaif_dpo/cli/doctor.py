"""`rlaif-dpo doctor`."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import typer

from rlaif_dpo.cli.output import Json, Root, print_json, print_table
from rlaif_dpo.errors import UserError

LEAST_DISK = 2 * 10**9
"""Bytes a small run may need."""


@dataclass(frozen=True)
class Check:
    """One thing looked at: whether it is fine, what was found, and what to do if it is not."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def doctor(root: Root = "runs", json: Json = False) -> None:
    """Check this machine and the installation.

    Ends with code 1 if something stands in the way of a run.
    """
    checks = [_python(), *_versions(), _vllm(), *_hardware(), _bitsandbytes(), _sandbox(), *_disk(Path(root))]
    if json:
        print_json([asdict(check) for check in checks])
    else:
        print_table([("ok" if check.ok else "FAULT", check.name, check.found) for check in checks])
        for check in checks:
            if not check.ok:
                typer.echo(f"{check.name}: {check.fix}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _python() -> Check:
    return Check("python", sys.version_info >= (3, 11), platform.python_version(), "install Python 3.11 or newer")


def _versions() -> Iterator[Check]:
    """Each dependency against the range that this version of rlaif-dpo asks for."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("rlaif-dpo") or ()]
    except PackageNotFoundError:
        yield Check("rlaif-dpo", False, "not installed", "pip install -e . in its folder, or pip install rlaif-dpo")
        return
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        fix = f'pip install "{requirement}"'
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Check(requirement.name, False, f"missing, wants {requirement.specifier}", fix)
            continue
        ok = requirement.specifier.contains(found, prereleases=True)
        yield Check(requirement.name, ok, found if ok else f"{found}, wants {requirement.specifier}", fix)


def _vllm() -> Check:
    """vLLM is no dependency: it is fine where it is not there, and at fault where it is another one than ours wants."""
    from packaging.requirements import Requirement

    try:
        (wanted,) = (line for line in map(Requirement, requires("rlaif-dpo") or ()) if line.name == "vllm")
        found = version("vllm")
    except (PackageNotFoundError, ValueError):  # ours may be installed from before there was an extra
        return Check("vllm", True, "not installed; model.engine: vllm would need it")
    ok = wanted.specifier.contains(found, prereleases=True)
    return Check("vllm", ok, found if ok else f"{found}, wants {wanted.specifier}", f'pip install "vllm{wanted.specifier}"')


def _hardware() -> Iterator[Check]:
    from rlaif_dpo.models.hardware import describe_hardware

    found = describe_hardware()
    memory = f"{found['memory_free'] / 1e9:.1f} of {found['memory_total'] / 1e9:.1f} GB free"
    yield Check("device", True, f"{found['device']} ({found['device_name']}), {memory}, {found['cpus']} CPUs")
    yield Check("dtype", True, f"{found['dtype']}: {found['dtype_why']}")


def _bitsandbytes() -> Check:
    """Whether 4-bit weights survive a round trip: NF4's levels are at most .3 of a block's largest value apart."""
    try:
        import torch
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        from rlaif_dpo.models.hardware import default_device

        weights = torch.linspace(-1, 1, 4096, device=default_device()).reshape(64, 64)
        packed, state = quantize_4bit(weights, quant_type="nf4")
        error = (dequantize_4bit(packed, state) - weights).abs().max().item()
    except Exception as failure:  # a broken binary fails in ways of its own
        reason = " ".join(str(failure).split())[:60]
        return Check("nf4", False, f"{type(failure).__name__}: {reason}", "pip install --force-reinstall --no-deps bitsandbytes")
    return Check("nf4", error < 0.3, f"bitsandbytes quantises, largest error {error:.2f}", "reinstall bitsandbytes")


def _sandbox() -> Check:
    from rlaif_dpo.models.source import model_source

    try:
        return Check("sandbox model", True, model_source("sandbox"))
    except UserError as error:
        return Check("sandbox model", False, "missing", str(error))


def _disk(root: Path) -> Iterator[Check]:
    place = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    yield Check("disk", free >= LEAST_DISK, f"{free / 1e9:.1f} GB free", f"free some space, or use another --root than {root}")
    yield Check("writable", os.access(place, os.W_OK), str(place), f"{place} cannot be written; use another --root")
