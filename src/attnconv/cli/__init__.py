"""The command line: one file a subcommand, each imported when it is called, so that `attnconv --help` is quick."""

import inspect
import keyword
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from attnconv import __version__, checks
from attnconv.shown import shown
from attnconv.train.interrupts import Terminated
from attnconv.train.leaving import leave

COMMANDS = {
    "models": "List the networks that can be created by name.",
    "summary": "What a network costs: parameters, multiply-adds, FLOPs, attention memory.",
    "train": "Train a network and leave the run in a folder.",
    "lr-find": "Say which learning rates a run could take.",
    "evaluate": "Score a trained network on validation images.",
    "predict": "Name what is on images, most likely classes first.",
    "explain": "Draw what a position of an image attends to.",
    "export": "Write a trained network as ONNX, torch.export or safetensors, and prove that it answers alike.",
    "import": "Make a checkpoint of 2019 or of fastai one of our networks.",
    "shards": "Put image files into tar files, for file systems that bear no millions of small ones.",
    "runs": "List the runs in a folder: where they stand, and how good they are.",
    "study": "Many runs of a plan: models, data, options and seeds, in one folder.",
    "bench": "Time, memory and FLOPs of ops, layers and networks, beside what one would use otherwise.",
    "hub": "Share a trained network: as a folder of safetensors, or on the Hugging Face Hub.",
    "doctor": "Say what is installed here and what can run.",
    "demo": "Train a plain and an augmented network on digits, side by side.",
}

# Commands ("shards") and flags ("runs --watch") that were removed: the end of a sentence that says what to use.
REMOVED: dict[str, str] = {
    "export --int8": "quantise the ONNX file with onnxruntime, as docs/export.md shows",
    "export --measure": "use `attnconv bench models`",
    "export --no-measure": "nothing is measured any more, leave it out",
    "export --data-dir": "it was for --int8, leave it out",
}


def entry() -> NoReturn:
    """The program `attnconv`."""
    leave(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 2 for what the user can mend, 1 for a failure, 130 or 143 after a signal.

    130 is Ctrl-C, 143 SIGTERM.
    """
    try:
        return _run(arguments)
    except checks.InputError as error:
        return _fail(str(error), 2)
    except Terminated:
        return _fail("terminated", 143)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("ATTNCONV_TRACEBACK"):
            raise
        text = str(error).strip().partition("\n")[0]
        return _fail(f"{type(error).__name__}: {text} (ATTNCONV_TRACEBACK=1 shows where)", 1)


def _run(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:  # and what a broken installation is asked, without any package of [train]
        print(__version__)
    elif words[:1] == ["doctor"] and set(words[1:]) <= {"--json"}:
        from attnconv.cli.diagnosis_text import print_diagnosis

        print_diagnosis(json=len(words) > 1)
    else:
        command, bound = parse(words)
        command(*bound.args, **bound.kwargs)
    sys.stdout.flush()  # here, where a reader that has gone is no error
    return 0


def parse(arguments: Sequence[str] | None) -> tuple[Callable[..., Any], inspect.BoundArguments]:
    """The command that ``arguments`` name, and what it is to be called with; InputError if they name none."""
    checks.require("cyclopts", extra="train")
    from cyclopts import App, CycloptsError

    _require_not_removed(arguments or ())

    app = App(
        name="attnconv",
        help="Self-attention inside convolutional networks.",
        version=__version__,
        help_format="plaintext",  # or <class> would be taken for markup
    )
    for name, text in COMMANDS.items():
        function = name.replace("-", "_") + "_" * keyword.iskeyword(name)
        app.command(f"attnconv.cli.{function}:{function}", name=name, help=text)
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise checks.InputError(" ".join(str(error).split())) from None
    return command, bound


def _require_not_removed(arguments: Sequence[str]) -> None:
    words = {word.partition("=")[0] for word in arguments}
    for removed, instead in REMOVED.items():
        command, *others = removed.split()
        if arguments[:1] == [command] and words.issuperset(others):
            raise checks.InputError(f"attnconv {removed} was removed; {instead}")


def _fail(message: str, code: int) -> int:
    # Of several processes that are stopped together, one says so.
    if code < 128 or "torch" not in sys.modules or _is_first():
        print(f"attnconv: error: {shown(message)}", file=sys.stderr)
    return code


def _is_first() -> bool:
    from attnconv.train.ranks import is_first_process

    return is_first_process()
