"""What the hub's answers mean: no such name and closed doors are bad input, silence is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fp8scope.errors import BadInput, Missing, one_line


@contextmanager
def hub_refusals(name: str, kind: str, refusal: type[BadInput], otherwise: str) -> Iterator[None]:
    """Turn whatever the hub's client raises about `name`, a `kind` of thing, into one line.

    Raises `refusal` where the hub has no such thing or does not give it to this user, with
    `otherwise` as what to do; Missing where the hub cannot be reached.
    """
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise refusal(
            f"the {kind} {name} is gated: its owners ask you to accept their terms",
            "accept them on its page of the hub, then: hf auth login",
        ) from error
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise refusal(
            f"the hub has no {kind} {name}", f"{otherwise}; for a private one: hf auth login"
        ) from error
    except Exception as error:  # the client lets errors of its HTTP library through
        raise Missing(
            f"the {kind} {name} cannot be fetched from the hub "
            f"({one_line(error.__cause__ or error)})",
            "check the spelling and the network, or give something local",
        ) from error
