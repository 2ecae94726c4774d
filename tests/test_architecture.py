"""Who may import whom: docs/architecture.md says it, and the sources are read without running them."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "attnconv"
FILES = sorted(SOURCE.rglob("*.py"))
PAGE = (ROOT / "docs" / "architecture.md").read_text()

# Above all packages: the one that gives their public names, and what only starts the command line.
ABOVE = {"__init__": {"ops", "layers", "models", "surgery", "compat", "explain"}, "__main__": {"cli"}}

# `import attnconv` and the public packages load none of these; each is loaded where it is used.
OPTIONAL = (
    "torchvision",
    "timm",
    "lightning_fabric",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "safetensors",
    "starlette",
    "uvicorn",
    "pytorch_grad_cam",
    "matplotlib",
    "scipy",
    "ray",
    "rich",
    "cyclopts",
    "tensorboard",
    "wandb",
    "huggingface_hub",
)


def table() -> dict[str, set[str] | None]:
    """Each package of docs/architecture.md in its order, and what it may import; None: everything."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]*)\|$", PAGE, re.MULTILINE)
    return {name: None if "everything" in cell else set(re.findall(r"`(\w+)`", cell)) for name, cell in rows}


ALLOWED = table()


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
    """True if attnconv.kernels.<op>.<name> is a kernel, not a function of the op's __init__, which kernels share."""
    package = SOURCE.joinpath(*parts[1:3], "__init__.py")
    return not (package.exists() and f"\ndef {parts[3]}(" in package.read_text())


