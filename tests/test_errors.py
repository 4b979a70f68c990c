"""Bad arguments of every op: the error's type, and a message that names argument, got, expected and, where one
exists, the fix. Nothing is launched before they are raised."""

import warnings
from typing import Any

import pytest
import torch

from pyramid_kernels import functional
from pyramid_kernels.ops import all_ops
from pyramid_kernels.ops.upsample_cross_entropy import checks
from pyramid_kernels.testing import count_launches

X = torch.zeros(2, 4, 6, 5)
W1, W3, V = torch.zeros(3, 4, 1, 1), torch.zeros(3, 4, 3, 3), torch.ones(3)
D3 = torch.zeros(4, 1, 3, 3)
NORM = (V, V, V, V, 1e-5)
LABELS = torch.zeros(2, 12, 10, dtype=torch.int64)
MASK = torch.arange(240).view(2, 12, 10) % 4
ONE_HOT = torch.nn.functional.one_hot(MASK, 4).permute(0, 3, 1, 2)
COLOURS = torch.arange(720).view(2, 3, 12, 10).mul(37).to(torch.uint8)

#: A good call of every op, which one changed argument spoils.
GOOD: dict[str, dict[str, Any]] = {
    "pyramid_pool": {"x": X, "bins": (1, 2)},
    "upsample_merge": {"maps": [X, torch.zeros(2, 3, 2, 2)]},
    "pyramid_project": {"pooled": torch.zeros(2, 4, 5), "grids": [(1, 1), (2, 2)], "weights": [W1, W1]},
    "pyramid_conv": {"maps": [X, torch.zeros(2, 3, 2, 2)], "weight": torch.zeros(3, 7, 3, 3)},
    "dilated_branches": {"x": X, "weights": [W1, W3], "dilations": (1, 2)},
    "dilated_branches_train": {
        "x": X, "weights": [W1, W3], "dilations": (1, 2), "gamma": [V, V], "beta": [V, None], "eps": [1e-5, 1e-5],
    },
    "separable_pyramid": {"x": X, "bins": (1, 2), "depthwise": [D3, D3], "pointwise": [W1, W1], "bias": [V, None]},
    "max_pool_pyramid": {"x": X},
    "upsample_cross_entropy": {"logits": X, "target": LABELS},
    "upsample_argmax": {"logits": X, "size": (12, 10)},
    "channel_gate": {"x": X, "weight1": W1, "weight2": torch.zeros(4, 3)},
    "aspp": {
        "x": X, "weights": [W1, W3], "project_weight": torch.zeros(3, 6, 1, 1), "dilations": (1, 2),
        "norms": [NORM, NORM], "project_norm": NORM,
    },
}  # fmt: skip

HALF, META = X.half(), torch.zeros(2, 4, 6, 5, device="meta")
Row = tuple[str, dict[str, Any], type[Exception], str]

