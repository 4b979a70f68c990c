"""What changes after ``fuse_`` counts: the call takes the original forward, says why, and comes back."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyramid_kernels as pk
from pyramid_kernels.fuse import ASPPForward, Parts, PPMForward, Unit
from pyramid_kernels.nn import ReferenceASPP, ReferenceSegFormerHead
from pyramid_kernels.nn.ppm import Level

pytestmark = pytest.mark.usefixtures("own_adapters")
X = torch.randn(2, 8, 9, 9, generator=torch.Generator().manual_seed(0))


class Doubled(nn.Conv2d):
    """A convolution whose weight is made anew for every call."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return 2 * self._parameters["plain"]

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        vars(self).update({k: v for k, v in vars(conv).items() if k not in ("_parameters", "_modules", "_buffers")})
        self._parameters["plain"], self._parameters["bias"] = conv.weight, conv.bias


def patch(module: nn.Module) -> None:
    forward = module.forward
    module.forward = lambda x: 2 * forward(x)  # type: ignore[method-assign]


#: Changes of an ASPP, and what the reason names.
CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "forward of an instance": (lambda m: patch(m.convs[1][0]), "convs.1.0 has its own forward"),
    "forward of a norm": (lambda m: patch(m.convs[0][1]), "convs.0.1 has its own forward"),
    "activation": (lambda m: m.convs[1].__setitem__(2, nn.GELU()), "GELU"),
    "activation of the projection": (lambda m: m.project.__setitem__(2, nn.LeakyReLU(0.2)), "LeakyReLU"),
    "dilation": (lambda m: vars(m.convs[1][0]).update(dilation=(2, 1), padding=(2, 1)), "dilation=(2, 1)"),
    "padding mode": (lambda m: mirror(m.convs[1][0]), "padding_mode='reflect'"),
    "pooling": (lambda m: setattr(m.convs[-1][0], "output_size", 3), "pools to 3, not 1"),
    "class with a weight of its own": (lambda m: m.convs[1].__setitem__(0, Doubled(m.convs[1][0])), "Doubled"),
    "norm": (lambda m: m.convs[0].__setitem__(1, nn.GroupNorm(2, 8)), "GroupNorm"),
    "layer more": (lambda m: m.project.append(nn.Tanh()), "project holds"),
    "hook": (lambda m: m.convs[1][0].register_forward_hook(lambda *a: 2 * a[2]), "a child has hooks"),
    "parametrization": (
        lambda m: nn.utils.parametrize.register_parametrization(m.convs[1][0], "weight", nn.Tanh()),
        "is parametrized",
    ),
    "weight": (lambda m: setattr(m.convs[1][0], "bias", nn.Parameter(torch.ones(8))), "bias in front of its norm"),
}


def mirror(conv: Any) -> None:
    conv.padding_mode = "reflect"
    conv._reversed_padding_repeated_twice = [2, 2, 2, 2]


@pytest.fixture
def aspp() -> Any:
    return ReferenceASPP(8, (2, 3), 8).eval()


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_change_runs_the_original_forward_and_says_why(aspp: Any, change: str) -> None:
    plain = copy.deepcopy(aspp)
    pk.fuse_(aspp, backend="reference")
    before = aspp(X)
    assert aspp.why_original(X) is None
    for module in (plain, aspp):
        CHANGES[change][0](module)
    assert CHANGES[change][1] in aspp.why_original(X)
    assert torch.equal(aspp(X), plain(X)) and not torch.allclose(aspp(X), before)
    compiled = torch.compile(aspp, backend="eager")(X)
    assert torch.equal(compiled, plain(X))


def test_a_change_that_is_undone_is_forgotten(aspp: Any) -> None:
    pk.fuse_(aspp, backend="reference")
    expected = aspp(X)
    handle = aspp.convs[1].register_forward_hook(lambda *_: None)
    assert "hooks" in aspp.why_original(X)
    handle.remove()
    for _ in range(2):
        for mode in (True, False):
            assert aspp.train(mode).why_original(X) is None
    assert torch.equal(aspp(X), expected)


def test_an_unchanged_module_is_not_examined_again(aspp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pk.fuse_(aspp, backend="reference")
    seen: list[str] = []
    for name in ("why_not_structure", "why_not_call"):
        own = getattr(type(aspp), name)
        monkeypatch.setattr(type(aspp), name, lambda *a, own=own, name=name: [seen.append(name), own(*a)][1])
    for _ in range(3):
        aspp.train()(X)
        aspp.eval()(X)
    asked = list(seen)
    aspp(X)
    assert asked and seen == asked
    aspp(X[:1])
    assert seen == [*asked, "why_not_call"]


def test_copies_are_examined_by_themselves(aspp: Any) -> None:
    pk.fuse_(aspp, backend="reference")
    aspp(X)
    for other in (copy.copy(aspp), copy.deepcopy(aspp), pickle.loads(pickle.dumps(aspp))):
        other._modules = dict(other._modules, convs=copy.deepcopy(aspp.convs))
        patch(other.convs[0][0])
        assert "own forward" in other.why_original(X)
    assert aspp.why_original(X) is None


def test_torch_jit_script_of_a_fused_model_is_the_unfused_graph() -> None:
    pk.register_adapter(MyASPP, MyASPPForward)
    plain = nn.Sequential(MyASPP(), nn.ReLU()).eval()
    plain[0].pool_first = False  # an attribute that the adapter's class has too
    model = copy.deepcopy(plain)
    report = pk.fuse_(model, backend="reference")
    scripted = torch.jit.script(model)
    assert torch.equal(scripted(X), torch.jit.script(plain)(X))
    assert report.fused and model[0].why_original(X) is None
    torch.testing.assert_close(model(X), plain(X))
    assert "forward" not in vars(model[0]) and pk.unfuse_(model) == ["0"]


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, X)])
def test_compiled_torchscript_is_refused_or_passed_over(make: Any) -> None:
    scripted = make(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))
    with pytest.raises(TypeError, match="call fuse_ before torch.jit.script"):
        pk.fuse_(scripted)
    model = nn.Sequential(scripted, ReferenceASPP(8, (2,), 8))
    assert [e.path for e in pk.fuse_(model).fused] == ["1"]


