"""What huggingface_hub raises, in one sentence that says what to do."""

import contextlib
from collections.abc import Iterator

from huggingface_hub import constants, errors

from attnconv import checks


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn what goes wrong in the block into "cannot `doing`: the reason", an InputError."""
    try:
        yield
    except checks.InputError:
        raise
    except Exception as error:  # of the client, of its HTTP library, of the disk
        raise checks.InputError(f"cannot {doing}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Why, as far as the kind of ``error`` says it; else its first line."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and it was not downloaded before"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return "its owner must grant you access first, on its page"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or the token may not see it; `hf auth login` sets another"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, errors.LocalEntryNotFoundError) or _is_connection(error):
        return f"no connection to {constants.ENDPOINT}"
    if isinstance(error, errors.EntryNotFoundError):
        return "it lacks config.json or model.safetensors, so that it is no network of attnconv's save_pretrained"
    if status in (401, 403):
        return f"the Hub refuses the token (HTTP {status}); it needs the right to write, `hf auth login` sets another"
    return checks.first_line(error)


def _is_connection(error: Exception) -> bool:
    """Of the HTTP library, whichever it is: an error of transport, not an answer of the server."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"TransportError", "ConnectionError", "ConnectError", "TimeoutException", "Timeout"})