#: (op, what is changed, error, its message from the start, "..." for what does not matter)
BAD: list[Row] = [
    ("pyramid_pool", {"x": [X]}, TypeError, "x must be a torch.Tensor, got list"),
    ("pyramid_pool", {"x": X.long()}, TypeError, "x must be float16, ...got torch.int64; convert it with x.float()"),
    ("pyramid_pool", {"x": X[0]}, ValueError, "x must be 4-D (N, C, H, W), got 3-D (4, 6, 5); add a batch dimension"),
    ("pyramid_pool", {"x": X[:, :, :0]}, ValueError, "x must have C, H and W of at least 1, got (2, 4, 0, 5)"),
    ("pyramid_pool", {"bins": ()}, ValueError, "bins must not be empty; give at least one bin"),
    ("pyramid_pool", {"bins": 3}, TypeError, "bins must be a list or tuple of ints or (rows, cols) pairs, got int"),
    ("pyramid_pool", {"bins": (1, 0)}, ValueError, "bins must be positive, got 0"),
    ("pyramid_pool", {"bins": (1, -2)}, ValueError, "bins must be positive, got -2"),
    ("pyramid_pool", {"bins": (1, 2.0)}, TypeError, "bins must hold ints or (rows, cols) pairs of ints, got 2.0"),
    ("pyramid_pool", {"bins": (1, (2, 2, 2))}, TypeError, "bins must hold ints or (rows, cols) pairs of ints, got (2"),
    ("pyramid_pool", {"mode": "mean"}, ValueError, "mode must be one of 'avg', 'max', got 'mean'"),
    ("pyramid_pool", {"windows": "same"}, ValueError, "windows must be one of 'adaptive', 'fixed', 'ceil', got 'same'"),
    ("pyramid_pool", {"bins": (6,), "windows": "fixed"}, ValueError,
     "bins: windows='fixed' gives a window of size 0 for bin 6 on a map of size 5; use bins of at most 5"),
    ("pyramid_pool", {"bins": (4,), "windows": "ceil"}, ValueError,
     "bins: windows='ceil' needs padding 2 for a window of 2 (bin 4 on a map of size 5)...use windows='adaptive'"),
    ("upsample_merge", {"maps": X}, TypeError, "maps must be a list or tuple of (N, C, H, W) tensors, got Tensor; use"),
    ("upsample_merge", {"maps": []}, ValueError, "maps must not be empty; give at least one"),
    ("upsample_merge", {"maps": [X, X[0]]}, ValueError, "maps[1] must be 4-D (N, C, H, W), got 3-D"),
    ("upsample_merge", {"maps": [X, X.int()]}, TypeError, "maps[1] must be float16, ...got torch.int32"),
    ("upsample_merge", {"maps": [X, HALF]}, TypeError, "maps[1] must have the dtype of maps[0], got torch.float16 and"),
    ("upsample_merge", {"maps": [X, META]}, ValueError, "maps[1] must be on the device of maps[0], got meta and cpu;"),
    ("upsample_merge", {"maps": [X, X[:1]]}, ValueError, "maps[1] must have the N of maps[0] for merge='concat', got"),
    ("upsample_merge", {"merge": "sum"}, ValueError, "maps[1] must have the C of maps[0] for merge='sum', got (2, 3"),
    ("upsample_merge", {"merge": "max"}, ValueError, "merge must be one of 'concat', 'sum', got 'max'"),
    ("upsample_merge", {"mode": "cubic"}, ValueError, "mode must be one of 'bilinear', 'nearest', got 'cubic'"),
    ("upsample_merge", {"mode": "nearest", "align_corners": True}, ValueError, "align_corners must be False with"),
    ("upsample_merge", {"size": 4}, TypeError, "size must be (H, W) or None, got 4"),
    ("upsample_merge", {"size": (4, 4.0)}, TypeError, "size must hold two ints, got (4, 4.0)"),
    ("upsample_merge", {"size": (4, 0)}, ValueError, "size must be positive, got (4, 0)"),
    ("upsample_merge", {"scale": V}, ValueError, "scale must have shape (7,), one value per output channel, got (3,)"),
    ("upsample_merge", {"shift": torch.ones(7).double()}, TypeError, "shift must be float32 or have the dtype of x"),
    ("upsample_merge", {"activation": "gelu"}, ValueError, "activation must be one of None, 'relu', got 'gelu'"),
    ("pyramid_project", {"pooled": X}, ValueError, "pooled must be (N, C, 5), 5 being the cells of grids...got (2, 4"),
    ("pyramid_project", {"pooled": torch.zeros(2, 4, 6)}, ValueError, "pooled must be (N, C, 5), ...pass the result"),
    ("pyramid_project", {"pooled": torch.zeros(2, 4, 5).int()}, TypeError, "pooled must be float16, "),
    ("pyramid_project", {"grids": []}, ValueError, "grids must not be empty"),
    ("pyramid_project", {"weights": [W1]}, ValueError, "weights must have one entry per level (2), got 1"),
    ("pyramid_project", {"weights": W1}, TypeError, "weights must be a list or tuple, one entry per level, got Tensor"),
    ("pyramid_project", {"weights": [W1, W3]}, ValueError, "weights[1] must be (O, C) or (O, C, 1, 1) with pooled's C"),
    ("pyramid_project", {"weights": [W1, W1.half()]}, TypeError, "weights[1] must have the dtype of pooled, got"),
    ("pyramid_project", {"scale": [V, V[:2]]}, ValueError, "scale[1] must have shape (3,), ...got (2,)"),
    ("pyramid_project", {"scale": [V, V], "norm": [NORM, NORM]}, ValueError, "norm"),
    ("pyramid_project", {"activation": "gelu"}, ValueError, "activation must be one of None, 'relu', got 'gelu'"),
    ("pyramid_conv", {"maps": X}, TypeError, "maps must be a list or tuple of (N, C, H, W) tensors, got Tensor; use"),
    ("pyramid_conv", {"maps": []}, ValueError, "maps must not be empty; give at least one"),
    ("pyramid_conv", {"maps": [X, X[0]]}, ValueError, "maps[1] must be 4-D (N, C, H, W), got 3-D"),
    ("pyramid_conv", {"maps": [X, X.int()]}, TypeError, "maps[1] must be float16, ...got torch.int32"),
    ("pyramid_conv", {"maps": [X, HALF[:, :3]]}, TypeError, "maps[1] must have the dtype of maps[0], got"),
    ("pyramid_conv", {"maps": [X, META[:, :3]]}, ValueError, "maps[1] must be on the device of maps[0], got meta and"),
    ("pyramid_conv", {"maps": [X, X[:1, :3]]}, ValueError, "maps[1] must have the N of maps[0], got (1, 3, 6, 5) and"),
    ("pyramid_conv", {"maps": [X, X]}, ValueError, "weight must have 8 input channels, the sum of the maps', got 7"),
    ("pyramid_conv", {"weight": torch.zeros(3, 7)}, ValueError, "weight must be (O, C, 1, 1) or (O, C, 3, 3), ...got"),
    ("pyramid_conv", {"weight": torch.zeros(3, 7, 2, 2)}, ValueError, "weight must be (O, C, 1, 1) or ...(3, 7, 2, 2)"),
    ("pyramid_conv", {"weight": torch.zeros(3, 7, 5, 5)}, ValueError, "weight must be (O, C, 1, 1) or ...(3, 7, 5, 5)"),
    ("pyramid_conv", {"weight": torch.zeros(3, 7, 3, 1)}, ValueError, "weight must be (O, C, 1, 1) or ...(3, 7, 3"),
    ("pyramid_conv", {"weight": torch.zeros(3, 7, 1, 1).half()}, TypeError, "weight must have the dtype of maps[0]"),
    ("pyramid_conv", {"weight": None}, TypeError, "weight must be a torch.Tensor, got NoneType"),
    ("pyramid_conv", {"bias": V[:2]}, ValueError, "bias must have shape (3,), one value per output channel, got (2,)"),
    ("pyramid_conv", {"scale": V.double()}, TypeError, "scale must be float32 or have the dtype of x"),
    ("pyramid_conv", {"size": (4, 0)}, ValueError, "size must be positive, got (4, 0)"),
    ("pyramid_conv", {"mode": "cubic"}, ValueError, "mode must be one of 'bilinear', 'nearest', got 'cubic'"),
    ("pyramid_conv", {"mode": "nearest", "align_corners": True}, ValueError, "align_corners must be False with"),
    ("pyramid_conv", {"activation": "gelu"}, ValueError, "activation must be one of None, 'relu', got 'gelu'"),
    ("dilated_branches", {"x": X[0]}, ValueError, "x must be 4-D (N, C, H, W), got 3-D"),
    ("dilated_branches", {"x": X.int()}, TypeError, "x must be float16, ...got torch.int32; convert it with x.float()"),
    ("dilated_branches", {"x": X[:, :3]}, ValueError, "weights[0] must be (O, 3, 1, 1) or (O, 3, 3, 3) for x with 3"),
    ("dilated_branches", {"x": HALF}, TypeError, "weights[0] must have the dtype of x, got torch.float32 and"),
    ("dilated_branches", {"weights": [W1, W3.to("meta")]}, ValueError, "weights[1] must be on the device of x, got"),
    ("dilated_branches", {"weights": []}, ValueError, "weights must be a non-empty list of tensors, one per branch"),
    ("dilated_branches", {"weights": [W1, torch.zeros(3, 4, 5, 5)]}, ValueError, "weights[1] must be (O, 4, 1, 1) or"),
    ("dilated_branches", {"dilations": (1,)}, ValueError, "dilations must have one entry per branch (2), got 1"),
    ("dilated_branches", {"dilations": (1, 0)}, ValueError, "dilations must be positive, got 0 for branch 1"),
    ("dilated_branches", {"dilations": (1, 2.0)}, TypeError, "dilations must be ints, got 2.0 for branch 1"),
    ("dilated_branches", {"scale": [V]}, ValueError, "scale must have one entry per branch (2), got 1"),
    ("dilated_branches", {"shift": [V, V[:1]]}, ValueError, "shift[1] must have shape (3,), ...got (1,)"),
    ("dilated_branches", {"scale": [V, None], "norm": [NORM, NORM]}, ValueError, "norm must not be given together"),
    ("dilated_branches", {"norm": [NORM, NORM[:4]]}, ValueError, "norm[1] must have one entry per value of (gamma"),
    ("dilated_branches", {"activation": "silu"}, ValueError, "activation must be one of None, 'relu', got 'silu'"),
    ("dilated_branches", {"merge": "mean"}, ValueError, "merge must be one of 'concat', 'sum', got 'mean'"),
    ("dilated_branches", {"weights": [W1, W3[:2]], "merge": "sum"}, ValueError, "weights must have equal output chan"),
    ("dilated_branches", {"image_bias": torch.zeros(2, 3, 1)}, ValueError, "image_bias must be (N, O, k*k) = (2, 3"),
    ("dilated_branches_train", {"gamma": [V]}, ValueError, "gamma must have one entry per branch (2), got 1"),
    ("dilated_branches_train", {"beta": [V, V[:2]]}, ValueError, "beta[1] must have shape (3,), ...got (2,)"),
    ("dilated_branches_train", {"eps": 1e-5}, TypeError, "eps must be a list or tuple, one entry per branch, got"),
    ("dilated_branches_train", {"x": X[:1, :, :1, :1]}, ValueError,
     "Expected more than 1 value per channel when training, got input size torch.Size([1, 3, 1, 1])"),
    ("separable_pyramid", {"x": X.int()}, TypeError, "x must be float16, ...got torch.int32; convert it with x"),
    ("separable_pyramid", {"bins": (1, 6)}, ValueError,
     "bins: windows='fixed' gives a window of size 0 for bin 6 on a map of size 5; use bins of at most 5"),
    ("separable_pyramid", {"windows": "same"}, ValueError, "windows must be one of 'adaptive', 'fixed', 'ceil', got"),
    ("separable_pyramid", {"depthwise": [D3]}, ValueError, "depthwise must have one entry per level (2), got 1"),
    ("separable_pyramid", {"depthwise": [D3, W3]}, ValueError, "depthwise[1] must be (C, 1, 3, 3) with x's C = 4, got"),
    ("separable_pyramid", {"pointwise": W1}, TypeError, "pointwise must be a list or tuple, one entry per level, got"),
    ("separable_pyramid", {"pointwise": [W1, W3]}, ValueError, "pointwise[1] must be (O, C, 1, 1) with x's C = 4, got"),
    ("separable_pyramid", {"pointwise": [W1, W1.half()]}, TypeError, "pointwise[1] must have the dtype of x, got"),
    ("separable_pyramid", {"bias": [V, V[:2]]}, ValueError, "bias[1] must have shape (3,), ...got (2,)"),
    ("separable_pyramid", {"bias": [V]}, ValueError, "bias must have one entry per level (2), got 1"),
    ("max_pool_pyramid", {"x": X[0]}, ValueError, "x must be 4-D (N, C, H, W), got 3-D (4, 6, 5); add a batch dimens"),
    ("max_pool_pyramid", {"x": X.int()}, TypeError, "x must be float16, ...got torch.int32; convert it with x.float()"),
    ("max_pool_pyramid", {"kernel_sizes": 5}, TypeError, "kernel_sizes must be a list or tuple of odd ints, got int"),
    ("max_pool_pyramid", {"kernel_sizes": []}, ValueError, "kernel_sizes must not be empty; give at least one, such"),
    ("max_pool_pyramid", {"kernel_sizes": (5, 9.0)}, TypeError, "kernel_sizes must hold ints, got (5, 9.0)"),
    ("max_pool_pyramid", {"kernel_sizes": (4, 9)}, ValueError, "kernel_sizes must be odd and positive, got (4, 9)"),
    ("max_pool_pyramid", {"kernel_sizes": (-5, 9)}, ValueError, "kernel_sizes must be odd and positive, got (-5, 9)"),
    ("max_pool_pyramid", {"kernel_sizes": (13, 9, 5)}, ValueError,
     "kernel_sizes must ascend, got (13, 9, 5); order='descending' puts the largest window first"),
    ("max_pool_pyramid", {"kernel_sizes": (5, 9, 13), "cascade": True}, ValueError,
     "kernel_sizes are the pools in series where cascade=True, and must be equal, got (5, 9, 13); use (5, 5, 5)"),
    ("max_pool_pyramid", {"order": "x-last"}, ValueError, "order must be one of 'ascending', 'descending', got 'x-"),
    ("upsample_cross_entropy", {"logits": X[0]}, ValueError, "logits must be 4-D (N, C, H, W), got 3-D"),
    ("upsample_cross_entropy", {"logits": X.long()}, TypeError, "logits must be float16, ...got torch.int64"),
    ("upsample_cross_entropy", {"target": None}, TypeError, "target must be a torch.Tensor, got NoneType"),
    *[("upsample_cross_entropy", {"target": target}, TypeError, f"target must hold class indices in int64, ...{hint}")
      for target, hint in (
        (LABELS.float(), "float32; convert indices with target.long(), and labels / 255, as ToTensor makes them, with "
         "(target * 255).round().long()"),
        (MASK.float(), "float32; convert it with target.long()"),
        (MASK / 255, "float32; convert labels / 255, as ToTensor makes them, with (target * 255).round().long()"),
        (MASK[:, None].double() / 255, "with (target * 255).round().long().squeeze(1)"),
        (MASK + 0.25, "its values are no whole numbers, resize maps of labels with mode='nearest'"),
        (LABELS.bool(), "bool; convert it with target.long()"),
        (MASK.to(torch.int8), "int8; convert it with target.long()"),
        (MASK.float().to("meta"), "convert indices with target.long(), and labels / 255"),
        (ONE_HOT.float(), "one-hot maps are not supported, target.argmax(1) takes the class"),
        (ONE_HOT.bool(), "one-hot maps are not supported, target.long().argmax(1) takes the class"),
        ((ONE_HOT * 3).float().softmax(1), "class probabilities and one-hot maps are not supported"),
        (COLOURS / 255, "a mask of colours has no classes, replace each colour by its class"),
    )],
    *[("upsample_cross_entropy", {"target": target}, ValueError, f"target must be 3-D (N, H, W), got ...{hint}")
      for target, hint in (
        (LABELS[:, None], "4-D (2, 1, 12, 10); use target.squeeze(1)"),
        (LABELS[..., None], "4-D (2, 12, 10, 1); use target.squeeze(3)"),
        (LABELS[0], "2-D (12, 10); use target.unsqueeze(0)"),
        (ONE_HOT, "one-hot maps are not supported, target.argmax(1) takes the class"),
        (ONE_HOT.permute(0, 2, 3, 1), "one-hot maps are not supported, target.argmax(3) takes the class"),
        (COLOURS, "a mask of colours has no classes, replace each colour by its class; PIL's mode 'P' holds classes"),
        (COLOURS.permute(0, 2, 3, 1), "a mask of colours has no classes"),
        (torch.zeros_like(COLOURS), "a mask of colours has no classes"),
        (MASK[:, None].expand(2, 3, 12, 10), "4-D (2, 3, 12, 10); use target.select(1, 0)"),
    )],
    *[("upsample_cross_entropy", {"logits": torch.zeros(2, classes, 6, 5), "target": target}, IndexError,
       f"target must be from 0 to ...{hint}")
      for classes, target, hint in (
        (2, 255 * MASK.clamp(max=1), "a mask of 0 and 255 has the classes target // 255"),
        (4, torch.where(MASK == 3, 255, MASK), "where 255 marks pixels without a label, give ignore_index=255"),
        (4, MASK + 1, "labels that start at 1 are classes less 1"),
    )],
    ("upsample_cross_entropy", {"target": LABELS[:1]}, ValueError,
     "target must have the N of logits, got (1, 12, 10)"),
    ("upsample_cross_entropy", {"target": LABELS[:, :0]}, ValueError, "target must have H and W of at least 1, got"),
    ("upsample_cross_entropy", {"target": LABELS.to("meta")}, ValueError,
     "target must be on the device of logits, got"),
    ("upsample_cross_entropy", {"weight": V}, ValueError,
     "weight must have shape (4,), one value per class, got (3,)"),
    ("upsample_cross_entropy", {"weight": torch.ones(4).double()}, TypeError,
     "weight must be float32 or have the dtype "
     "of logits (torch.float32), got torch.float64"),
    ("upsample_cross_entropy", {"ignore_index": 2.0}, TypeError, "ignore_index must be an int, got 2.0"),
    ("upsample_cross_entropy", {"label_smoothing": 1.5}, ValueError,
     "label_smoothing must be between 0 and 1, got 1.5"),
    ("upsample_cross_entropy", {"reduction": "avg"}, ValueError,
     "reduction must be one of 'mean', 'sum', 'none', got"),
    ("upsample_argmax", {"logits": X[0]}, ValueError, "logits must be 4-D (N, C, H, W), got 3-D"),
    ("upsample_argmax", {"size": 4}, TypeError, "size must be (H, W), got 4"),
    ("upsample_argmax", {"size": (4, 0)}, ValueError, "size must be positive, got (4, 0)"),
    ("upsample_argmax", {"dtype": torch.float32}, ValueError, "dtype must be one of torch.uint8, torch.int16, "),
    ("upsample_argmax", {"logits": torch.zeros(1, 257, 2, 2)}, ValueError,
     "dtype must hold 257 classes, got torch.uint8"),
    ("channel_gate", {"x": X[0]}, ValueError, "x must be 4-D (N, C, H, W), got 3-D"),
    ("channel_gate", {"x": HALF}, TypeError, "weight1 must have the dtype of x, got torch.float32 and torch.float16"),
    ("channel_gate", {"weight1": None}, TypeError, "weight1 must be a torch.Tensor, got NoneType"),
    ("channel_gate", {"weight1": W3}, ValueError, "weight1 must be (K, C), here (3, 4) or...got (3, 4, 3, 3)"),
    ("channel_gate", {"weight1": torch.tensor(1.0)}, ValueError, "weight1 must be (K, C), ...got ()"),
    ("channel_gate", {"weight2": None}, ValueError, "weight1 must be (C, C) without weight2, here (4, 4) or...(3, 4"),
    ("channel_gate", {"weight2": W1}, ValueError, "weight2 must be (C, K) with weight1's K, here (4, 3) or...(3, 4"),
    ("channel_gate", {"bias1": V[:2]}, ValueError, "bias1 must have shape (3,), one value per output channel, got (2"),
    ("channel_gate", {"bias2": V}, ValueError, "bias2 must have shape (4,), one value per output channel, got (3,)"),
    ("channel_gate", {"weight1": torch.zeros(4, 4), "weight2": None, "bias2": torch.ones(4)}, ValueError,
     "bias2 must be None without weight2, got a tensor; give weight2 as well"),
    ("channel_gate", {"scale1": V.double()}, TypeError, "scale1 must be float32 or have the dtype of x"),
    ("channel_gate", {"hidden_activation": "gelu"}, ValueError,
     "hidden_activation must be one of None, 'relu', 'silu', got 'gelu'"),
    ("channel_gate", {"gate_activation": "tanh"}, ValueError,
     "gate_activation must be one of 'sigmoid', 'hardsigmoid', got 'tanh'"),
    ("channel_gate", {"norm1": NORM, "shift1": V}, ValueError, "norm1 must not be given together with scale1"),
    ("channel_gate", {"norm1": NORM[:4]}, ValueError, "norm1"),
    ("aspp", {"x": X[0]}, ValueError, "x must be 4-D (N, C, H, W), got 3-D"),
    ("aspp", {"norms": [NORM]}, ValueError, "norm"),
    ("aspp", {"pool_weight": W1}, ValueError, "pool_weight and pool_norm must be given together, got only one"),
    ("aspp", {"project_weight": torch.zeros(3, 7, 1, 1)}, ValueError, "project_weight must be (O, 6, 1, 1) or (O, 6"),
    ("aspp", {"pool_weight": W3, "pool_norm": NORM}, ValueError, "pool_weight must be (O, 4, 1, 1), got (3, 4, 3, 3)"),
]  # fmt: skip


