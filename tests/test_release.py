"""What is released: a wheel of every file, which works beside torch and numpy alone, and with everything."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import compilers
import pytest
import yaml

import attnconv

ROOT = Path(__file__).parents[1]
LIBRARY, BUILD_ERROR = "native_library.so", "native_build_error.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command, path=None, **settings):
    """Return the output of ``command``; with ``path``, it finds programs there alone, and no compiler by CXX."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CI")}
    if path is not None:
        environment = {key: value for key, value in environment.items() if key != "CXX"} | {"PATH": str(path)}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment, **settings)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sources(folder):
    """A copy of what a wheel is made of, without what was built in place."""
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "SECURITY.md"):
        shutil.copy(ROOT / name, folder)
    for name in ("src", "tests", "csrc"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", LIBRARY, BUILD_ERROR)
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Of a copy of the sources, by way of the sdist as `python -m build` does it; with the setuptools that is here."""
    pytest.importorskip("build")
    source = sources(tmp_path_factory.mktemp("source"))
    run(sys.executable, "-m", "build", "--no-isolation", source, cwd=source)
    (found,) = (source / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def wheel_without_compiler(tmp_path_factory):
    pytest.importorskip("build")
    source = sources(tmp_path_factory.mktemp("plain"))
    path = source / "no-programs"
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", source, cwd=source, path=path)
    (found,) = (source / "dist").glob("*.whl")
    return found


def test_a_wheel_without_a_compiler_is_for_any_machine_and_says_what_was_missing(wheel_without_compiler):
    assert wheel_without_compiler.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel_without_compiler) as archive:
        names = archive.namelist()
        error = archive.read(next(name for name in names if name.endswith(BUILD_ERROR))).decode()
    assert not any(name.endswith(".so") for name in names)
    assert error == "no C++ compiler was found\n"


def test_a_wheel_with_the_library_is_for_one_machine_and_any_python(wheel):
    compilers.needed("c++")
    assert re.search(r"-py3-none-(?!any)[\w.]+\.whl$", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    assert "attnconv/kernels/relative_attention/native_library.so" in names
    assert not any(name.endswith(BUILD_ERROR) for name in names)


def test_the_wheel_without_a_compiler_works_and_says_in_one_line_what_is_missing(wheel_without_compiler, tmp_path):
    packages = Path(str(metadata.distribution("torch").locate_file("")))
    python = environment(tmp_path / "venv", packages)
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index",
        wheel_without_compiler,
    )  # fmt: skip
    where, *_ = run(python, "-c", LAYER.format(others=OTHERS), cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(tmp_path / "venv")
    missing = (
        "its library was not built: no C++ compiler was found; install GCC 12 or Clang 15, or newer, and attnconv again"
    )
    report = run(python.with_name("attnconv"), "doctor", cwd=tmp_path)
    assert f"native on cpu, float32 no: {missing}" in " ".join(report.split())
    table = run(python.with_name("attnconv"), "bench", "--explain-choice", "--json", cwd=tmp_path)
    assert missing in table


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [True, False])
def test_an_editable_install_builds_in_place_where_there_is_a_compiler(compiler, tmp_path):
    if compiler:
        compilers.needed("c++")
    (tmp_path / "source").mkdir()
    source = sources(tmp_path / "source")
    python = environment(tmp_path / "venv", Path(str(metadata.distribution("torch").locate_file(""))))
    settings = {} if compiler else {"path": tmp_path / "no-programs"}
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index",
        "--no-build-isolation", "-e", source, **settings,
    )  # fmt: skip
    where, *_ = run(python, "-c", LAYER.format(others=OTHERS), cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(source)
    built = {path.name for path in (source / "src/attnconv/kernels/relative_attention").glob("native_*")}
    assert built == {LIBRARY if compiler else BUILD_ERROR}
    report = run(python.with_name("attnconv"), "doctor", cwd=tmp_path)
    said = "available, the choice" if compiler else "no: its library was not built: no C++ compiler was found;"
    assert re.search(rf"native on cpu, float32 +{re.escape(said)}", report)


def test_the_sdist_has_the_documents_and_no_half_of_the_tests(wheel):
    (sdist,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "src/attnconv/py.typed", "setup.py"} <= names
    assert {f"csrc/{path.name}" for path in (ROOT / "csrc").iterdir()} <= names
    assert [name for name in names if name.startswith("tests")] == []


def environment(folder, packages):
    """A virtual environment that sees ``packages``, a folder, beside its own: the path of its Python."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "packages.pth").write_text(str(packages))
    return python


def needed_by(*names):
    """The distributions that ``names`` need without any extra, themselves included, by their normal names."""
    from packaging.requirements import Requirement

    found, left = {}, list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # such as a CUDA library beside a torch for CPUs
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left += [requirement.name, *added_by_extras(requirement)]
    return found


def added_by_extras(requirement):
    """What the extras of ``requirement`` add: torch names its CUDA libraries as cuda-toolkit[cublas, ...]."""
    from packaging.requirements import Requirement

    if not requirement.extras:
        return []
    try:
        lines = metadata.distribution(requirement.name).requires or []
    except metadata.PackageNotFoundError:
        return []
    inner = [Requirement(line) for line in lines]
    return [
        each.name
        for each in inner
        for extra in requirement.extras
        if each.marker is not None and each.marker.evaluate({"extra": extra})
    ]


def links(folder, distributions):
    """A folder of links to the files of ``distributions``, and to nothing else that is installed."""
    folder.mkdir()
    for distribution in distributions.values():
        base = Path(str(distribution.locate_file("")))
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if (base / top).exists() and not (folder / top).exists():
                (folder / top).symlink_to(base / top)
    return folder


LAYER = """
import importlib.util, torch, attnconv
from attnconv import AugmentedConv2d, SimpleSelfAttention, models

layer = AugmentedConv2d(4, 8, 3, padding=1, key_channels=4, value_channels=4, num_heads=2, feat_size=(7, 9))
y = SimpleSelfAttention(8)(layer(torch.randn(2, 4, 5, 9)))
y.square().mean().backward()
assert y.shape == (2, 8, 5, 9) and layer.key_rel_h.grad.isfinite().all()
assert models.create_model("aa_resnet18", num_classes=3, image_size=32)(torch.randn(2, 3, 32, 32)).shape == (2, 3)
print(attnconv.__file__)
print(*(name for name in {others!r} if importlib.util.find_spec(name)))
"""
OTHERS = (
    *("torchvision", "lightning_fabric", "cyclopts", "yaml", "rich", "sklearn", "scipy", "matplotlib", "safetensors"),
    *("simplejpeg", "timm", "ray", "webdataset", "tensorboard", "wandb", "huggingface_hub", "PIL", "pytest"),
)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_the_wheel_works_beside_torch_and_numpy_alone(wheel, tmp_path):
    """pip finds every dependency that the wheel names among those two and what they need themselves."""
    packages = links(tmp_path / "packages", needed_by("torch", "numpy"))
    python = environment(tmp_path / "venv", packages)
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", wheel)
    where, *others = run(python, "-c", LAYER.format(others=OTHERS), cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(tmp_path / "venv")
    assert others == [""]
    command = python.with_name("attnconv")
    assert run(command, "--version", cwd=tmp_path).strip() == attnconv.__version__
    report = run(command, "doctor", cwd=tmp_path)
    assert "cyclopts missing" in report
    if shutil.which("c++") or os.environ.get("CI"):
        assert "native on cpu, float32   available, the choice of impl='auto'" in report
    assert "pip install 'attnconv[train]'" in report
    done = subprocess.run([command, "train"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2, "attnconv: error: this needs cyclopts: pip install 'attnconv[train]'\n",
    )  # fmt: skip


@pytest.mark.slow
def test_the_wheel_with_all_extras_runs_the_demo(wheel, tmp_path):
    """The extras are those installed here, which pip checks against what the wheel asks for."""
    packages = Path(str(metadata.distribution("torch").locate_file("")))
    python = environment(tmp_path / "venv", packages)
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-index",
        f"attnconv[all] @ {wheel.as_uri()}",
    )
    where = run(python, "-c", "import attnconv; print(attnconv.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(tmp_path / "venv")
    out = run(python.with_name("attnconv"), "demo", "--epochs", "1", cwd=tmp_path)
    assert "aa_convnet3" in out
    assert (tmp_path / "demo" / "report.html").exists()


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(wheel):
    files = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "attnconv").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert "attnconv/py.typed" in files
    assert files - inside == set()
    assert not any(name.startswith("tests/") for name in inside)
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_make_install_builds_the_library_again_when_its_sources_change():
    rule, *_ = re.search(
        r"^\$\(INSTALLED\) \$\(TRAINING\): (.*)\n((\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M
    ).groups()
    assert {"setup.py", "pyproject.toml", "$(wildcard", "csrc/*)"} <= set(rule.split())


def test_all_is_every_extra_but_those_of_its_makers():
    extras = PROJECT["optional-dependencies"]
    (named,) = (re.fullmatch(r"attnconv\[(.*)\]", line) for line in extras["all"])
    assert set(named[1].split(",")) == set(extras) - {"all", "dev", "docs", "clients"}


def test_everything_is_pinned():
    """What the extras name, and its own requirements, has a version that the tests ran with."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    names = [re.match(r"[\w.-]+", line)[0] for line in (*PROJECT["dependencies"], *extras)]
    assert {name for name in needed_by(*names) if name not in ("attnconv", "pip")} <= pinned


def test_the_version_is_semantic_and_the_same_everywhere():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", attnconv.__version__)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == attnconv.__version__
    assert f"\n## {attnconv.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_names_the_papers():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= cited.keys()
    assert cited["license"] == PROJECT["license"]
    assert {reference["url"].rpartition("/")[2] for reference in cited["references"]} == {"1904.09925", "1805.08318"}
    assert all(reference["authors"] and reference["title"] for reference in cited["references"])
