"""Libraries that ask for more than the tests have: mmsegmentation and ultralytics, imported beside stand-ins.

What an import of theirs runs may start no process and open no connection; what it changes of PyTorch and of the
environment is put back.
"""

import functools
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from typing import Any
from unittest import mock

import pytest
import torch

FORBIDDEN = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "socket.connect", "urllib.Request")
#: OpenCV, compiled operators, a tokenizer: of what no module here is about. A FLOP counter that must not be found.
STAND_INS = ("cv2", "mmcv._ext", "ftfy")
_importing = False


def library(name: str) -> Any:
    """The module ``name`` of a library that imports as it is; the test is skipped where it is not installed."""
    return pytest.importorskip(name, reason=f"needs {name.partition('.')[0]}")


def mmseg(path: str) -> Any:
    """The module ``path`` below ``mmseg``."""
    return _guarded(f"mmseg.{path}")


def ultralytics(path: str) -> Any:
    return _guarded(f"ultralytics.{path}")


def conv_module(*args: Any, norm: str | None = "BN", act: str | None = "ReLU", **kwargs: Any) -> Any:
    """mmcv's ConvModule."""
    configs = {key: {"type": name} if name else None for key, name in (("norm_cfg", norm), ("act_cfg", act))}
    return _guarded("mmcv.cnn").ConvModule(*args, **configs, **kwargs)


@functools.cache
def _guarded(name: str) -> Any:
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"needs {name.partition('.')[0]}")
    _watch()
    with _stand_ins():
        found = importlib.import_module(name)
        if name.startswith("mmseg"):
            registry = importlib.import_module("mmengine.registry")
            registry.DefaultScope.get_instance("mmseg", scope_name="mmseg")
    return found


@contextmanager
def _stand_ins() -> Iterator[None]:
    global _importing
    environment = dict(os.environ)
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": tempfile.gettempdir()}
    made = {name: mock.MagicMock(__spec__=ModuleSpec(name, None)) for name in STAND_INS} | {"thop": None}
    before = {name: sys.modules.get(name) for name in made}
    kept = torch.save, torch.load
    sys.modules |= made
    _importing = True
    try:
        yield
    finally:
        _importing = False
        torch.save, torch.load = kept
        os.environ.clear()
        os.environ.update(environment)
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


@functools.cache
def _watch() -> None:
    sys.addaudithook(_refuse)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if _importing and event in FORBIDDEN:
        raise PermissionError(f"an imported library asked for {event}{args}")