@pytest.mark.parametrize("op,change,error,message", BAD, ids=[f"{row[0]}-{i}" for i, row in enumerate(BAD)])
def test_message(op: str, change: dict[str, Any], error: type[Exception], message: str) -> None:
    with count_launches() as launches, pytest.raises(error) as caught:
        getattr(functional, op)(**GOOD[op] | change, backend="triton")
    start, *rest = message.split("...")
    assert str(caught.value).startswith(start)
    assert all(part in str(caught.value) for part in rest)
    assert not launches


@pytest.mark.parametrize("op", list(all_ops()))
def test_the_good_call_is_good_and_an_unknown_backend_is_not(op: str) -> None:
    getattr(functional, op)(**GOOD[op], backend="reference")
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'cuda', .*, got 'fast'"):
        getattr(functional, op)(**GOOD[op], backend="fast")


@pytest.mark.parametrize("op", list(all_ops()))
def test_bytes_are_not_merely_converted(op: str) -> None:
    """An image of 0..255 whose dtype alone is changed is taken without a word, and all that follows is wrong."""
    name, good = next(iter(GOOD[op].items()))
    given = [t.byte() for t in good] if isinstance(good, list) else good.byte()
    with pytest.raises(TypeError, match="an image to 0..1, then normalised with the mean and std that the model was"):
        getattr(functional, op)(**GOOD[op] | {name: given})


