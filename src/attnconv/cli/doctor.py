"""attnconv doctor: versions, extras, devices, kernels and the data folder of this machine.

Needs neither torch nor an extra: a missing or broken package is a finding.
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
from attnconv.cli.terminal import amount, counted, folded, print_json, terminal_width
from attnconv.shown import shown_lines

NOT_FOR_USERS = ("all", "clients", "dev", "docs")
KERNELS_TITLE = "Kernels of relative attention, map 32 x 32, 16 channels a head (attnconv bench --explain-choice)"
MAP_SIZE, HEAD_DIM = (32, 32), 16
# A line of the package's metadata, such as: scipy>=1.15; extra == "train"
OF_AN_EXTRA = re.compile(
    r"(?P<name>[\w.-]+)(\[.*?\])?\s*(?P<rule>[^;]*?)\s*;\s*extra\s*==\s*['\"](?P<extra>[\w-]+)['\"]"
)
Facts = dict[str, Any]
# The facts of a section as JSON shows them, and its lines of text, by name.
Section = tuple[Facts | list[Facts], dict[str, str]]


def doctor(*, json: bool = False) -> None:
    """Report what is installed here and what can run: versions, extras, devices, kernels, the data folder.

    Parameters
    ----------
    json:
        Print one JSON object.
    """
    found: Facts = {}
    for key, (title, look) in SECTIONS.items():
        if found and not json:
            print()
        try:
            found[key], texts = look()
        except Exception as error:  # a torch that does not import, a broken driver
            texts = {"unknown": checks.first_line(error)}
            found[key] = {"problem": texts["unknown"]}
        if not json:
            lines, width = folded("", title, terminal_width()), max(map(len, texts), default=0)
            for name, text in texts.items():
                lines += folded(f"  {name:{width}}  ", text, terminal_width())
            print(shown_lines("\n".join(lines)))
    if json:
        print_json(found)


def versions() -> Section:
    """Return the versions of attnconv, Python, the system, torch and numpy."""
    facts = {
        "attnconv": __version__,
        "folder": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "torch": checks.installed_version("torch"),
        "numpy": checks.installed_version("numpy"),
    }
    return facts, {name: value or f"missing: pip install {name}" for name, value in facts.items()}


def extras() -> Section:
    """Return each extra's packages with their versions, and the pip line if one is missing or too old."""
    facts: Facts = {}
    for line in metadata.requires("attnconv") or []:
        parts = OF_AN_EXTRA.fullmatch(line)
        if parts is None or parts["extra"] in NOT_FOR_USERS or parts["name"] == "attnconv":
            continue
        extra = facts.setdefault(parts["extra"], {"packages": {}, "install": None})
        here = extra["packages"][parts["name"]] = checks.installed_version(parts["name"])
        if here is None or not satisfies(here, parts["rule"]):
            extra["install"] = f"pip install 'attnconv[{parts['extra']}]'"
    texts = {
        name: ", ".join(f"{package} {version or 'missing'}" for package, version in extra["packages"].items())
        + (f": {extra['install']}" if extra["install"] else "")
        for name, extra in facts.items()
    }
    return facts, texts


def satisfies(here: str, rule: str) -> bool:
    """True if version ``here`` satisfies ``rule``, or if packaging is not installed."""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # not part of a plain install
        return True
    return SpecifierSet(rule).contains(here, prereleases=True)


def devices() -> Section:
    """Return the CPU, each CUDA GPU and MPS, with the reason for each kind that is absent."""
    import torch

    from attnconv.bench.machine import cpu_name

    cpu, cores, threads = cpu_name(), os.cpu_count(), torch.get_num_threads()
    facts: list[Facts] = [{"device": "cpu", "name": cpu, "cores": cores, "threads": threads}]
    texts = {"cpu": f"{cpu}, {cores} cores, {counted(threads, 'thread')} in torch"}
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(i)
        name, memory, capability = gpu.name, gpu.total_memory, f"{gpu.major}.{gpu.minor}"
        facts.append({"device": f"cuda:{i}", "name": name, "memory": memory, "capability": capability})
        texts[f"cuda:{i}"] = f"{name}, {amount(memory, 'B')}, compute capability {capability}"
    if torch.backends.mps.is_available():
        texts["mps"] = platform.processor() or "Apple GPU"
        facts.append({"device": "mps", "name": texts["mps"]})
    built = {"cuda": torch.version.cuda or torch.version.hip, "mps": torch.backends.mps.is_built()}
    for kind in built.keys() - {device.partition(":")[0] for device in texts}:
        why = "torch finds none, or no driver" if built[kind] else f"this torch is built without {kind.upper()}"
        facts.append({"device": kind, "missing": why})
        texts[kind] = f"none: {why}"
    return sorted(facts, key=lambda device: device["device"]), dict(sorted(texts.items()))


def kernels() -> Section:
    """Return the kernel that impl="auto" chooses on each device, and the reasons why others cannot run."""
    import torch

    from attnconv.ops.kernel_choice import KERNELS, AttentionProblem, choose_kernel, why_not

    facts, texts = [], {}
    cuda = [("cuda", "float32"), ("cuda", "bfloat16")] if torch.cuda.is_available() else []
    for device, dtype in [("cpu", "float32"), *cuda]:
        problem = AttentionProblem(
            MAP_SIZE, HEAD_DIM, HEAD_DIM, dtype=getattr(torch, dtype), device_type=device, needs_grad=True
        )
        chosen, reasons = choose_kernel(problem), {kernel: why_not(kernel, problem) for kernel in KERNELS}
        facts.append({"device": device, "dtype": dtype, "auto": chosen, "why_not": reasons})
        for kernel, why in reasons.items():
            able = "available, the choice of impl='auto'" if kernel == chosen else "available"
            texts[f"{kernel} on {device}, {dtype}"] = f"no: {why}" if why else able
    return facts, texts


def data_folder() -> Section:
    """Return the folder of the named data sets, the setting it comes from, and whether it can be written."""
    from attnconv.data.load import DATA_DIR_VARIABLE, DEFAULT_DATA_DIR

    named = os.environ.get(DATA_DIR_VARIABLE)
    folder = Path(os.path.expanduser(named or DEFAULT_DATA_DIR)).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    problem = None
    if not nearest.is_dir():
        problem = f"{nearest} is a file"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        problem = f"no right to write to {nearest}"
    free, exists = shutil.disk_usage(nearest).free, folder.is_dir()
    facts = {
        "folder": str(folder),
        "set_by": DATA_DIR_VARIABLE if named else "default",
        "exists": exists,
        "writable": problem is None,
        "why_not": problem,
        "free": free,
    }
    remarks = (f" (set by {DATA_DIR_VARIABLE})" if named else "") + ("" if exists else ", not there yet")
    able = f"no: {problem}" if problem else f"yes, {amount(free, 'B')} free"
    return facts, {"folder": f"{folder}{remarks}", "writable": able}


SECTIONS: dict[str, tuple[str, Callable[[], Section]]] = {  # title and finder of each
    "versions": ("Versions", versions),
    "extras": ("Extras", extras),
    "devices": ("Devices", devices),
    "kernels": (KERNELS_TITLE, kernels),
    "data": ("Named data sets", data_folder),
}
