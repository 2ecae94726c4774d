"""attnconv doctor: versions, extras, devices, kernels and the data folder of this machine.

Needs neither torch nor an extra: a missing or broken package is a finding.
"""

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from attnconv import __version__, checks
from attnconv.cli.terminal import amount, folded, print_json, terminal_width
from attnconv.shown import shown_lines

NOT_FOR_USERS = ("all", "dev", "docs")
MAP_SIZE, HEAD_DIM = (32, 32), 16  # of the attention whose kernels are listed
# A line of the package's metadata, such as: scipy>=1.15; extra == "train"
OF_AN_EXTRA = re.compile(
    r"(?P<name>[\w.-]+)(\[.*?\])?\s*(?P<rule>[^;]*?)\s*;\s*extra\s*==\s*['\"](?P<extra>[\w-]+)['\"]"
)
Facts = dict[str, Any]
Lines = Iterator[tuple[str, str]]  # name and text


def doctor(*, json: bool = False) -> None:
    """Report what is installed here and what can run: versions, extras, devices, kernels, the data folder.

    Parameters
    ----------
    json:
        Print one JSON object.
    """
    found = diagnosis()
    print_json(found) if json else print(shown_lines(diagnosis_text(found)))


def diagnosis() -> dict[str, Any]:
    """Return the findings of each section as plain values; {"problem": reason} for a section that fails."""
    found: dict[str, Any] = {}
    for key, (_, look, _) in SECTIONS.items():
        try:
            found[key] = look()
        except Exception as error:  # a torch that does not import, a broken driver
            found[key] = {"problem": checks.first_line(error)}
    return found


def diagnosis_text(found: dict[str, Any]) -> str:
    """Return the findings as lines of text."""
    lines = []
    for key, (title, _, text) in SECTIONS.items():
        facts = found[key]
        problem = facts.get("problem") if isinstance(facts, dict) else None
        cells = [("unknown", problem)] if problem else list(text(facts))
        width = max((len(name) for name, _ in cells), default=0)
        lines += folded("", title, terminal_width())
        for name, value in cells:
            lines += folded(f"  {name:{width}}  ", value, terminal_width())
        lines.append("")
    return "\n".join(lines).rstrip()


def versions() -> Facts:
    """Return the versions of attnconv, Python, the system, torch and numpy; None if not installed."""
    return {
        "attnconv": __version__,
        "folder": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "torch": checks.installed_version("torch"),
        "numpy": checks.installed_version("numpy"),
    }


def versions_text(facts: Facts) -> Lines:
    for name, value in facts.items():
        yield name, value or f"missing: pip install {name}"


def extras() -> dict[str, Facts]:
    """Return each extra's packages with their versions, and the pip line if one is missing or too old."""
    found: dict[str, Facts] = {}
    for line in metadata.requires("attnconv") or []:
        parts = OF_AN_EXTRA.fullmatch(line)
        if parts is None or parts["extra"] in NOT_FOR_USERS or parts["name"] == "attnconv":
            continue
        extra = found.setdefault(parts["extra"], {"packages": {}, "install": None})
        here = extra["packages"][parts["name"]] = checks.installed_version(parts["name"])
        if here is None or not satisfies(here, parts["rule"]):
            extra["install"] = f"pip install 'attnconv[{parts['extra']}]'"
    return found


def satisfies(here: str, rule: str) -> bool:
    """True if version ``here`` satisfies ``rule``, or if packaging is not installed."""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # not part of a plain install
        return True
    return SpecifierSet(rule).contains(here, prereleases=True)


def extras_text(facts: dict[str, Facts]) -> Lines:
    for extra, found in facts.items():
        packages = ", ".join(f"{name} {version or 'missing'}" for name, version in found["packages"].items())
        yield extra, packages + (f": {found['install']}" if found["install"] else "")


def devices() -> list[Facts]:
    """Return the CPU, each CUDA GPU and MPS, with the reason for each kind that is absent."""
    import torch

    from attnconv.bench.machine import cpu_name

    found: list[Facts] = [
        {"device": "cpu", "name": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    ]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(i)
        capability = f"{facts.major}.{facts.minor}"
        found.append(
            {"device": f"cuda:{i}", "name": facts.name, "memory": facts.total_memory, "capability": capability}
        )
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": platform.processor() or "Apple GPU"})
    built = {"cuda": torch.version.cuda or torch.version.hip, "mps": torch.backends.mps.is_built()}
    for kind in {*built} - {device["device"].partition(":")[0] for device in found}:
        why = "torch finds none, or no driver" if built[kind] else f"this torch is built without {kind.upper()}"
        found.append({"device": kind, "missing": why})
    return sorted(found, key=lambda device: device["device"])


def devices_text(facts: list[Facts]) -> Lines:
    for found in facts:
        text = f"none: {found['missing']}" if "missing" in found else found["name"]
        if "cores" in found:
            text += f", {found['cores']} cores, {found['threads']} threads in torch"
        if "memory" in found:
            text += f", {amount(found['memory'], 'B')}, compute capability {found['capability']}"
        yield found["device"], text


def kernels() -> list[Facts]:
    """Return the kernel that impl="auto" chooses on each device, and the reasons why others cannot run."""
    import torch

    from attnconv.ops.kernel_choice import KERNELS, AttentionProblem, choose_kernel, why_not

    found = []
    cuda = [("cuda", "float32"), ("cuda", "bfloat16")] if torch.cuda.is_available() else []
    for device, dtype in [("cpu", "float32"), *cuda]:
        problem = AttentionProblem(
            MAP_SIZE, HEAD_DIM, HEAD_DIM, dtype=getattr(torch, dtype), device_type=device, needs_grad=True
        )
        reasons = {kernel: why_not(kernel, problem) for kernel in KERNELS}
        found.append({"device": device, "dtype": dtype, "auto": choose_kernel(problem), "why_not": reasons})
    return found


def kernels_text(facts: list[Facts]) -> Lines:
    for found in facts:
        for kernel, why in found["why_not"].items():
            chosen = ", the choice of impl='auto'" if kernel == found["auto"] else ""
            yield f"{kernel} on {found['device']}, {found['dtype']}", f"no: {why}" if why else f"available{chosen}"


def data_folder() -> Facts:
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
    return {
        "folder": str(folder),
        "set_by": DATA_DIR_VARIABLE if named else "default",
        "exists": folder.is_dir(),
        "writable": problem is None,
        "why_not": problem,
        "free": shutil.disk_usage(nearest).free,
    }


def data_text(facts: Facts) -> Lines:
    said = "" if facts["set_by"] == "default" else f" (set by {facts['set_by']})"
    yield "folder", f"{facts['folder']}{said}" + ("" if facts["exists"] else ", not there yet")
    yield "writable", f"yes, {amount(facts['free'], 'B')} free" if facts["writable"] else f"no: {facts['why_not']}"


# Title, finder and text of each section.
SECTIONS: dict[str, tuple[str, Callable[[], Any], Callable[[Any], Lines]]] = {
    "versions": ("Versions", versions, versions_text),
    "extras": ("Extras", extras, extras_text),
    "devices": ("Devices", devices, devices_text),
    "kernels": (
        f"Kernels of relative attention, map 32 x 32, {HEAD_DIM} channels a head (attnconv bench --explain-choice)",
        kernels,
        kernels_text,
    ),
    "data": ("Named data sets", data_folder, data_text),
}