@pytest.mark.parametrize("op", list(all_ops()))
def test_every_op_has_bad_calls(op: str) -> None:
    assert sum(row[0] == op for row in BAD) >= 4


FIXES = {
    "(target * 255).round().long()": MASK / 255,
    "(target * 255).round().long().squeeze(3)": MASK[..., None].double() / 255,
    "target.long()": MASK.to(torch.int8),
    "target.long().argmax(1)": ONE_HOT.bool(),
    "target.argmax(3)": ONE_HOT.permute(0, 2, 3, 1),
    "target.select(1, 0)": MASK[:, None].expand(2, 3, 12, 10),
    "target.squeeze(1)": MASK[:, None],
}


@pytest.mark.parametrize("fix", FIXES)
def test_a_hint_gives_the_labels_back(fix: str) -> None:
    """What the message says, done, is the map of labels that was meant."""
    with pytest.raises((TypeError, ValueError)) as caught:
        functional.upsample_cross_entropy(X, FIXES[fix])
    assert fix in str(caught.value) and "\n" not in str(caught.value)
    assert torch.equal(eval(fix, {"target": FIXES[fix]}), MASK)


@pytest.mark.parametrize(
    "logits,target,exchanged",
    [
        ((64, 128), (1024, 512), True),
        ((60, 107), (854, 480), True),
        ((33, 44), (353, 265), True),
        ((64, 128), (512, 1024), False),
        ((64, 64), (512, 512), False),
        ((32, 33), (264, 256), False),
        ((64, 128), (512, 512), False),
        ((64, 128), (128, 64), True),
        ((3, 4), (6, 5), False),
        ((8, 16), (60, 128), False),
    ],
)
def test_a_target_with_its_sides_exchanged_is_said_once(
    logits: tuple[int, int], target: tuple[int, int], exchanged: bool
) -> None:
    checks._warn_exchanged.cache_clear()
    z, t = torch.zeros(1, 3, *logits), torch.zeros(1, *target, dtype=torch.uint8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            functional.upsample_cross_entropy(z, t)
    said = [str(w.message) for w in caught]
    assert len(said) == exchanged and all("H and W look exchanged" in message for message in said)
