"""Build the C++ library of csrc/, if there is a compiler; all else of the package is in pyproject.toml.

A machine without a compiler gets attnconv all the same: the build's error goes into the package, where the kernel that
misses its library finds it and says so. The library calls nothing of Python, so its file and the wheel's name carry no
version of it.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path(__file__).parent / "csrc"
NAME = "attnconv.kernels.relative_attention.native_library"
ERROR = "native_build_error.txt"

FLAGS = [
    *(
        "-std=c++20",
        "-O3",
        "-fPIC",
        "-fvisibility=hidden",
        "-fno-exceptions",
        "-fno-rtti",
        "-g0",
        "-Wall",
        "-Wno-psabi",
    ),
    *("-fno-math-errno", "-fno-strict-aliasing"),
]
UNITS = {"library": [], "baseline": []}  # a source file and the flags of its own
UNITS_OF_X86_64 = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [
        *("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
    ],
}


def compiler() -> list[str]:
    """Return the command of a C++ compiler: $CXX, or the first of the usual names."""
    if wanted := os.environ.get("CXX"):
        return shlex.split(wanted)
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    raise FileNotFoundError("no C++ compiler was found")


def compile_units(command: list[str], folder: Path) -> list[Path]:
    """Compile, all at once, the units that there are for the machine of ``command``: their objects, in ``folder``."""
    machine = run([*command, "-dumpmachine"])
    units = UNITS | (UNITS_OF_X86_64 if machine.startswith("x86_64") else {})

    def compile_unit(unit: str) -> Path:
        made = folder / f"{unit}.o"
        run([*command, *FLAGS, *units[unit], *more_flags(), "-c", str(SOURCES / f"{unit}.cpp"), "-o", str(made)])
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_unit, units))


def build_library(target: Path) -> None:
    """Compile and link the library to ``target``."""
    command = compiler()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        objects = compile_units(command, folder)
        new = folder / target.name  # moved into place whole: a process may have the old one loaded
        run([*command, "-shared", *more_flags(), *map(str, objects), "-o", str(new)])
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f"{target.name}.new")
        shutil.copy(new, beside)
        beside.replace(target)


def more_flags() -> list[str]:
    return shlex.split(os.environ.get("CXXFLAGS", ""))


def run(command: list[str]) -> str:
    """Return what it prints; raise RuntimeError with the last error that it names."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line] or lines or [f"{command[0]} failed"]
        raise RuntimeError(errors[-1].strip())
    return done.stdout


class BuildNative(build_ext):
    built = False  # the last time

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        folders = {target.parent}
        if self.inplace or self.editable_mode:
            folders.add(Path(__file__).parent / "src" / Path(*NAME.split(".")[:-1]))
        for folder in folders:
            (folder / ERROR).unlink(missing_ok=True)
            (folder / target.name).unlink(missing_ok=True)
        try:
            build_library(target)
        except (OSError, RuntimeError) as error:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / ERROR).write_text(" ".join(str(error).split())[:300] + "\n")
            print(f"attnconv: built without its C++ kernel: {error}")
        BuildNative.built = target.exists()


class PlatformWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        if not BuildNative.built:
            self.root_is_pure = True
            return "py3", "none", "any"
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension(NAME, [f"csrc/{unit}.cpp" for unit in (*UNITS, *UNITS_OF_X86_64)], optional=True)],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
