"""The findings of `attnconv doctor` as lines for people; without an extra, so without tables."""

from collections.abc import Callable, Iterator
from typing import Any

from attnconv.cli.diagnosis import HEAD_DIM, MAP_SIZE, Facts, diagnosis
from attnconv.cli.output import amount, print_json
from attnconv.shown import shown_lines


def print_diagnosis(*, json: bool) -> None:
    """Look at everything, and print it for people, or as one JSON object."""
    found = diagnosis()
    print_json(found) if json else print(shown_lines(diagnosis_text(found)))


def diagnosis_text(found: Facts) -> str:
    """The whole report."""
    sections: dict[str, tuple[str, Callable[[Any], Iterator[tuple[str, str]]]]] = {
        "versions": ("Versions", _versions),
        "extras": ("Extras", _extras),
        "devices": ("Devices", _devices),
        "kernels": (
            f"Kernels of relative attention, map {MAP_SIZE[0]} x {MAP_SIZE[1]}, {HEAD_DIM} channels a head; "
            "others: attnconv bench --explain-choice",
            _kernels,
        ),
        "data": ("Named data sets", _data),
    }
    lines = []
    for key, (title, rows) in sections.items():
        facts = found[key]
        problem = facts.get("problem") if isinstance(facts, dict) else None
        cells = [("unknown", problem)] if problem else list(rows(facts))
        width = max((len(name) for name, _ in cells), default=0)
        lines += [title, *(f"  {name:{width}}  {text}" for name, text in cells), ""]
    return "\n".join(lines).rstrip()


def _versions(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "attnconv", f"{facts['attnconv']}, in {facts['folder']}"
    yield "Python", f"{facts['python']}, {facts['executable']}"
    yield "system", facts["system"]
    for package in ("torch", "numpy"):
        yield package, facts[package] or f"missing: pip install {package}"


def _extras(facts: dict[str, Facts]) -> Iterator[tuple[str, str]]:
    for extra, found in facts.items():
        packages = ", ".join(f"{name} {version or 'missing'}" for name, version in found["packages"].items())
        yield extra, packages + (f": {found['install']}" if found["install"] else "")


def _devices(facts: list[Facts]) -> Iterator[tuple[str, str]]:
    for found in facts:
        if "missing" in found:
            yield found["device"], f"none: {found['missing']}"
        elif found["device"] == "cpu":
            yield "cpu", f"{found['name']}, {found['cores']} cores, {found['threads']} threads in torch"
        elif "memory" in found:
            memory = amount(found["memory"], "B")
            yield found["device"], f"{found['name']}, {memory}, compute capability {found['capability']}"
        else:
            yield found["device"], found["name"]


def _kernels(facts: list[Facts]) -> Iterator[tuple[str, str]]:
    for found in facts:
        for kernel, why in found["why_not"].items():
            chosen = ", the choice of impl='auto'" if kernel == found["auto"] else ""
            yield f"{kernel} on {found['device']}, {found['dtype']}", f"no: {why}" if why else f"available{chosen}"


def _data(facts: Facts) -> Iterator[tuple[str, str]]:
    said = "" if facts["set_by"] == "default" else f" (set by {facts['set_by']})"
    yield "folder", f"{facts['folder']}{said}" + ("" if facts["exists"] else ", not there yet")
    yield "writable", f"yes, {amount(facts['free'], 'B')} free" if facts["writable"] else f"no: {facts['why_not']}"
