"""The command line. A command's file is imported when the command is called, so that `attnconv --help` is quick."""

import difflib
import inspect
import keyword
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from attnconv import __version__, checks
from attnconv.shown import shown
from attnconv.signals import Terminated, leave

COMMANDS = {
    "models": "List the networks that can be created by name.",
    "summary": "Print a network's parameters, multiply-adds, FLOPs and attention memory.",
    "train": "Train a network and write the run to a folder.",
    "lr-find": "Suggest a learning rate for a run.",
    "evaluate": "Score a trained network on validation images.",
    "predict": "Predict the classes of images, the most likely first.",
    "explain": "Draw the attention of a position in an image.",
    "export": "Write a trained network as an ONNX or torch.export program, checked against PyTorch, or as safetensors.",
    "import": "Convert a checkpoint of 2019 or of fastai to a network of this library.",
    "runs": "List the runs in a folder, with their state and scores.",
    "study": "Run a plan of models, data, options and seeds, and compare the results.",
    "bench": "Measure time, memory and FLOPs of ops, layers and networks, compared with standard alternatives.",
    "hub": "Share a trained network: as a folder of safetensors, or on the Hugging Face Hub.",
    "doctor": "Report versions, devices, kernels and missing packages of this machine.",
    "demo": "Train a plain and an attending network on a task of distant glyphs, and show a photo's attention.",
}

# The files of commands that are not in the file of their own name.
FILES = {"summary": "models", "predict": "evaluate", "lr-find": "train", "runs": "train", "hub": "export"}

OF_ALL = "Every command takes --import MODULE (repeatable): a module of your own networks, layers or data."

ALIKE = 0.7  # least likeness of an option that is suggested in place of an unknown one
GROUPS = ("hub", "study")  # their help is the line above; that of other commands is the docstring

# Removed commands and flags, each with what to use instead.
REMOVED: dict[str, str] = {
    "bench data": "use benchmarks/data_loader.py of the repository",
    "explain --points": "draw a row for each point in Python, as docs/explain.md shows",
    "explain --trust": "a .pt2 file has no layers left to explain, give the run that it was exported from",
    "export --int8": "quantise the ONNX file with onnxruntime, as docs/export.md shows",
    "export --measure": "use `attnconv bench models`",
    "export --no-measure": "nothing is measured any more, leave it out",
    "export --data-dir": "it was for --int8, leave it out",
    "train --strategy": "several processes train with DDP, leave it out",
    "lr-find --strategy": "it runs in one process, leave it out",
    "runs --watch": "use `watch attnconv runs FOLDER`",
    "shards": "webdataset writes shards; docs/data.md turns them into a folder of images",
}


def entry() -> NoReturn:
    """The program `attnconv`."""
    leave(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: success, 2: an error that the user can correct, 1: any other failure, 130: Ctrl-C, 143: SIGTERM.
    """
    try:
        return _run(arguments)
    except checks.InputError as error:
        return _fail(str(error), 2)
    except Terminated:
        return _fail("terminated", 143)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("ATTNCONV_TRACEBACK"):
            raise
        text = str(error).strip().partition("\n")[0]
        return _fail(f"{type(error).__name__}: {text} (ATTNCONV_TRACEBACK=1 shows where)", 1)


def _run(arguments: Sequence[str] | None) -> int:
    words, modules = _imports(sys.argv[1:] if arguments is None else arguments)
    if modules:
        from attnconv.extensions import import_modules

        import_modules(modules)
    if words == ["--version"]:  # as doctor, also where no package of [train] is installed
        print(__version__)
    elif words[:1] == ["doctor"] and set(words[1:]) <= {"--json"}:
        from attnconv.cli.doctor import doctor

        doctor(json=len(words) > 1)
    else:
        command, bound = parse(words)
        command(*bound.args, **bound.kwargs)
        if getattr(command, "__name__", "") == "help_print":  # of cyclopts, whose help_epilogue 4.0 lacks
            from attnconv.cli.terminal import note

            note(OF_ALL)
    sys.stdout.flush()  # here, where a broken pipe is no error
    return 0


def _imports(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the command line without --import MODULE, and the modules."""
    words, modules = [], []
    given = iter(arguments)
    for word in given:
        flag, equals, value = word.partition("=")
        if flag != "--import":
            words.append(word)
        elif not (module := value if equals else next(given, "")) or module.startswith("-"):
            raise checks.InputError("--import must name a module, such as --import my_layers")
        else:
            modules.append(module)
    return words, modules


def parse(arguments: Sequence[str] | None) -> tuple[Callable[..., Any], inspect.BoundArguments]:
    """Return the command that ``arguments`` name, and its arguments; InputError if they name none."""
    checks.require("cyclopts", extra="train")
    from cyclopts import App, CycloptsError, Group, Parameter

    _require_not_removed(arguments or ())

    app = App(
        name="attnconv",
        help="Self-attention inside convolutional networks.",
        version=__version__,
        help_format="markdown",
        group_parameters=Group("Parameters", sort_key=0),  # before the groups of `train`
        # Neither --no-json nor --empty-option nor [default: False].
        default_parameter=Parameter(negative=(), show_default=lambda v: None if v in (None, False) else str(v)),
    )
    given = [word for word in arguments or () if not word.startswith("-")]
    for name, text in COMMANDS.items():
        # The line is for the list of commands: here it would replace the docstring.
        line = None if given[:1] == [name] and name not in GROUPS else text
        function = name.replace("-", "_") + "_" * keyword.iskeyword(name)
        app.command(f"attnconv.cli.{FILES.get(name, function)}:{function}", name=name, help=line)
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        text = " ".join(str(error).split())
        see = " ".join(["see attnconv", *(error.command_chain or ()), "--help"])
        if (unused := getattr(error, "unused_tokens", None)) and text.startswith("Unused"):
            of_a_run = f"did you mean --recipe {unused[0]} or --model {unused[0]}?"
            text = f"unexpected argument {unused[0]!r}; {of_a_run if given[:1] in (['train'], ['lr-find']) else see}"
        # cyclopts suggests an option however far it is.
        unknown = re.fullmatch(r"(Unknown option: (\S+))\. Did you mean (\S+)\?", text)
        if unknown and difflib.SequenceMatcher(None, unknown[2], unknown[3]).ratio() < ALIKE:
            text = f"{unknown[1]}; {see}"
        # cyclopts's own suggestion depends on case.
        if one_of := re.fullmatch(r'(Invalid value "(.*)" for .* Choose from: (.*))\. Did you mean ".*"\?', text):
            known = re.findall('"(.*?)"', one_of[3])
            text = f"{one_of[1]}; {checks.nearest(one_of[2], known)}"
        raise checks.InputError(text) from None
    return command, bound


def _require_not_removed(arguments: Sequence[str]) -> None:
    given = [word.partition("=")[0] for word in arguments]
    for removed, instead in REMOVED.items():
        words = removed.split()
        named = [word for word in words if not word.startswith("--")]
        if given[: len(named)] == named and {*words} <= {*given}:
            raise checks.InputError(f"attnconv {removed} was removed; {instead}")


def _fail(message: str, code: int) -> int:
    if code >= 128 and "torch" in sys.modules:
        from attnconv.train.processes import is_first_process

        if not is_first_process():  # one of several processes speaks for all
            return code
    print(f"attnconv: error: {shown(message)}", file=sys.stderr)
    return code
