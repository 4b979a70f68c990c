"""The README's table of systems: what of each has passed the tests, and what it measured.

A cell names a module, a network, an op or a library only where the tests behind it have passed: ``cells`` reads the ids
that a whole run of the suite has passed, ``record`` keeps what it found in ``results/systems.json``; the suite fails
where its own run and that file differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results" / "systems.json"
COLUMNS = ("module", "model", "forward", "backward", "CUDA", "Triton", "adapters")
Cells = dict[str, dict[str, str]]

NN = r"test_nn\.py::test_agrees\["
PYRAMIDS = r"test_nn_pyramids\.py::test_equals_its_reference\["
HEADS = r"test_heads\.py::test_equals_its_reference\["
GATES = r"test_gates\.py::test_equals_its_reference\["
SPP = r"test_spp\.py::test_agrees_with_its_plain_form\["
ORACLE = r"test_ops\.py::test_oracle\["


class System(NamedTuple):
    """Names of its modules and adapters, each with the beginning of its tests' ids; its networks; its ops.

    ``rows``: what ``bench`` measured of it, unless that is the modules.
    """

    modules: Mapping[str, str]
    models: tuple[str, ...]
    ops: tuple[str, ...]
    adapters: Mapping[str, str] = {}
    rows: tuple[str, ...] = ()


SYSTEMS = {
    "SPP (SPP-net)": System(
        {"SpatialPyramidPooling": PYRAMIDS + "spp-"}, ("SPPNet",), ("pyramid_pool",),
    ),
    "SPP, SPPF (YOLO)": System(
        {"SPP": SPP + "spp-", "SPPF": SPP + "sppf-"}, (), ("max_pool_pyramid",),
        {
            "ultralytics": r"test_spp\.py::test_ultralytics_own_networks",
            "YOLOv5": r"test_spp\.py::test_fuses_and_undoes_exactly\[sppf-old-",
            "YOLOX": r"test_spp\.py::test_fuses_and_undoes_exactly\[yolox-",
            "mmdetection": r"test_spp\.py::test_fuses_and_undoes_exactly\[mmdet-",
        },
    ),
    "LargeFOV (DeepLab v1)": System(
        {"LargeFOV": PYRAMIDS + "largefov-"}, ("DeepLabV1",), ("dilated_branches",),
    ),
    "ASPP, summed (DeepLab v2)": System(
        {"ASPPv2": PYRAMIDS + "aspp-v2-"}, ("DeepLabV2",), ("dilated_branches",),
        {
            "kazuto1011": r"test_fuse_networks\.py::test_agrees\[kazuto",
            "AdaptSegNet": r"test_fuse_networks\.py::test_agrees\[classifier-module",
        },
    ),
    "ASPP (DeepLab v3)": System(
        {"ASPP": NN + "aspp-"}, ("DeepLabV3",), ("pyramid_pool", "dilated_branches", "dilated_branches_train", "aspp"),
        {
            "torchvision": r"test_fuse\.py::test_agrees\[torchvision-",
            "smp": r"test_fuse\.py::test_agrees\[smp-(eval|train)",
            "transformers (MobileViT, MobileNetV2)": r"test_fuse_networks\.py::test_agrees\[mobile",
        },
    ),
    "DeepLab v3+": System(
        {"DeepLabV3PlusDecoder": HEADS + "decoder-"}, ("DeepLabV3Plus",), ("aspp", "pyramid_conv"),
        {
            "smp": r"test_fuse_heads\.py::test_swaps_and_undoes_exactly\[smp-deeplabv3plus",
            "VainF": r"test_fuse_repositories\.py::test_agrees\[vainf-",
        },
    ),
    "PPM (PSPNet)": System(
        {"PPM": NN + "ppm-", "PSPHead": HEADS + "psp-"}, ("PSPNet",),
        ("pyramid_pool", "pyramid_project", "upsample_merge", "pyramid_conv"),
        {
            "smp": r"test_fuse_heads\.py::test_swaps_and_undoes_exactly\[smp-psp",
            "semseg (registered)": r"test_fuse\.py::test_registered_classes_are_fused_and_pickled\[semseg-ppm",
            "mmsegmentation": r"test_fuse_repositories\.py::test_agrees\[psp-",
        },
    ),
    "DSPP, MDSPP (SPEED)": System(
        {"DSPP": PYRAMIDS + "dspp-", "MDSPP": PYRAMIDS + "mdspp-"}, ("SPEED",), ("separable_pyramid",),
        {"Keras files": r"test_speed\.py::test_a_file_that_keras_wrote"},
    ),
    "ARM, FFM (BiSeNet)": System(
        {"AttentionRefinementModule": GATES + "arm-", "FeatureFusionModule": GATES + "ffm-"}, ("BiSeNet",),
        ("channel_gate", "pyramid_conv"),
        {
            "CoinCheung": r"test_fuse_gates\.py::test_fused\[coincheung-",
            "STDC-Seg": r"test_fuse_gates\.py::test_fused\[stdc-seg-",
            "ooooverflow": r"test_fuse_gates\.py::test_fused\[ooooverflow-",
            "mmsegmentation": r"test_fuse_gates\.py::test_fused\[mmseg-",
        },
    ),
    "HRNet": System(
        {"HRFuse": PYRAMIDS + "hrfuse-", "HRNetV2Head": HEADS + "hrnetv2-"}, ("HRNetPose", "HRNet"),
        ("upsample_merge", "pyramid_conv"),
        {
            "timm": r"test_fuse_networks\.py::test_agrees\[timm-hrnet-",
            "official pose": r"test_fuse_networks\.py::test_agrees\[pose-hrnet-",
            "mmsegmentation": r"test_fuse_repositories\.py::test_agrees\[hrnetv2-",
        },
    ),
    "UPerNet": System(
        {"UPerHead": HEADS + "uper-"}, (), ("pyramid_pool", "pyramid_project", "upsample_merge", "pyramid_conv"),
        {
            "transformers": r"test_fuse_heads\.py::test_swaps_and_undoes_exactly\[upernet",
            "smp": r"test_fuse_heads\.py::test_swaps_and_undoes_exactly\[smp-upernet",
            "mmsegmentation": r"test_fuse_repositories\.py::test_agrees\[uper-",
        },
    ),
    "SegFormer": System(
        {"SegFormerHead": HEADS + "segformer-"}, (), ("pyramid_conv",),
        {
            "transformers": r"test_fuse_heads\.py::test_swaps_and_undoes_exactly\[segformer",
            "smp": r"test_fuse_heads\.py::test_swaps_and_undoes_exactly\[smp-segformer",
            "mmsegmentation": r"test_fuse_repositories\.py::test_agrees\[segformer-",
        },
        ("transformers.SegformerDecodeHead",),
    ),
    "loss, label map": System(
        {"UpsampleCrossEntropyLoss": r"test_losses\.py::test_equals_plain_pytorch\["}, (),
        ("upsample_cross_entropy", "upsample_argmax"),
        {"torchvision, smp, transformers": r"test_predict\.py::test_labels_are_the_librarys\["},
        ("upsample_cross_entropy", "upsample_argmax"),
    ),
}  # fmt: skip


def cells(passed: Collection[str]) -> Cells:
    """What the ids of passed tests bear out: system -> column -> the names, in order."""
    text = "\n".join(passed)

    def names(patterns: Iterable[tuple[str, str]]) -> str:
        return ", ".join(name for name, pattern in patterns if re.search(pattern, text))

    found = {}
    for name, system in SYSTEMS.items():
        networks = [(m, rf"test_models\.py::test_fused_agrees_with_plain\[{m}-") for m in system.models]
        whole = [*system.modules.items(), *networks]
        oracle = {b: [(op, rf"{ORACLE}{op}-.*-{b}-") for op in system.ops] for b in ("cuda", "triton")}
        modes = {mode: all(re.search(rf"{p}.*\b{mode}\b", text) for _, p in whole) for mode in ("eval", "train")}
        if name == "loss, label map":  # the loss has no modes: its one test compares values and gradients
            modes = dict.fromkeys(modes, bool(names(whole)))
        parts = (names(system.modules.items()), names(networks), *("yes" if modes[m] else "" for m in modes))
        parts = (*parts, *(names(oracle[b]) for b in oracle), names(system.adapters.items()))
        found[name] = dict(zip(COLUMNS, parts, strict=True))
    return found


def recorded() -> Cells:
    found: Cells = json.loads(RESULTS.read_text())
    return found


def record(passed: Collection[str]) -> None:
    RESULTS.write_text(json.dumps(cells(passed), indent=1) + "\n")


def table(ratios: Mapping[str, Mapping[str, str]]) -> str:
    """The table; ``ratios``: "CPU" or "GPU" -> op or module -> eager's time over that of ``auto``."""
    lines = [f"| system | {' | '.join((*COLUMNS, 'CPU ratio', 'GPU ratio'))} |", "|---" * (len(COLUMNS) + 3) + "|"]
    for name, row in recorded().items():
        system = SYSTEMS[name]
        rows = system.rows or [f"nn.{module}" for module in system.modules]
        ends = []
        for device in ("CPU", "GPU"):
            of = ratios.get(device, {})
            ends.append(", ".join(f"{r.rsplit('.', 1)[-1]} {of[r]}" for r in rows if r in of) or "not measured")
        lines.append(f"| {' | '.join([name, *(row[column] or '–' for column in COLUMNS), *ends])} |")
    return "\n".join(lines) + "\n"
