"""What a module computes, told by the methods that a call of it runs rather than by its exact class."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

#: What a call of a plain layer runs, beside checks of its input.
METHODS = ("__call__", "_call_impl", "__getattr__", "forward", "_conv_forward")
#: What it reads: a class that defines one of them computes it.
TENSORS = ("weight", "bias", "running_mean", "running_var")
#: What is wrong with a lazy layer.
NOT_YET = "not initialised yet; run the model once first"


def class_name(module: object) -> str:
    """Its class as a message names it: in full where it only shares the name of one of PyTorch's, as in QAT."""
    cls = type(module)
    shared = getattr(nn, cls.__name__, cls) is not cls
    return f"{cls.__module__}.{cls.__qualname__}" if shared else cls.__name__


def why_not_kind(module: nn.Module | None, kind: type[nn.Module]) -> str | None:
    """Why a call of ``module`` is not one of a plain ``kind``: "is a ...", to follow the module's path.

    None for ``kind`` itself and for subclasses that keep what a call runs and reads, whatever else they add.
    """
    if module is None:
        return f"is missing, where a {kind.__name__} should be"
    own = next((name for name in METHODS if name in vars(module)), None)
    if own:
        return f"is a {class_name(module)} with its own {own}"
    cls = type(module)
    if cls is kind:
        return None
    if not isinstance(module, kind):
        return f"is a {class_name(module)}, not a {kind.__name__}"
    if isinstance(module, LazyModuleMixin):
        return f"is a {class_name(module)}, {NOT_YET}"
    for name in METHODS:
        if getattr(cls, name, None) is not getattr(kind, name, None):
            return f"is a {class_name(module)}, which overrides the {name} of {kind.__name__}"
    computed = next((name for name in TENSORS if hasattr(cls, name)), None)
    return f"is a {class_name(module)}, which computes its {computed}" if computed else None
