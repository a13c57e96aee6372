"""A tensor that is read again later, with a check that nobody has written into it meanwhile."""

from __future__ import annotations

from torch import Tensor

from fp8scope.errors import BadModel


class Untouched:
    """Keeps `tensor` without a copy, as it is now; `reader` names who reads it, for people."""

    def __init__(self, tensor: Tensor, reader: str) -> None:
        self._tensor = tensor.detach()
        self._version = tensor._version
        self._reader = reader

    @property
    def tensor(self) -> Tensor:
        """The tensor, detached. Raises BadModel if it has been written into."""
        if self._tensor._version != self._version:
            raise BadModel(
                f"what {self._reader} reads is written over later in the forward",
                "--sensitivity none goes without the backward pass",
            )
        return self._tensor