def test_calling_the_package_fuse_says_what_was_meant() -> None:
    with pytest.raises(TypeError, match=r"pk\.fuse is a package; call pk\.fuse_\(model\)"):
        pk.fuse(nn.ReLU())  # type: ignore[operator]


def test_frozen_modules_keep_what_they_derive_from_their_weights() -> None:
    head = ReferenceSegFormerHead((8, 8), 8, 3).eval()
    plain, maps = copy.deepcopy(head), [torch.randn(2, 8, 8, 8), torch.randn(2, 8, 4, 4)]
    pk.fuse_(head, backend="composed")
    assert pk.freeze_(head) == [""] and pk.freeze_(head) == [""]
    with torch.no_grad():
        first = head(maps)
        kept = dict(head.frozen_constants._kept)
        assert kept and torch.equal(head(maps), first)
        assert {k: id(v) for k, v in kept.items()} == {k: id(v) for k, v in head.frozen_constants._kept.items()}
        torch.testing.assert_close(first, plain(maps))
        for module in (head, plain):  # a new version of the weights
            module.load_state_dict({k: v + 0.1 if v.is_floating_point() else v for k, v in plain.state_dict().items()})
        torch.testing.assert_close(head(maps), plain(maps))
    assert not copy.deepcopy(head).frozen_constants._kept
    head(maps).sum().backward()
    plain(maps).sum().backward()
    for ours, theirs in zip(head.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="frozen for inference; call unfreeze_"):
        head.train()(maps)
    assert pk.unfreeze_(head) == [""] and pk.unfreeze_(head) == []
    head(maps)
    assert pk.freeze_(head) == [""] and pk.unfuse_(head) == [""] and pk.freeze_(head) == []


class MyASPP(nn.Module):
    """The layout of many repositories: branches by name, functional activations."""

    def __init__(self) -> None:
        super().__init__()
        for i, rate in enumerate((1, 2, 3), 1):
            kernel = 1 if i == 1 else 3
            conv = nn.Conv2d(8, 8, kernel, padding=0 if i == 1 else rate, dilation=rate, bias=False)
            setattr(self, f"aspp{i}", nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU()))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.conv1, self.bn1, self.dropout = nn.Conv2d(32, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.interpolate(self.global_avg_pool(x), x.shape[2:], mode="bilinear", align_corners=True)
        y = torch.cat([self.aspp1(x), self.aspp2(x), self.aspp3(x), pooled], 1)
        return self.dropout(torch.relu(self.bn1(self.conv1(y))))


class MyASPPForward(ASPPForward):
    @classmethod
    def parts(cls, module: Any) -> Parts:
        branches = [Unit(b[0], b[1]) for b in (module.aspp1, module.aspp2, module.aspp3)]
        pool = Unit(module.global_avg_pool[1], module.global_avg_pool[2])
        return Parts(branches, pool, Unit(module.conv1, module.bn1), [module.dropout])


class MyPPM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(b), nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
            for b in (1, 2, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        levels = [nn.functional.interpolate(s(x), size, mode="bilinear", align_corners=True) for s in self.stages]
        return torch.cat([x, *levels], 1)


class MyPPMForward(PPMForward):
    @classmethod
    def levels(cls, module: Any) -> list[Level]:
        return [Level(pool, Unit(conv, norm)) for pool, conv, norm, _ in module.stages]


@pytest.mark.parametrize(
    ("make", "adapter", "lost", "replaced"),
    [
        (MyASPP, MyASPPForward, lambda m: delattr(m, "aspp2"), lambda m: m.aspp2.__setitem__(2, nn.GELU())),
        (MyPPM, MyPPMForward, lambda m: delattr(m, "stages"), lambda m: m.stages[1].__setitem__(3, nn.GELU())),
    ],
)
def test_an_adapter_says_where_the_layers_are_and_no_more(make: Any, adapter: Any, lost: Any, replaced: Any) -> None:
    pk.register_adapter(make, adapter)
    model = make().eval()
    plain = copy.deepcopy(model)
    (entry,) = pk.fuse_(model, backend="reference").entries
    assert entry.fused, entry
    torch.testing.assert_close(model(X), plain(X))
    replaced(model), replaced(plain)
    assert "is a GELU, which the forward does not compute" in model.why_original(X)
    assert torch.equal(model(X), plain(X))
    broken = make()
    lost(broken)
    (entry,) = pk.fuse_(broken).entries
    assert not entry.fused and "does not find its layers" in entry.detail
