"""Where a model is computed, and the settings that follow from the machine.

A GPU is played by PyTorch's own questions about it: how many, how new, how full.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import encoder
import finetune
from layers import kernels, packing
from models import Classifier, Config
from pretraining.batches import PairBatches
from tasks import TASKS
from training import devices
from training.checkpoints import has_room
from training.devices import PLAIN, count_gpus, get_device, rows_at_once, settle
from training.settings import Config as TrainConfig
from utils import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What was found out of other devices is forgotten."""
    caches = (devices.usable_dtype, devices.warn_once, packing.flash_differs)
    for cache in caches:
        cache.cache_clear()
    before = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    kernels.PRODUCTS.chosen = None
    torch.backends.cuda.enable_cudnn_sdp(before)
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Make it look as if there were GPUs."""

    def make(n: int = 1, capability: tuple[int, int] = (9, 0), free: int = 80 << 30) -> None:
        answers = {
            "is_available": lambda: n > 0,
            "device_count": lambda: n,
            "get_device_capability": lambda device=None: capability,
            "get_arch_list": lambda: ["sm_75", "sm_80", "sm_90a", "compute_120"],
            "set_device": lambda device: None,
            "mem_get_info": lambda device=None: (free, 80 << 30),
            "memory_reserved": lambda device: 0,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(packing, "flash_differs", lambda device, width: "")

    return make


def test_a_gpu_is_taken_where_there_is_one_and_others_by_their_names(gpus: Callable) -> None:
    gpus(0)
    assert get_device() == get_device("cpu") == CPU
    gpus(2)
    assert (get_device(), get_device("cuda"), get_device("cpu")) == (CUDA, CUDA, CPU)
    # cuDNN's attention drops too much in some versions.
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert get_device("cuda:1") == torch.device("cuda", 1)
    # One that is named is the only one; otherwise all of them share the batches.
    assert [count_gpus(get_device(name), name) for name in ("auto", "cuda", "cuda:1")] == [2, 2, 1]
    assert count_gpus(CUDA, "auto", data_parallel=False) == 1


@pytest.mark.parametrize(
    ("n", "name", "message"),
    [
        (0, "cuda", "`device=cuda`: no GPU is visible to this PyTorch; name cpu"),
        (0, "cuda:1", "`device=cuda:1`: no GPU is visible"),
        (2, "cuda:2", "`device=cuda:2`: 2 GPUs are visible; expected a number below 2"),
        (0, "mps", "`device=mps`: there is none, or this PyTorch does not know it; name cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    gpus: Callable, n: int, name: str, message: str
) -> None:
    gpus(n)
    with pytest.raises(UserError, match=message):
        get_device(name)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"capability": (6, 1)}, r"is too old for this PyTorch \(compute capability 6.1\)"),
        ({"free": 100 << 20}, r"is full \(100 MB are free\)"),
    ],
)
def test_a_gpu_that_is_full_or_too_old_leaves_the_cpu_and_says_so_once(
    gpus: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    given: dict,
    reason: str,
) -> None:
    gpus(1, **given)
    with pytest.raises(UserError, match=f"cuda:0 {reason}; name another device, or cpu"):
        get_device("cuda")
    assert get_device() == get_device() == CPU
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the CPU is used instead" in err
    # What this process itself keeps of a GPU is not taken.
    if "free" in given:
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 << 30)
        assert get_device() == CUDA


def test_a_gpu_that_fails_leaves_the_cpu(
    gpus: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    gpus(1)

    def fail(device: int) -> None:
        raise RuntimeError("CUDA error: unknown error\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    assert get_device() == CPU
    assert "cuda:0 does not work (CUDA error: unknown error); the CPU" in capsys.readouterr().err


LONG = SimpleNamespace(longest=512, cpu_tokens=4096)


@pytest.mark.parametrize(
    ("given", "device", "n_gpus", "expected"),
    [
        ({}, CPU, 1, ("fp32", "sdpa", 1, False)),
        ({}, CUDA, 1, ("bf16", "flash", 1, True)),
        # The flash kernel and DataParallel do not go together.
        ({}, CUDA, 4, ("bf16", "sdpa", 1, False)),
        ({"dtype": "fp32"}, CUDA, 1, ("fp32", "sdpa", 1, True)),
        ({"attention": "sdpa"}, CUDA, 1, ("bf16", "sdpa", 1, True)),
        ({"cuda_graphs": False}, CUDA, 1, ("bf16", "flash", 1, False)),
        ({"checkpointing": True}, CUDA, 1, ("bf16", "flash", 1, False)),
        ({"batch_size": 256}, CUDA, 1, ("bf16", "flash", 2, False)),
        ({"batch_size": 256}, CUDA, 2, ("bf16", "sdpa", 1, False)),
        ({"batch_size": 256, "gradient_accumulation": 4}, CUDA, 1, ("bf16", "flash", 4, False)),
        ({"batch_size": 256, "gradient_accumulation": 1}, CPU, 1, ("fp32", "sdpa", 1, False)),
        ({}, torch.device("mps"), 1, ("fp32", "sdpa", 1, False)),
    ],
)
def test_what_a_user_leaves_open_follows_from_the_device(
    gpus: Callable, tiny: Config, given: dict, device: torch.device, n_gpus: int, expected: tuple
) -> None:
    gpus(n_gpus)
    batches = SimpleNamespace(longest=512)
    cfg = settle(TrainConfig(**given), device, n_gpus, Classifier(tiny), batches)
    assert tuple(getattr(cfg, name) for name in PLAIN) == expected


def test_an_older_gpu_computes_in_fp32_and_pre_training_in_parts(
    gpus: Callable, tiny: Config
) -> None:
    gpus(1, capability=(7, 5))
    cfg, model = TrainConfig(batch_size=256), Classifier(tiny)
    found = settle(cfg, CUDA, 1, model, LONG)
    assert (found.dtype, found.attention) == ("fp32", "sdpa")
    # 256 rows of 512 tokens are two parts of 64k on a GPU, and 32 of 8 rows on a CPU.
    assert (found.gradient_accumulation, PairBatches.cpu_tokens) == (2, LONG.cpu_tokens)
    assert settle(cfg, CPU, 1, model, LONG).gradient_accumulation == 32
    few = dataclasses.replace(cfg, batch_size=3)
    assert settle(few, CPU, 1, model, LONG).gradient_accumulation == 1
    # Of short rows a small batch stays in one part, as the built-in sample's.
    short = SimpleNamespace(longest=64, cpu_tokens=4096)
    assert settle(dataclasses.replace(cfg, batch_size=64), CPU, 1, model, short) == (
        dataclasses.replace(cfg, batch_size=64, **PLAIN)
    )


def test_flash_that_proves_wrong_is_left_out(
    gpus: Callable, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(1)
    monkeypatch.setattr(packing, "flash_differs", lambda device, width: "outputs differ")
    assert settle(TrainConfig(), CUDA, 1, Classifier(tiny), LONG).attention == "sdpa"


def test_a_run_is_resumed_as_it_was_begun_or_not_at_all(
    gpus: Callable, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(1)
    model, cfg = Classifier(tiny), TrainConfig(batch_size=256)
    monkeypatch.setattr(kernels, "has_bf16_products", lambda: False)
    begun = {**PLAIN, "gradient_accumulation": 32}
    # Earlier versions recorded no attention.
    for run in (begun, {name: begun[name] for name in ("dtype", "gradient_accumulation")}):
        found = settle(cfg, CUDA, 1, model, LONG, run)
        assert {name: getattr(found, name) for name in PLAIN} == begun
    # Where another setting is asked for, the folder refuses it by its name, as all that differ.
    for asked in ({"dtype": "bf16"}, {"gradient_accumulation": 3}):
        other = dataclasses.replace(cfg, **asked)
        assert settle(other, CUDA, 1, model, LONG, begun) == other
    # One that asks again for what is not computed here gets the note that it got before.
    noted = settle(TrainConfig(dtype="bf16"), CPU, 1, model, LONG, {**PLAIN, "dtype": "bf16"})
    assert noted.dtype == "bf16"
    edited = {**begun, "gradient_accumulation": None}
    assert settle(cfg, CUDA, 1, model, LONG, edited) == cfg
    few = dataclasses.replace(cfg, batch_size=8)
    assert settle(few, CUDA, 1, model, LONG, begun).gradient_accumulation == 8
    begun = {"dtype": "bf16", "attention": "flash", "gradient_accumulation": 2}
    with pytest.raises(UserError, match=r"was begun with dtype=bf16, which is not computed on thi"):
        settle(cfg, CPU, 1, model, LONG, begun)
    monkeypatch.setattr(kernels, "has_bf16_products", lambda: True)
    with pytest.raises(UserError, match=r"was begun with attention=flash, which is not computed"):
        settle(cfg, CPU, 1, model, LONG, begun)


def test_predicting_takes_as_many_rows_as_keep_a_device_busy() -> None:
    assert rows_at_once(None, 128, CPU) == 32
    assert rows_at_once(None, 128, CUDA) == 256
    assert rows_at_once(None, 5000, CUDA) == 32
    assert rows_at_once(8, 128, CUDA) == rows_at_once(8, 128, CPU) == 8


def test_run_json_has_what_was_chosen_and_old_runs_go_on(
    sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = dataclasses.replace(TASKS["mrpc"], max_len=32)
    start = finetune.pretrained.find(None, sample / "config.json", sample / "vocab.txt")
    cfg = TrainConfig(total_steps=2, save_steps=1)
    run = finetune.prepare(task, sample / "train.tsv", start, cfg=cfg)
    run.fit(tmp_path / "run")
    recorded = json.loads((tmp_path / "run/run.json").read_text())
    assert {name: recorded[name] for name in PLAIN} == PLAIN
    assert recorded["float32 products"] == kernels.usual_products()
    # Moved to another processor, it goes on with the products that it was begun with.
    recorded["float32 products"] = "pytorch"
    # A run of an earlier version, stopped after its first step, had neither name.
    monkeypatch.setattr(kernels, "onednn_is_faster", lambda: True)
    del recorded["device"], recorded["attention"]
    (tmp_path / "run/run.json").write_text(json.dumps(recorded))
    (tmp_path / "run/model_steps_2.pt").unlink()
    capsys.readouterr()
    assert run.fit(tmp_path / "run").step == 2
    assert "Resuming" in "".join(capsys.readouterr())
    assert kernels.PRODUCTS.chosen == "pytorch"
    # Of earlier versions it is not known.
    del recorded["float32 products"]
    (tmp_path / "run/run.json").write_text(json.dumps(recorded))
    run.fit(tmp_path / "run")
    assert kernels.PRODUCTS.chosen == "onednn"
    monkeypatch.setattr(kernels, "has_onednn", lambda: False)
    with pytest.raises(UserError, match="begun with oneDNN's products, which this PyTorch has not"):
        devices.choose_products(CPU, {"float32 products": "onednn"})


def test_what_is_not_plain_is_printed_behind_the_device() -> None:
    assert devices.describe(CUDA, 1, dtype="bf16", attention="flash", gradient_accumulation=1) == (
        "cuda (1 GPU), dtype=bf16, attention=flash"
    )
    assert devices.describe(CPU, 1, **PLAIN) == devices.device_name(CPU)
    assert devices.device_name(torch.device("mps")) == "mps"


def test_several_processes_compute_without_graphs_whatever_a_run_was_begun_with(
    gpus: Callable,
    tiny: Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    gpus(1)
    monkeypatch.setattr(devices, "size", lambda: 2)
    model = Classifier(tiny)
    found = settle(TrainConfig(cuda_graphs=True), CUDA, 1, model, LONG)
    assert (found.cuda_graphs, found.attention) == (False, "flash")
    assert "cuda_graphs=true is for one GPU and one process" in capsys.readouterr().err
    begun = {**PLAIN, "cuda_graphs": True}
    for cfg in (TrainConfig(), TrainConfig(cuda_graphs=True)):
        assert settle(cfg, CUDA, 1, model, LONG, begun).cuda_graphs is False
    monkeypatch.setattr(devices, "size", lambda: 1)
    assert settle(TrainConfig(), CUDA, 1, model, LONG, begun).cuda_graphs is True
    assert settle(TrainConfig(), CPU, 1, model, LONG, begun).cuda_graphs is False


def test_flash_that_no_dtype_was_named_for_is_refused_before_anything_is_read(
    gpus: Callable,
) -> None:
    gpus(1, capability=(7, 5))
    for device in ("auto", "cpu"):
        with pytest.raises(UserError, match=r"`attention=flash` is computed in bf16, and this de"):
            devices.check(TrainConfig(attention="flash", device=device))
    gpus(1)
    devices.usable_dtype.cache_clear()
    devices.check(TrainConfig(attention="flash"))


def test_a_checkpoint_is_copied_on_a_gpu_where_training_leaves_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of 100 bytes others have 10, and training takes 60 at its most: 20 are left of nine tenths.
    answers = {
        "mem_get_info": lambda device: (20, 100),
        "memory_reserved": lambda device: 70,
        "max_memory_allocated": lambda device: 60,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    assert [has_room(CUDA, n) for n in (19, 20, 21)] == [True, False, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "gpu"}, "device='gpu'; expected auto, cpu, cuda, cuda:N or mps"),
        ({"batch_size": 0}, "batch_size=0; expected at least 1"),
        ({"dtype": "fp16"}, "dtype='fp16'; expected auto, fp32 or bf16, or int8 to predict"),
        ({"device": "mps"}, "`device=mps`: there is none"),
    ],
)
def test_how_to_predict_is_checked_before_weights_are_looked_for(given: dict, message: str) -> None:
    for load in (finetune.load, encoder.load):
        with pytest.raises(UserError, match=re.escape(message)):
            load("nowhere", **given)
