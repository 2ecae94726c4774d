"""attnconv bench: measure time, memory and FLOPs of ops, layers and networks, and report the records."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from attnconv import checks, files
from attnconv.bench.cases import (
    BILINEAR,
    BILINEAR_NAMES,
    BOTH,
    FORWARD,
    LAYER_NAMES,
    LAYERS,
    RELATIVE,
    RELATIVE_NAMES,
    SIZES,
    layer_sweep,
    relative_sweep,
)
from attnconv.cli.flags import NO_SURGERY, Surgery, integers, require_layer, require_network, words
from attnconv.cli.terminal import note, print_json, print_table, say, tell
from attnconv.kernels import IMPLS

if TYPE_CHECKING:
    from attnconv.bench.benchmark import Benchmark, Settings

Dtype = Literal["float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
Names = tuple[str, ...]
Flag = Annotated[bool, Parameter(negative=())]
RESULTS = Path("benchmarks/results")
QUICK = {"cpu": "S1,S4,S6,X3", "cuda": "G1,G2,G3,X1"}
QUICK_LAYERS = dict.fromkeys(QUICK, "L1,L4")
BUDGET = 30.0  # seconds after which no further round of a benchmark begins, once it has had three

bench = App(name="bench", help_format="markdown", default_parameter=Parameter(negative=None))  # with --no-NAME


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """The options that several commands share.

    Parameters
    ----------
    dtype:
        Number format of inputs and parameters.
    device:
        Device to run on.
    rounds:
        Turns of each candidate; slow ones have fewer, but at least 3.
    threads:
        CPU threads of torch; by default its own choice.
    out:
        Folder of the records, JSON lines.
    json:
        Print the new records as one JSON list.
    """

    dtype: Dtype = "float32"
    device: Device = "auto"
    rounds: int = 5
    threads: int | None = None
    out: Path = RESULTS
    json: Flag = False

    def settings(self, names: tuple[str, ...] | None = None) -> "Settings":
        """Return the settings, with only these candidates if ``names`` are given."""
        import torch

        from attnconv.bench.benchmark import Settings
        from attnconv.train.device import choose_device

        if self.threads is not None:
            torch.set_num_threads(checks.integer("threads", self.threads, at_least=1))
        return Settings(
            device=choose_device(_kind(self.device)),
            dtype=getattr(torch, self.dtype),
            rounds=checks.integer("rounds", self.rounds, at_least=1),
            budget=BUDGET,
            names=names,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class Cases:
    """Cases to measure.

    Parameters
    ----------
    case:
        Names of cases, separated by commas, or all; see above. By default a few of them; with --sizes, none.
    sizes:
        Sides of square maps for a sweep, such as 8,16,32,64,128.
    backward:
        Also time forward and backward together.
    """

    case: str | None = None
    sizes: str | None = None
    backward: bool = True

    def chosen(self, known: Sequence[str], quick: Mapping[str, str], device: Device) -> tuple[Names, Sequence[int]]:
        """Return names of cases, and sides of the maps of a sweep. Loads torch only if the device decides."""
        swept = [] if self.sizes is None else integers("sizes", self.sizes)
        if self.case == "all":
            on_gpu = _kind(device) == "cuda"
            return tuple(name for name in known if on_gpu or not name.startswith("G")), swept or SIZES
        given = self.case if self.case is not None else "" if self.sizes else quick[_kind(device)]
        names = _known("case", given, known)
        if not names and not swept:
            raise checks.InputError(f"no case is left to run: got --case {self.case!r} and --sizes {self.sizes!r}")
        return names, swept

    @property
    def passes(self) -> Names:
        return (FORWARD, BOTH) if self.backward else (FORWARD,)


DEFAULTS = Options()
DEFAULT_CASES = Cases()


@bench.default
def choice(
    command: Annotated[str | None, Parameter(show=False)] = None,
    /,
    *,
    explain_choice: Flag = False,
    map_size: str = "32,32",
    key_dim: int = 20,
    value_dim: int = 2,
    positions: bool = True,
    backward: bool = True,
    dtype: Dtype = "float32",
    device: Device = "auto",
    json: Flag = False,
) -> None:
    """Measure time, memory and FLOPs with one of the commands. --explain-choice runs nothing.

    Parameters
    ----------
    explain_choice:
        Print the kernel that relative attention takes for a shape, and the reasons against the others.
    map_size:
        Rows, columns; or one or three numbers.
    key_dim:
        Key channels a head, D.
    value_dim:
        Value channels a head, E.
    positions:
        Use relative positions.
    backward:
        A gradient is needed.
    dtype:
        Number format of the inputs.
    device:
        Device of the inputs.
    json:
        Print one JSON object.
    """
    if command is not None:  # an unknown command
        checks.one_of("command", command, ("ops", "layers", "models", "report"))
    if not explain_choice:
        bench.help_print()
        return
    sides = integers("map-size", map_size)
    if len(sides) > 3:
        raise checks.InputError(f"--map-size must have one to three numbers, got {map_size!r}")
    import torch

    from attnconv.ops import AttentionProblem
    from attnconv.ops import explain_choice as explain

    problem = AttentionProblem(
        map_size=tuple(checks.integer("map-size", n, at_least=1) for n in sides),
        head_dim=checks.integer("key-dim", key_dim, at_least=1),
        value_dim=checks.integer("value-dim", value_dim, at_least=1),
        dtype=getattr(torch, dtype),
        device_type=_kind(device),
        tables=positions,
        needs_grad=backward,
    )
    chosen, reasons = explain(problem)
    if json:
        print_json({"kernel": chosen, "reasons": reasons})
        return
    say(f"map {map_size}, D {key_dim}, E {value_dim}, {dtype}, {problem.device_type}: {chosen}")
    print_table(("kernel", "why, or why not"), list(reasons.items()), fold=True)


@bench.command
def ops(*, cases: Cases = DEFAULT_CASES, impl: str | None = None, options: Options = DEFAULTS) -> None:
    """Compare relative attention with standard alternatives, and the orders of bilinear attention's products.

    Cases: S1 to S6, R14, R7, SAGAN, 1D, 3D, for a GPU G1 to G3, and X1 to X5 for the orders of products. By default two
    to three minutes on two CPU cores; all cases and sizes take over half an hour. Appends to ops.jsonl.

    Parameters
    ----------
    impl:
        Candidates, such as auto,eager,flex; by default all.
    """
    _known("impl", impl or "", (*RELATIVE_NAMES, *BILINEAR_NAMES))
    names, swept = cases.chosen([c.name for c in (*RELATIVE, *BILINEAR)], QUICK, options.device)
    attention = [*(c for c in RELATIVE if c.name in names), *relative_sweep(swept)]
    orders = [c for c in BILINEAR if c.name in names]
    known = [*(RELATIVE_NAMES if attention else ()), *(BILINEAR_NAMES if orders else ())]
    settings = options.settings(None if impl is None else _known("impl", impl, known))
    from attnconv.bench.ops import bilinear_benchmark, relative_benchmark

    benchmarks = [relative_benchmark(c, what, settings) for c in attention for what in cases.passes]
    benchmarks += [bilinear_benchmark(c, what, settings) for c in orders for what in cases.passes]
    _run(benchmarks, settings, options.out / "ops.jsonl", options.json)


@bench.command
def layers(*, cases: Cases = DEFAULT_CASES, layer: str | None = None, options: Options = DEFAULTS) -> None:
    """Compare attention layers, timm's among them, with the convolution of equal output.

    Cases: L1 to L4. By default under a minute on two CPU cores; all cases and sizes take over half an hour. Appends to
    layers.jsonl.

    Parameters
    ----------
    layer:
        Candidates, such as conv2d,augmented-auto; by default all.
    """
    for name in words(layer or ""):
        require_layer("unknown layer", name, (*LAYER_NAMES, "sagan", "simple"))
    names, swept = cases.chosen([c.name for c in LAYERS], QUICK_LAYERS, options.device)
    chosen = [*(c for c in LAYERS if c.name in names), *layer_sweep(swept)]
    from attnconv.bench.layers import builders, layer_benchmark

    settings = options.settings(None if layer is None else _known("layer", layer, list(builders())))
    benchmarks = [layer_benchmark(c, what, settings) for c in chosen for what in cases.passes]
    _run(benchmarks, settings, options.out / "layers.jsonl", options.json)


@bench.command
def models(
    *,
    model: str | None = None,
    impl: str = "auto",
    batch_size: Annotated[int | None, Parameter(alias="-b")] = None,
    image_size: int | None = None,
    surgery: Surgery = NO_SURGERY,
    options: Options = DEFAULTS,
) -> None:
    """Compare training steps of networks with attention and of their plain twins, under autocast unless in float32.

    It takes two to four minutes on two CPU cores and appends to models.jsonl. With --augment or --attend, each network
    is compared with itself plus that attention.

    Parameters
    ----------
    model:
        Names of `attnconv models`, timm:NAME, torchvision:NAME or package.module:function, separated by commas, or all.
        By default five, one of each family.
    impl:
        Implementations of relative attention, such as auto,eager; each network runs with each of them.
    batch_size:
        Images a step; by default few enough for a CPU.
    image_size:
        Side of the square images in pixels; by default the family's usual one.
    """
    for name in words(model or ""):
        if name != "all":
            require_network(name, {})
    impls, steps = _known("impl", impl, IMPLS), surgery.steps()
    from attnconv.bench.models import NAMED, case_of, model_benchmark, twinned_models
    from attnconv.surgery.steps import checked_steps

    names = twinned_models() if model == "all" else NAMED if model is None else words(model)
    found = checked_steps(steps)
    cases = [case_of(name, batch=batch_size, image_size=image_size, attention=found) for name in names]
    settings = options.settings()
    benchmarks = [model_benchmark(case, settings, impls=impls) for case in cases]
    _run(benchmarks, settings, options.out / "models.jsonl", options.json)


@bench.command
def report(folder: Path = RESULTS, *, out: Path | None = None) -> None:
    """Write tables of all records in a folder, and plots of its sweeps on log-log axes.

    Parameters
    ----------
    folder:
        Folder of the .jsonl files.
    out:
        Markdown file to write, with its plots beside it; by default report.md in that folder.
    """
    from attnconv.bench.records import load_folder
    from attnconv.report.bench import markdown
    from attnconv.report.page import svg_file

    text, figures = markdown(load_folder(folder))
    out = folder / "report.md" if out is None else out
    files.make_folder(out.parent)
    for name, figure in figures.items():
        files.write(out.parent / name, svg_file(figure))
    files.write(out, text)
    say(f"{out}, with {len(figures)} drawing{'' if len(figures) == 1 else 's'} beside it")


def _known(what: str, text: str, known: Sequence[str]) -> Names:
    """Return the names between commas; InputError if one is not ``known``."""
    return tuple(checks.one_of(what, name, known) for name in words(text))


def _kind(device: Device) -> str:
    """Return the kind of ``device``, which need not be present."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _run(benchmarks: Sequence["Benchmark"], settings: "Settings", file: Path, json: bool) -> None:
    """Run the benchmarks, add their records to the file and print them."""
    from rich.console import Console

    from attnconv.bench.benchmark import run
    from attnconv.bench.records import append, provenance
    from attnconv.report.bench import tables
    from attnconv.train.device import ROOT, commit

    append(file, [])  # an error here comes before minutes of work
    made = provenance(settings.device, settings.seed, commit=commit(ROOT), command=["attnconv", *sys.argv[1:]])
    with Console(stderr=True, highlight=False, markup=False).status("") as status:  # shown only in a terminal
        found: list[dict[str, Any]] = []
        begin = time.perf_counter()
        for records in run(benchmarks, settings, made, file=file, tell=status.update):
            found += records
            if records and not sys.stderr.isatty():
                done = f"{records[0]['case']} {records[0]['pass']}: done after {time.perf_counter() - begin:.0f} s"
                tell(done)
    if json:
        print_json(found)
        return
    for table in tables(found):
        note(table.title)
        if table.note:
            note(table.note)
        if table.rows:
            print_table(table.header, table.rows)
        for name, reason in table.absent:
            note(f"{name}: {reason}")
        print()
    say(f"{len(found)} records added to {file}; attnconv bench report draws them together")
