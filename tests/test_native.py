"""The way into the compiled module: why it is absent, which GPUs it covers, errors and launches that reach Python."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pyramid_kernels import _native, functional, testing
from pyramid_kernels.backends import BackendError, Problem
from pyramid_kernels.ops._shared import native
from pyramid_kernels.ops._shared.native import covers
from pyramid_kernels.ops.upsample_argmax.settings import Settings
from tests import conftest
from tests.kernels import DEVICE
from tests.marks import needs_cuda, needs_simulator

HOPPER = Problem("cuda", 90, torch.float16, True)
ON_CPU = HOPPER._replace(device="cpu", arch=0)


def test_the_simulator_is_built() -> None:
    """Skipped where there is no C++ compiler, and with it every test of backend="cuda"."""
    if torch.cuda.is_available():
        pytest.skip("kernels run on the GPU")
    if conftest.NO_SIMULATOR:
        pytest.skip(conftest.NO_SIMULATOR)
    assert _native.simulated() and native.cannot_launch(ON_CPU) is None


@pytest.mark.parametrize(
    "archs,runs,does_not",
    [
        ("80-real 90a-real 100-real 120", (80, 86, 89, 90, 100, 103, 120, 121, 130), (75, 110)),
        ("90a-real", (90,), (80, 89, 100)),
        ("100f-real", (100, 103), (90, 110, 120)),
        ("80", (80, 89, 90, 120), (75,)),
        ("90-virtual", (90, 100), (89,)),
    ],
)
def test_which_devices_an_architecture_list_covers(archs: str, runs: tuple[int], does_not: tuple[int]) -> None:
    assert [c for c in (*runs, *does_not) if covers(archs, c)] == list(runs)


def test_a_device_that_was_not_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "module", lambda device: SimpleNamespace(architectures="90a-real"))
    assert native.cannot_launch(HOPPER) is None
    message = "built for 90a-real, found compute capability 8.0"
    assert native.cannot_launch(HOPPER._replace(arch=80)) == message


def test_absent_modules_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "no CUDA kernels for xpu tensors" in str(_native.module("xpu"))
    monkeypatch.delenv(_native.SIMULATOR, raising=False)
    assert _native._simulator() == "CUDA kernels need a CUDA device, got cpu"
    for name, words in (("_hostsim.so", "cannot be imported"), ("hostsim.txt", "is not an extension module")):
        tmp_path.joinpath(name).write_text("no module")
        monkeypatch.setenv(_native.SIMULATOR, str(tmp_path / name))
        assert words in str(_native._simulator())
    monkeypatch.setattr(_native, "module", lambda device: "no module at all")
    with pytest.raises(BackendError, match="no module at all"):
        native.launch_native("pyramid_pool_fwd", (), torch.zeros(1))


@needs_simulator
def test_errors_of_the_core_are_python_errors() -> None:
    module = _native.module("cpu")
    with pytest.raises(TypeError):
        module.listen("loud")  # type: ignore[union-attr]
    assert module.architectures == "host simulator"  # type: ignore[union-attr]


@needs_simulator
def test_launches_are_counted_only_while_someone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyramid_kernels.ops._shared import launch

    x = torch.zeros(1, 2, 4, 4)
    with testing.count_launches() as counted:
        functional.pyramid_pool(x, (1,), backend="cuda")
    assert counted["pyramid_pool_fwd_kernel", "float32"] == 1
    monkeypatch.setattr(launch, "counters", [])
    functional.pyramid_pool(x, (1,), backend="cuda")
    assert _native.module("cpu").take_launches() == []  # type: ignore[union-attr]


@needs_cuda
def test_the_first_call_of_a_thread_may_need_tensor_maps() -> None:
    """The driver encodes them only where the thread has a context, which none has before its first launch."""
    x, w = torch.ones(1, 64, 8, 8), torch.ones(8, 64, 3, 3)
    x, w = (t.half().to(DEVICE, memory_format=torch.channels_last) for t in (x, w))
    with ThreadPoolExecutor(1) as pool:
        y = pool.submit(functional.dilated_branches, x, [w], dilations=[2], backend="cuda").result()
    assert torch.equal(y, functional.dilated_branches(x, [w], dilations=[2], backend="reference"))


@needs_simulator
def test_other_threads_run_during_a_launch() -> None:
    """Where a device's queue is full a launch waits, for what may need Python: a host function in the stream."""
    module: Any = _native.module("cpu")
    logits, labels = torch.zeros(1, 4, 16, 16), torch.zeros(1, 64, 64, dtype=torch.uint8)
    ready = module.upsample_argmax_fwd(Settings([64, 64], False, torch.uint8), logits, labels)
    finished: list[bool] = []

    def launch() -> None:
        for _ in range(50):
            ready.run(0, 0, [logits.data_ptr(), labels.data_ptr()])
        finished.append(True)

    interval = sys.getswitchinterval()
    module.listen(True)
    sys.setswitchinterval(1e6)  # no thread is made to give way: another runs only where this one lets it
    try:
        module.take_launches()
        thread = threading.Thread(target=launch)
        thread.start()
        while not module.take_launches():
            pass
        during = not finished
        thread.join()
    finally:
        sys.setswitchinterval(interval)
        module.listen(False)
        module.take_launches()  # or the next test that counts would count them
    assert during
