"""What `attnconv doctor` finds: versions, extras, devices, kernels, the data folder.

Needs neither torch nor an extra: where a thing is missing, or fails, that is the finding.
"""

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from attnconv import __version__, checks

NOT_FOR_USERS = ("all", "dev", "docs")
MAP_SIZE, HEAD_DIM = (32, 32), 16  # of the attention for which kernels are asked
# A line of the package's metadata, such as: scipy>=1.15; extra == "train"
OF_AN_EXTRA = re.compile(
    r"(?P<name>[\w.-]+)(\[.*?\])?\s*(?P<rule>[^;]*?)\s*;\s*extra\s*==\s*['\"](?P<extra>[\w-]+)['\"]"
)
Facts = dict[str, Any]


def diagnosis() -> Facts:
    """Everything, as plain values; a section that cannot be looked at is {"problem": why}."""
    return {
        "versions": _section(versions),
        "extras": _section(extras),
        "devices": _section(devices),
        "kernels": _section(kernels),
        "data": _section(data_folder),
    }


def _section(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except Exception as error:  # a torch that does not import, a driver that is broken: said, not raised
        return {"problem": checks.first_line(error)}


def versions() -> Facts:
    """Of attnconv, Python, the system, torch and numpy; None of what is not installed."""
    return {
        "attnconv": __version__,
        "folder": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "torch": version("torch"),
        "numpy": version("numpy"),
    }


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def extras() -> dict[str, Facts]:
    """Each extra: its packages' versions (None if missing), and the pip line if one is missing or too old."""
    found: dict[str, Facts] = {}
    for line in metadata.requires("attnconv") or []:
        parts = OF_AN_EXTRA.fullmatch(line)
        if parts is None or parts["extra"] in NOT_FOR_USERS or parts["name"] == "attnconv":
            continue
        extra = found.setdefault(parts["extra"], {"packages": {}, "install": None})
        here = version(parts["name"])
        extra["packages"][parts["name"]] = here
        if here is None or not _satisfies(here, parts["rule"]):
            extra["install"] = f"pip install 'attnconv[{parts['extra']}]'"
    return found


def _satisfies(here: str, rule: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # a plain install has no packaging; the version is shown all the same
        return True
    return SpecifierSet(rule).contains(here, prereleases=True)


def devices() -> list[Facts]:
    """The CPU, each CUDA GPU, MPS; of a kind that is not there, why."""
    import torch

    from attnconv.bench.machine import cpu_name

    found: list[Facts] = [
        {"device": "cpu", "name": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    ]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(i)
            capability = f"{facts.major}.{facts.minor}"
            found.append(
                {"device": f"cuda:{i}", "name": facts.name, "memory": facts.total_memory, "capability": capability}
            )
    else:
        built = torch.version.cuda or torch.version.hip
        why = "torch finds no GPU, or no driver for it" if built else "this torch is built without CUDA"
        found.append({"device": "cuda", "missing": why})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": platform.processor() or "Apple GPU"})
    else:
        built = torch.backends.mps.is_built()
        found.append({"device": "mps", "missing": "torch finds none" if built else "this torch is built without MPS"})
    return found


def kernels() -> list[Facts]:
    """Of relative attention, on each device: which runs under impl="auto", and what stands against each other one."""
    import torch

    from attnconv.ops.kernel_choice import KERNELS, AttentionProblem, choose_kernel, why_not

    found = []
    for device, dtypes in {"cpu": ("float32",), "cuda": ("float32", "bfloat16")}.items():
        if device == "cuda" and not torch.cuda.is_available():
            continue
        for dtype in dtypes:
            problem = AttentionProblem(
                MAP_SIZE, HEAD_DIM, HEAD_DIM, dtype=getattr(torch, dtype), device_type=device, needs_grad=True
            )
            found.append(
                {
                    "device": device,
                    "dtype": dtype,
                    "auto": choose_kernel(problem),
                    "why_not": {kernel: why_not(kernel, problem) for kernel in KERNELS},
                }
            )
    return found


def data_folder() -> Facts:
    """Where named data sets are kept, who says so, whether it can be written, and the bytes free there."""
    from attnconv.data.load import DATA_DIR_VARIABLE, DEFAULT_DATA_DIR

    named = os.environ.get(DATA_DIR_VARIABLE)
    folder = Path(os.path.expanduser(named or DEFAULT_DATA_DIR)).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    problem = None
    if not nearest.is_dir():
        problem = f"{nearest} is a file"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        problem = f"no right to write to {nearest}"
    return {
        "folder": str(folder),
        "set_by": DATA_DIR_VARIABLE if named else "default",
        "exists": folder.is_dir(),
        "writable": problem is None,
        "why_not": problem,
        "free": shutil.disk_usage(nearest).free,
    }