def violations(path: Path, text: str) -> list[str]:
    package, found = package_of(path), []
    allowed = ABOVE[package] if package in ABOVE else ALLOWED[package]
    for module, inside in imports(ast.parse(text)):
        parts = module.split(".")
        if parts[0] != "attnconv" or allowed is None:
            continue
        other = parts[1] if len(parts) > 1 else "everything"  # a bare `import attnconv` reaches any package
        if other == "__version__" or (other == package and package != "kernels"):
            continue
        if other == package:
            # One folder an op. A file is a kernel, and x_*.py are parts of the kernel x.py.
            family = [path.parent.name, path.stem.partition("_")[0]]
            if is_kernel(parts) and [parts[2], *(part.partition("_")[0] for part in parts[3:4])] != family:
                found.append(f"{package} imports another kernel, {module}")
        elif other not in allowed:
            found.append(f"{package} imports {module}")
        elif package == "ops" and other == "kernels" and not inside and parts[2:] not in (["KERNELS"], ["IMPLS"]):
            found.append(f"ops imports {module} outside a function")
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The names along one circle of ``graph``; none if it has no circle."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            for following in sorted(graph[node]):
                if found := walk(following, [*path, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def module_graph() -> dict[str, set[str]]:
    """Which file of ours imports which, by dotted names."""
    names = {}
    for path in FILES:
        parts = ["attnconv", *path.relative_to(SOURCE).with_suffix("").parts]
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for name, path in names.items():
        found = {module for module, _ in imports(ast.parse(path.read_text()))}
        graph[name] = {m if m in names else m.rpartition(".")[0] for m in found} & set(names) - {name}
    return graph


# A docstring begins with what the thing does or is: "Return ...", "True if ...", a noun phrase.
TURNED_ROUND = re.compile(r"(What|Whether|How|Which|Why|Of which|Where|When)\b")


def turned_round(text: str) -> list[str]:
    """The first lines of docstrings in ``text`` that begin with a question word."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    return [doc.partition("\n")[0] for doc in found if TURNED_ROUND.match(doc)]


def test_docstrings_begin_with_what_a_thing_does_or_is():
    assert {path: found for path in FILES if (found := turned_round(path.read_text()))} == {}


@pytest.mark.parametrize("word", ["What", "Whether", "How", "Which", "Why", "Of which", "Where", "When"])
@pytest.mark.parametrize(
    "text",
    [
        '"""{} x."""',
        'class A:\n    r"""{} x."""',
        'class A:\n    async def f(self):\n        """\n        {} x.\n        """',
    ],
)
def test_a_docstring_that_begins_with_a_question_word_is_found(word, text):
    assert turned_round(text.format(word)) == [f"{word} x."]


def test_every_package_has_its_row():
    assert len(FILES) > 50
    assert {package_of(path) for path in FILES} == {*ALLOWED, *ABOVE}


def test_the_table_goes_from_the_bottom_up():
    rows = list(ALLOWED)
    for name, allowed in ALLOWED.items():
        assert (allowed or set()) <= set(rows[: rows.index(name)]), name


def test_imports_follow_the_table():
    assert {path: found for path in FILES if (found := violations(path, path.read_text()))} == {}


def test_no_two_files_import_each_other():
    assert circle(module_graph()) == []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]


def test_each_row_of_the_table_is_needed():
    used: dict[str, set[str]] = {name: set() for name in ALLOWED}
    for path in FILES:
        if (package := package_of(path)) in used:
            for module, _ in imports(ast.parse(path.read_text())):
                if module.startswith("attnconv."):
                    used[package].add(module.split(".")[1])
    assert {name: unused for name, allowed in ALLOWED.items() if (unused := (allowed or set()) - used[name])} == {}


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("layers/new.py", "from attnconv.models import registry"),
        ("layers/new.py", "def f():\n    import attnconv.train.fit"),
        ("ops/new.py", "from attnconv.kernels.relative_attention import eager"),
        ("ops/new.py", "from attnconv.kernels import relative_attention"),
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
    assert violations(place, f"from {folder} import position_term") == []
    assert len(violations(place, f"from {folder}.eager import forward")) == 1


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("ops/new.py", "def f():\n    from attnconv.kernels.relative_attention import eager"),
        ("ops/new.py", "from attnconv.kernels import KERNELS"),
        ("kernels/one/new.py", "from attnconv.kernels.one import new_part"),
        ("kernels/one/new_part.py", "from attnconv.kernels.one.new_other import thing"),
    ],
)
def test_a_permitted_import_passes(place, text):
    assert violations(SOURCE / place, text) == []


@functools.cache
def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


PUBLIC = (
    "from attnconv import AugmentedConv2d, SelfAttention, SimpleSelfAttention, "
    "compat, explain, export, models, ops, surgery"
)


@pytest.mark.parametrize(
    "statement",
    [
        "import attnconv",
        PUBLIC,
    ],
)
def test_optional_packages_stay_unloaded(statement):
    assert loaded_by(statement) & set(OPTIONAL) == set()


def test_of_triton_only_what_torch_loads():
    ours, torchs = (
        {name for name in loaded_by(statement) if name.partition(".")[0] == "triton"}
        for statement in (PUBLIC, "import torch, torch.utils.flop_counter, torch.fx.experimental.symbolic_shapes")
    )
    assert ours <= torchs


def private_names(text, own):
    """Names with an underscore, of attributes, imports and strings, that are none of ``own``: others' private ones."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [part for alias in node.names for part in f"{getattr(node, 'module', '')}.{alias.name}".split(".")]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            names = [node.value]
        yield from (name for name in names if re.match(r"_[A-Za-z]{2}", name) and name not in own)


def test_private_names_of_others_stand_in_the_table():
    trees = [ast.parse(path.read_text()) for path in FILES]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {"_attention", "_attention_backward"}  # ends of names that this library makes
    table = PAGE[PAGE.index("## Private interfaces") :]
    found = {name for path in FILES for name in private_names(path.read_text(), own) if name != "_global"}
    assert "_forward_pre_hooks" in found
    assert {name for name in found if not re.search(rf"\b{name}\b", table)} == set()


RUN = "import attnconv.recipes, attnconv.train.fit"


def test_a_run_loads_a_tracker_only_if_it_is_asked_for():
    assert loaded_by(RUN) & {"tensorboard", "wandb"} == set()


def test_the_command_line_starts_without_torch():
    assert "torch" not in loaded_by("import attnconv.cli")
