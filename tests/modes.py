"""What runs while a mode is on."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Seen(TorchDispatchMode):
    """Names of the functions that run, and their tensors; ``inside``: of what the package's operators run as well."""

    def __init__(self, inside: bool = False) -> None:
        super().__init__()
        self.inside = inside
        self.names: list[str] = []
        self.tensors: list[tuple[tuple[int, ...], torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside and func.namespace == "pyramid_kernels":
            with self:
                return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        self.tensors += [(tuple(t.shape), t.dtype) for t in tree_leaves(result) if isinstance(t, Tensor)]
        return result

    def builds(self, *shape: int) -> bool:
        """Whether some tensor ends in ``shape``."""
        return any(seen[-len(shape) :] == shape for seen, _ in self.tensors)
