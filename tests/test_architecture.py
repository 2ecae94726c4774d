"""Who may import whom: the packages' rules, read from the source without running it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "attnconv"

# What all may import, beside their own package; these import each other alone.
FREE = ("checks", "regular_file", "shown", "inactive", "__version__")
ALLOWED = {
    "checks": set(),
    "regular_file": set(),
    "shown": set(),
    "inactive": set(),
    # What checkpoints, exported files and the Hub's folders share.
    "weights": set(),
    # Other people's files, read without running anything.
    "foreign": {"weights"},
    # Where data's workers are forked and where train saves, no signal may come between.
    "signals": set(),
    # Files replaced whole, and folders in which one process at a time is at work.
    "atomic": set(),
    "folder_lock": set(),
    "kernels": set(),
    "ops": {"kernels"},
    "layers": {"ops"},
    "models": {"layers", "weights", "foreign", "atomic", "folder_lock"},
    "surgery": {"layers"},
    # Whole networks of other programs are read from their files into ours.
    "compat": {"layers", "models", "weights", "foreign"},
    "timm": {"models"},
    "data": {"atomic", "signals"},
    "train": {"atomic", "folder_lock", "weights", "foreign", "signals"},
    "report": set(),
    # A trained network is read in one place, whatever kind of file it is in.
    "recipes": {"layers", "models", "surgery", "compat", "data", "train", "export", "foreign"},
    # A study's runs are train's folders, locked and interrupted as train does; their FLOPs are bench's count.
    "study": {"atomic", "folder_lock", "recipes", "report", "train", "bench", "explain"},
    "bench": {"ops", "layers", "models", "data"},
    # A point of an image file goes through data's resize and crop.
    "explain": {"ops", "layers", "models", "data"},
    # An export is written as train's checkpoints are, wholly or not at all, and timed as bench times.
    "export": {"atomic", "ops", "layers", "models", "train", "bench", "weights"},
    "cli": None,  # everything
    "__main__": {"cli"},
    "__init__": {"ops", "layers", "models", "surgery", "compat", "explain"},
}

# `import attnconv` and the public packages load none of these; each is loaded where it is used.
OPTIONAL = (
    "torchvision",
    "timm",
    "lightning_fabric",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "safetensors",
    "gradio",
    "matplotlib",
    "scipy",
    "ray",
    "rich",
    "cyclopts",
    "webdataset",
    "tensorboard",
    "wandb",
    "huggingface_hub",
    "safetensors",
)


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST, inside_function: bool = False):
    """Yield (dotted module, whether it stands inside a function) of each import of ours."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", inside_function
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        else:
            nested = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(node, inside_function or nested)


def is_kernel(parts: list[str]) -> bool:
    """Whether attnconv.kernels.<op>.<file>[.<name>] is a kernel, and not a piece that kernels share."""
    file = SOURCE.joinpath(*parts[1:4]).with_suffix(".py")
    return not file.exists() or "\ndef forward(" in file.read_text()


def violations(path: Path, text: str) -> list[str]:
    package, found = package_of(path), []
    allowed = ALLOWED[package]
    for module, inside in imports(ast.parse(text)):
        parts = module.split(".")
        if parts[0] != "attnconv" or allowed is None:
            continue
        other = parts[1] if len(parts) > 1 else "everything"  # a bare `import attnconv` reaches any package
        if other in FREE:
            continue
        if other == package and package != "kernels":
            continue
        if other == package:
            # One folder an op. A file with a `forward` is a kernel, and x_*.py are parts of the kernel x.py.
            family = [path.parent.name, path.stem.partition("_")[0]]
            if is_kernel(parts) and [parts[2], *(part.partition("_")[0] for part in parts[3:4])] != family:
                found.append(f"{package} imports another kernel, {module}")
        elif other not in allowed:
            found.append(f"{package} imports {module}")
        elif package == "ops" and not inside:
            found.append(f"ops imports {module} outside a function")
    return found


FILES = sorted(SOURCE.rglob("*.py"))


def test_every_package_is_known():
    assert len(FILES) > 5
    assert {package_of(path) for path in FILES} <= set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_rules(path):
    assert violations(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("layers/new.py", "from attnconv.models import registry"),
        ("layers/new.py", "def f():\n    import attnconv.train.fit"),
        ("ops/new.py", "from attnconv.kernels.relative_attention import eager"),
        ("kernels/new.py", "from attnconv.kernels.relative_attention import eager"),
        ("kernels/one/new.py", "from attnconv.kernels.one import other"),
        ("kernels/one/new.py", "from attnconv.kernels.one import newer_part"),
        ("kernels/one/new.py", "from attnconv.kernels.two import new_part"),
        ("train/new.py", "from attnconv import models"),
        ("compat/new.py", "import attnconv.train"),
        ("train/new.py", "import attnconv"),
        ("surgery/new.py", "from attnconv.models.registry import create_model"),
    ],
)
def test_a_planted_violation_is_caught(place, text):
    assert len(violations(SOURCE / place, text)) == 1


def test_a_piece_that_kernels_share_is_no_kernel():
    place, folder = SOURCE / "kernels/relative_attention/new.py", "attnconv.kernels.relative_attention"
    assert violations(place, f"from {folder}.position_term import position_term") == []
    assert len(violations(place, f"from {folder}.eager import forward")) == 1


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("ops/new.py", "def f():\n    from attnconv.kernels.relative_attention import eager"),
        ("kernels/one/new.py", "from attnconv.kernels.one import new_part"),
        ("kernels/one/new_part.py", "from attnconv.kernels.one.new_other import thing"),
    ],
)
def test_a_permitted_import_passes(place, text):
    assert violations(SOURCE / place, text) == []


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


ROOMS = (
    "from attnconv import AugmentedConv2d, SelfAttention, SimpleSelfAttention, "
    "compat, explain, export, models, ops, surgery"
)


@pytest.mark.parametrize(
    "statement",
    [
        "import attnconv",
        ROOMS,
    ],
)
def test_optional_packages_stay_unloaded(statement):
    assert loaded_by(statement) & set(OPTIONAL) == set()


def test_of_triton_only_what_torch_loads():
    ours, torchs = (
        {name for name in loaded_by(statement) if name.partition(".")[0] == "triton"}
        for statement in (ROOMS, "import torch, torch.utils.flop_counter, torch.fx.experimental.symbolic_shapes")
    )
    assert ours <= torchs


def test_a_run_loads_a_tracker_only_if_it_is_asked_for():
    assert loaded_by("import attnconv.recipes, attnconv.train.fit") & {"tensorboard", "wandb"} == set()


def test_the_command_line_starts_without_torch():
    assert "torch" not in loaded_by("import attnconv.cli")
