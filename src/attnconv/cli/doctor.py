"""attnconv doctor: what is installed here, and what can run."""

from typing import Annotated

from cyclopts import Parameter

from attnconv.cli.diagnosis_text import print_diagnosis


def doctor(*, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Say what is installed here and what can run: versions, extras, devices, kernels, the data folder.

    Parameters
    ----------
    json:
        Print one JSON object.
    """
    print_diagnosis(json=json)
