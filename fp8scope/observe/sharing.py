"""Which linears read the very same tensor (q/k/v; gate/up), so that it is recorded once."""

from __future__ import annotations

import weakref

from torch import Tensor


class SharedInputs:
    """Recognises a tensor that another module of the same forward has just read.

    A tensor is the same if it is the same live object at the same version: an in-place change
    in between makes it another. Weak references keep nothing alive. (Tensors made under
    `torch.inference_mode` count no versions, so a scan runs under `torch.no_grad`.)
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}

    def owner(self, tensor: Tensor, module: str) -> str:
        """The module that read this tensor first; `module` itself if it is the first."""
        version = tensor._version
        known = self._seen.get(id(tensor))
        if known and known[0]() is tensor and known[1] == version:
            return known[2]
        self._seen[id(tensor)] = (weakref.ref(tensor), version, module)
        return module

    def forget(self) -> None:
        """Start of a new forward."""
        self._seen.clear()
