"""HRNet's modules, timm's and the official pose network's: branches, then the exchange. Classes come by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ...nn import structure
from ...nn.base import Fused
from ...nn.hrnet import HRFuseForward, rows_of
from ...nn.kinds import why_not_kind
from ...nn.mixing import first_conv


class HighResolutionModuleForward(HRFuseForward):
    """HighResolutionModule with the upsampling among its layers: nearest, as for poses and classification."""

    #: What the own forward ends every sum with, by the name that one or the other class has for it.
    activations: ClassVar[tuple[str, ...]] = ("fuse_act", "relu")

    @classmethod
    def rows(cls, module: Any) -> list[list[Any]]:
        return rows_of(module.fuse_layers)

    @classmethod
    def why_not(cls, module: Any) -> str | None:
        branches, rows = module._modules.get("branches"), module._modules.get("fuse_layers")
        lists = isinstance(branches, nn.ModuleList) and isinstance(rows, nn.ModuleList)
        if not lists or not all(isinstance(row, nn.ModuleList) and len(row) == len(branches) for row in rows):
            return "branches and fuse_layers are not a list, and a list of lists as long"
        act = next((module._modules[name] for name in cls.activations if name in module._modules), None)
        reason = why_not_kind(act, nn.ReLU)
        if reason:
            return f"its last step {reason}"
        return super().why_not(module)

    @classmethod
    def why_not_path(cls, path: str, layer: Any, steps: int) -> str | None:
        if steps <= 0:
            return super().why_not_path(path, layer, steps)
        reason = structure.why_not_sequence(path, layer, nn.Conv2d, nn.Module, nn.Upsample)
        reason = reason or structure.why_not_conv(f"{path}.0", layer[0])
        if reason is None and (layer[2].mode, layer[2].scale_factor) != ("nearest", float(1 << steps)):
            reason = f"{path}.2 is {layer[2]}, not nearest by {1 << steps}"
        return reason

    @classmethod
    def example(cls, module: Any, new: Callable[[int, int], Tensor]) -> Any:
        return [new(first_conv(branch).in_channels, 4 << i) for i, branch in enumerate(module.branches)]

    def maps(self, x: Any) -> Sequence[Tensor]:
        branches: Any = self.branches
        return [branch(m) for branch, m in zip(branches, x, strict=True)]

    @staticmethod
    def follows(fine: Tensor, coarse: Tensor) -> bool:
        """Whether ``coarse`` upsampled by a factor of 2 has the size of ``fine``; the plain sum refuses another."""
        return all(n == 2 * m for n, m in zip(fine.shape[2:], coarse.shape[2:], strict=True))


#: Adapters by the module and the name of the class.
CLASSES: dict[tuple[str, str], type[Fused]] = {
    ("timm.models.hrnet", "HighResolutionModule"): HighResolutionModuleForward,
    ("models.pose_hrnet", "HighResolutionModule"): HighResolutionModuleForward,
}
