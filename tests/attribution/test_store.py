"""Nothing is computed twice, nothing damaged is believed, nothing is lost."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook

from xaibench.attribution.checks import Validity, at_most
from xaibench.attribution.explain import explain, explain_model
from xaibench.attribution.gradients import InputXGradient
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.result import Attribution
from xaibench.attribution.store import keys
from xaibench.attribution.store.keys import architecture_hash, attribution_key, key_of, model_key
from xaibench.attribution.store.sealed_files import content_hash
from xaibench.attribution.store.store import AttributionStore, default_store
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError
from xaibench.models.architectures import build_model

FAST_IG = IntegratedGradients(steps=4)


@pytest.fixture
def store(tmp_path: Path) -> AttributionStore:
    return AttributionStore(tmp_path / "store")


@pytest.fixture
def calls() -> Iterator[list[int]]:
    """One entry a run of any module; none of them has a hook of its own, which would be part of what it computes."""
    seen: list[int] = []
    handle = register_module_forward_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


def made(value: float, size: int = 4) -> Attribution:
    return Attribution(
        relevance=torch.full((1, 1, size, size), value),
        target=Target(torch.tensor([0]), torch.tensor([1])),
        explainer=LRP(),
        validity=Validity((at_most("a", 0.5, 1.0),)),
        model_hash="m",
        input_hash="i",
    )


def key(number: int) -> str:
    return f"{number:040x}"


def same(first: Attribution, second: Attribution) -> bool:
    fields = ("explainer", "validity", "model_hash", "input_hash", "versions")
    return (
        torch.equal(first.relevance, second.relevance)
        and first.target.same_as(second.target)
        and first.target.rule == second.target.rule
        and all(getattr(first, name) == getattr(second, name) for name in fields)
        and first.references.keys() == second.references.keys()
        and all(torch.equal(value, second.references[name]) for name, value in first.references.items())
    )


def test_a_second_look_makes_no_call_of_the_model(store, network, calls, x, target, preprocessing) -> None:
    first = explain_model(network, x, target, LRP(), preprocessing, store=store)
    assert calls
    calls.clear()
    seen: list[int] = []
    again = explain_model(network, x, target, LRP(), preprocessing, store=store, on_batch=seen.append)
    assert not calls
    assert same(first, again)
    assert seen == [len(x)]
    assert len(store) == 1
    network.train()
    explain_model(network, x, target, LRP(), preprocessing, store=store)
    assert not calls


def test_a_second_look_at_a_pair_makes_no_call_of_either_model(store, tiny_pair, tiny_task, calls) -> None:
    images = tiny_task.test.take(range(3))
    for contrast in ("teacher", "own"):
        first = explain(tiny_pair, images, LRP(), contrast=contrast, store=store)
        assert calls
        calls.clear()
        again = explain(tiny_pair, images, LRP(), contrast=contrast, store=store)
        assert not calls
        assert same(first.teacher, again.teacher)
        assert same(first.student, again.student)
    assert not same(first.teacher, first.student)


CHANGES: dict[str, Callable[[dict], object]] = {
    "weights": lambda a: a["model"].fc.bias.data.add_(1e-3),
    "buffer": lambda a: a["model"].bn1.running_mean.add_(1e-3),
    "epsilon of a norm": lambda a: setattr(a["model"].bn1, "eps", 1e-4),
    "padding": lambda a: setattr(a["model"].conv1, "padding_mode", "reflect"),
    "another module": lambda a: setattr(a["model"], "relu", nn.Softplus()),
    "hook": lambda a: a["model"].bn1.register_forward_hook(lambda _m, _x, y: 2 * y),
    "one pixel": lambda a: a.update(x=torch.cat([a["x"][:-1], a["x"][-1:] * 0.999])),
    "order of images": lambda a: a.update(x=a["x"].flip(0)),
    "label": lambda a: a.update(target=Target(a["target"].contrast, a["target"].label)),
    "rule": lambda a: a.update(target=Target(a["target"].label, a["target"].contrast, "own")),
    "option": lambda a: a.update(explainer=LRP(gamma=0.5)),
    "method": lambda a: a.update(explainer=FAST_IG),
    "preprocessing": lambda a: a.update(preprocessing=Preprocessing((0.5, 0.45, 0.4), (0.25, 0.3, 0.21))),
    "check": lambda a: a.update(check=False),
}


@pytest.mark.parametrize("what", CHANGES)
def test_everything_that_matters_is_in_the_key(what: str, network, x, target, preprocessing) -> None:
    about = {
        "model": network,
        "x": x,
        "target": target,
        "explainer": LRP(),
        "preprocessing": preprocessing,
        "check": True,
    }

    def current() -> str:
        a = about
        model, inputs = model_key(a["model"]), content_hash(a["x"])
        return attribution_key(model, inputs, a["target"], a["explainer"], a["preprocessing"], check=a["check"])

    before = current()
    assert current() == before
    assert len(before) == 40
    CHANGES[what](about)
    assert current() != before


def test_versions_of_libraries_are_in_the_key(network, x, target, preprocessing, monkeypatch) -> None:
    def current() -> str:
        return attribution_key(model_key(network), content_hash(x), target, LRP(), preprocessing, check=True)

    before = current()
    monkeypatch.setattr("xaibench.attribution.store.keys.version", lambda library: f"{library} 99")
    assert current() != before


def test_the_content_of_a_baseline_file_is_in_the_key(network, x, target, preprocessing, tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    explainer = IntegratedGradients(baseline=str(path))

    def current() -> str:
        return attribution_key(model_key(network), content_hash(x), target, explainer, preprocessing, check=True)

    save_file({"b": torch.zeros(3, 16, 16)}, path)
    before = current()
    save_file({"b": torch.ones(3, 16, 16)}, path)
    assert current() != before


class Scaled(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], extra: object = None) -> None:
        super().__init__()
        self.function, self.extra = function, extra

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def edited() -> type[nn.Module]:
    """A class of the same name as `Scaled` whose forward pass was edited, as in a notebook."""

    class Scaled(nn.Module):
        def __init__(self, function: Callable[[Tensor], Tensor], extra: object = None) -> None:
            super().__init__()
            self.function, self.extra = function, extra

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.function(x)

    Scaled.__module__, Scaled.__qualname__ = __name__, "Scaled"
    return Scaled


def test_the_architecture_is_more_than_the_names_of_its_weights() -> None:
    start = architecture_hash(Scaled(F.relu))
    assert architecture_hash(Scaled(F.relu)) == start
    assert architecture_hash(Scaled(F.relu).train()) == start
    others = [
        Scaled(F.gelu),
        Scaled(torch.relu),
        Scaled(torch.tanh),
        Scaled(lambda x: x + 1),
        Scaled(lambda x: x + 2),
        Scaled(F.relu, 1),
        Scaled(F.relu, [1]),
        Scaled(F.relu, torch.ones(1)),
        Scaled(F.relu, torch.zeros(1)),
        Scaled(F.relu, {"a": 1}),
        edited()(F.relu),
    ]
    assert len({start, *map(architecture_hash, others)}) == len(others) + 1


def test_nothing_is_kept_of_a_model_whose_content_cannot_be_told(
    store, network, calls, x, target, preprocessing, caplog
) -> None:
    lock = threading.Lock()
    network.register_forward_hook(lambda _m, _x, y: y if lock else None)
    with caplog.at_level(logging.WARNING):
        explain_model(network, x, target, InputXGradient(), preprocessing, store=store)
    assert "nothing is kept of ScaledResNet18: it holds lock" in caplog.text
    assert len(store) == 0
    calls.clear()
    explain_model(network, x, target, InputXGradient(), preprocessing, store=store)
    assert calls


@pytest.mark.parametrize("explainer", ["input-x-gradient", "lrp:gamma=2", LRP()])
@pytest.mark.parametrize("check", [True, False])
def test_a_key_tells_whether_a_result_is_kept(explainer, check: bool, store, network, x, target, preprocessing) -> None:
    question = (network, x, target, explainer, preprocessing)
    key = key_of(*question, check=check)
    assert key is not None
    assert not store.path_of(key).exists()
    explain_model(*question, check=check, store=store)
    assert [path for _, _, path in store._entries()] == [store.path_of(key)]
    assert key != key_of(*question, check=not check)
    own = Target(target.label, target.contrast, "own")
    assert key_of(network, x, own, explainer, preprocessing, check=check) != key
    with torch.no_grad():
        network.fc.bias[0] += 1
    assert key_of(*question, check=check) != key


def test_the_key_holds_the_code_that_explanations_run_through(network, x, target, preprocessing, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(Path, "read_bytes", lambda self: seen.append(self.name) or b"")
    keys._own_code.__wrapped__(*keys._EXPLAINING)
    needed = {"explainer.py", "operations.py", "keys.py", "folding.py", "layer_outputs.py", "images.py", "precision.py"}
    assert needed <= set(seen)


def test_the_device_is_in_the_key(network) -> None:
    assert model_key(network) == model_key(network, device="cpu") != model_key(network, device="cuda")


def test_the_key_of_a_large_network_is_found_fast() -> None:
    model = build_model("resnet50", 10)
    start = time.perf_counter()
    assert model_key(model, "weights") is not None
    assert time.perf_counter() - start < 1


def test_hooks_are_told_apart_by_what_they_do_and_not_by_their_number(network: nn.Module) -> None:
    def with_hook(scale: float) -> str:
        handle = network.relu.register_forward_hook(lambda _m, _x, y: scale * y)
        found = architecture_hash(network)
        handle.remove()
        return found

    assert with_hook(2.0) == with_hook(2.0) != with_hook(3.0)
    assert architecture_hash(network) not in (with_hook(2.0), with_hook(3.0))


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "header", "foreign"])
def test_a_damaged_file_is_made_again(damage: str, store, network, calls, x, target, preprocessing, caplog) -> None:
    first = explain_model(network, x, target, LRP(), preprocessing, store=store)
    (path,) = store.folder.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flipped":  # a bit in the middle of the maps, which safetensors itself does not notice
        content[len(content) // 2] ^= 1
    if damage == "header":  # well-formed, but not what was measured
        position = content.index(b"true")
        content[position : position + 4] = b"1   "
    if damage == "foreign":
        save_file({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes({"cut": content[:-100], "empty": b""}.get(damage, content))
    calls.clear()
    with caplog.at_level(logging.WARNING):
        again = explain_model(network, x, target, LRP(), preprocessing, store=store)
    assert calls
    assert "removed from the store" in caplog.text
    assert str(path) in caplog.text
    assert same(first, again)
    calls.clear()
    explain_model(network, x, target, LRP(), preprocessing, store=store)
    assert not calls


def test_a_full_disk_loses_nothing(store, network, x, target, preprocessing, monkeypatch, caplog) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with caplog.at_level(logging.WARNING):
        attribution = explain_model(network, x, target, LRP(), preprocessing, store=store)
    assert attribution.validity.valid
    assert "No space left on device" in caplog.text
    assert "not kept" in caplog.text
    assert len(store) == 0
    assert not list(store.folder.iterdir())


def test_a_folder_that_cannot_be_made_loses_nothing(tmp_path, network, x, target, preprocessing, caplog) -> None:
    (tmp_path / "file").write_text("")
    blocked = AttributionStore(tmp_path / "file" / "store")
    with caplog.at_level(logging.WARNING):
        explain_model(network, x, target, LRP(), preprocessing, store=blocked)
    assert "cannot write" in caplog.text
    assert len(blocked) == 0


def test_what_does_not_pass_is_not_kept(store, network, x, target, preprocessing) -> None:
    with pytest.raises(ExplanationError, match="not valid"):
        explain_model(network, x, target, LRP(canonizer="none"), preprocessing, store=store)
    assert len(store) == 0


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    probe = AttributionStore(tmp_path / "probe")
    probe.keep(key(0), made(0.0))
    store = AttributionStore(tmp_path / "store", max_bytes=3 * probe.size + 100)
    for number in range(3):
        store.keep(key(number), made(float(number)))
        stamp = 1000 + number
        os.utime(store.folder / f"{key(number)}.safetensors", (stamp, stamp))
    assert store.find(key(0)) is not None  # used, and thereby the newest
    store.keep(key(3), made(3.0))
    assert [store.find(key(number)) is not None for number in range(4)] == [True, False, True, True]
    assert store.size <= store.max_bytes


def test_a_result_larger_than_the_store_does_not_empty_it(tmp_path: Path, caplog) -> None:
    store = AttributionStore(tmp_path, max_bytes=4000)
    store.keep(key(0), made(0.0))
    with caplog.at_level(logging.WARNING):
        store.keep(key(1), made(1.0, size=64))
    assert store.find(key(0)) is not None
    assert store.find(key(1)) is None
    assert "the store may hold 4000" in caplog.text


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    keepsake = tmp_path / "weights.safetensors"
    keepsake.write_bytes(b"x" * 5000)
    die = "import os, sys; from xaibench import files; files.write_atomically(sys.argv[1], lambda p: os._exit(1))"
    assert subprocess.run([sys.executable, "-c", die, tmp_path / f"{key(8)}.safetensors"], check=False).returncode == 1
    (left,) = tmp_path.glob(".*.partial.safetensors")
    fresh = left.with_name(left.name.replace(key(8), key(9)).replace(left.name.split("-")[1], str(os.getpid())))
    fresh.write_bytes(b"x")
    store = AttributionStore(tmp_path, max_bytes=2500)
    for number in range(4):
        store.keep(key(number), made(float(number)))
    assert keepsake.exists()
    assert fresh.exists()
    assert not left.exists()  # of a writer that was killed
    assert store.size <= 2500
    store.clear()
    assert len(store) == 0
    assert keepsake.exists()


class Collector(logging.Handler):
    """Warnings of another process."""

    def __init__(self, messages: SimpleQueue) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.put(record.getMessage())


def go_through(store: AttributionStore, offset: int, messages: SimpleQueue) -> None:
    """Read or write 12 keys in turn, many times."""
    torch.set_num_threads(1)
    logging.getLogger("xaibench").addHandler(Collector(messages))
    for step in range(120):
        number = (7 * step + offset) % 12
        found = store.find(key(number))
        if found is None:
            store.keep(key(number), made(float(number)))
        elif not bool((found.relevance == number).all()):
            messages.put(f"{number} gave {found.relevance}")


def test_an_entry_that_comes_back_while_it_is_looked_for_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process removes it before the read, and a third writes it anew before this one looks again."""
    store = AttributionStore(tmp_path)
    store.keep(key(0), made(0.0))

    def gone(path: Path) -> bytes:
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", gone)
        assert store.find(key(0)) is None
    assert not caplog.records
    assert store.find(key(0)) is not None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_may_read_and_write_at_once(tmp_path: Path) -> None:
    """Both go through the same 12 keys, in a store that holds 6."""
    probe = AttributionStore(tmp_path / "probe")
    probe.keep(key(0), made(0.0))
    store = AttributionStore(tmp_path / "store", max_bytes=6 * probe.size)
    context = multiprocessing.get_context("fork")
    messages = context.SimpleQueue()
    workers = [context.Process(target=go_through, args=(store, offset, messages)) for offset in (0, 3)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert messages.empty(), messages.get()
    assert 3 <= len(store) <= 6
    found = {number: store.find(key(number)) for number in range(12)}
    assert all(value is None or bool((value.relevance == number).all()) for number, value in found.items())
    assert not [path for path in store.folder.iterdir() if ".partial" in path.name]


def test_the_default_store_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_store().folder == tmp_path / ".cache" / "xaibench"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_store().folder == tmp_path / ".cache" / "xaibench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_store().folder == tmp_path / "cache" / "xaibench"
    assert not default_store().folder.exists()
    assert "0 entries, 0.0 of at most 2048 MiB" in repr(default_store())


def test_bad_bound(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_bytes must be at least 1, got 0"):
        AttributionStore(tmp_path, max_bytes=0)
