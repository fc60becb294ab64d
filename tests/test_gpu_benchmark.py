"""The benchmark of a GPU, with tiny models: every part gives rows, whatever happens to them."""

import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    # Last, since benchmarks has modules of the same names as the project's.
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    return importlib.import_module("gpu")


@pytest.fixture
def sides(gpu: ModuleType) -> ModuleType:
    """What it measures with."""
    return importlib.import_module("gpu_sides")


def test_every_part_gives_rows_and_the_table_has_all_of_them(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, title: str, table: str) -> None:
        (tmp_path / f"{name}.md").write_text(table)

    monkeypatch.setattr(gpu, "report", write)
    gpu.run(out=str(tmp_path / "rows.jsonl"), tiny=True)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        assert row.keys() == {"part", "name", "value", "unit", "more"}
        assert row["unit"] != "error", row
    measured = {row["part"] for row in rows if row["unit"] != "skipped"}
    # A CPU's compiler takes minutes.
    assert measured == set(gpu.PARTS) - {"4 training, compiled"}
    assert len({(row["part"], row["name"]) for row in rows}) == len(rows)
    (table,) = tmp_path.glob("gpu_*.md")
    assert len(table.read_text().splitlines()) == 2 + len(rows)


def test_what_fails_and_what_has_no_time_left_is_a_row(gpu: ModuleType, tmp_path: Path) -> None:
    def fail(bench: object, way: str) -> None:
        raise RuntimeError("out of\nmemory")

    def hang(bench: object, way: str) -> None:
        time.sleep(60)

    with open(tmp_path / "rows.jsonl", "w") as file:
        bench = gpu.Bench(torch.device("cpu"), True, file, "1 card", time.monotonic() + 60)
        bench.measure("fails", "", fail)
        bench.end = time.monotonic() + 0.1
        bench.measure("hangs", "sdpa", hang, needs=0)
        bench.measure("is late", "", hang)
        # flushed already
        lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    found = {row["name"]: (row["unit"], row["more"]) for row in map(json.loads, lines)}
    assert found["fails"] == ("error", "RuntimeError: out of memory")
    assert found["hangs, sdpa"][0] == "error"
    assert found["hangs, sdpa"][1].startswith("TimeoutError: stopped after 0 s")
    assert found["is late"] == ("skipped", "needs 5 s, 0 are left")


def test_a_row_is_the_median_of_its_rounds_and_their_spread(sides: ModuleType) -> None:
    assert sides.median_and_spread([120.0, 90.0, 100.0]) == (100.0, pytest.approx(0.3))
    assert sides.median_and_spread([5.0]) == (5.0, 0.0)


def test_sides_take_turns_and_one_that_fails_stops_no_other(
    sides: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = []

    def start(bench: object, way: str, amount: float) -> object:
        def run() -> None:
            turns.append(way)
            if way == "transformers" and turns.count(way) == 2:
                raise RuntimeError("out of memory")

        return sides.Entrant(lambda: None, run, amount, lambda taken: f"{taken:.0f} s")

    # "sdpa" takes 1, 2 and 4 seconds, the other one 1, and then fails.
    taken = iter([1.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(sides, "seconds", lambda run: (run(), next(taken))[1])
    with open(tmp_path / "rows.jsonl", "w") as file:
        bench = sides.Bench(torch.device("cpu"), False, file, "4 training", time.monotonic() + 60)
        ways = {"sdpa": 0.0, "transformers": 0.0, "flash, plain": 0.0, "transformers, late": 99.0}
        sides.in_turn(bench, "base", ways, start, 8.0)
    assert turns == ["sdpa", "transformers", "sdpa", "transformers", "sdpa"]
    found = {row["name"]: (row["value"], row["unit"], row["more"]) for row in bench.rows}
    assert found["base, sdpa"] == (4.0, "tokens/s", "2 s, spread 150.0% of 3 rounds")
    assert found["base, transformers"] == (None, "error", "RuntimeError: out of memory")
    assert found["base, flash, plain"] == (None, "skipped", "needs a GPU")
    assert found["base, transformers, late"] == (None, "skipped", "needs 99.0 s, 60 are left")


def test_ours_is_quoted_beside_what_is_compiled_as_it_is(sides: ModuleType) -> None:
    plain, compiled = "transformers, gathered", "transformers, compiled"
    others = dict.fromkeys((plain, compiled, "sdpa", "flash, compiled"), 1.0)
    assert sides.peers("sdpa", others) == [plain]
    assert sides.peers("flash, plain", others) == [plain]
    assert sides.peers("flash, compiled", others) == [compiled]
    assert sides.peers("flash, fused", others) == [plain, compiled]
    assert sides.peers(compiled, others) == []


def test_a_kernel_belongs_to_the_first_category_that_its_name_fits(gpu: ModuleType) -> None:
    names = {
        "nvjet_sm90_tst_192x96_64x5_1x2_h_bz_NTT": "products",
        "cublasLt::splitKreduce_kernel<32, 16, int>": "products",
        "pytorch_flash::flash_bwd_dot_do_o_kernel<true>": "attention",
        # of PyTorch's "MemEffAttention", which is no copy of memory
        "fmha_cutlassB_bf16_aligned_64x64(PyTorchMemEffAttention::Attention": "attention",
        "vectorized_layer_norm_kernel<float, float, false>": "LayerNorm",
        "GammaBetaBackwardCUDAKernelTemplate<float, float, 32u>": "LayerNorm",
        "unrolled_elementwise_kernel<direct_copy_kernel_cuda(at::Tensor": "copies and casts",
        "vectorized_elementwise_kernel<8, CUDAFunctor_add<float>>": "adds",
        "vectorized_elementwise_kernel<4, GeluBackwardCUDAKernelImpl": "GELU",
        "fused_dropout_kernel_vec<float, float, unsigned int, 1, 4>": "dropout",
        "reduce_kernel<128, 4, ReduceOp<c10::BFloat16, func_wrapper_t": "sums",
        "softmax_warp_forward<float, float, float, 10, true>": "loss",
        "nll_loss_forward_no_reduce_cuda_kernel<float, long>": "loss",
        "embedding_backward_feature_kernel": "embeddings",
        "cub::DeviceRadixSortOnesweepKernel": "embeddings",
        "multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>": "optimizer and norm",
        "Memcpy DtoD (Device -> Device)": "memory",
        "elementwise_kernel<tanh>": "other",
    }
    assert {name: gpu.category_of(name) for name in names} == names
    kernels = [("nvjet_a", 2.0, 3), ("elementwise", 6.0, 1), ("nvjet_b", 5.0, 4)]
    assert list(gpu.by_category(kernels).items()) == [("products", (7.0, 7)), ("other", (6.0, 1))]


def test_parts_of_a_fixed_time_get_it_and_the_others_their_shares(gpu: ModuleType) -> None:
    parts = {
        "0 warm-up": gpu.Part(print, fixed=60),
        "1 card": gpu.Part(print, fixed=30),
        "3 exactness": gpu.Part(print, 1),
        "4 training": gpu.Part(print, 2),
    }
    ends = {"0 warm-up": 60, "1 card": 90, "3 exactness": 210, "4 training": 450}
    assert gpu.plan(parts, 450) == pytest.approx(ends)
    # With little time half of it is fixed.
    ends = {"0 warm-up": 20, "1 card": 30, "3 exactness": 40, "4 training": 60}
    assert gpu.plan(parts, 60) == pytest.approx(ends)
    assert gpu.plan({"1 card": parts["1 card"]}, 50) == {"1 card": 30}
    assert gpu.plan({"4 training": parts["4 training"]}, 50) == {"4 training": 50}
    # A nine minutes' run gives the card its half minute, and training most.
    ends = gpu.plan(gpu.PARTS, 450)
    assert ends["1 card"] - ends["0 warm-up"] == 30
    assert max(ends.values()) == pytest.approx(450)


def test_the_difference_of_gradients_names_the_parameter_where_it_is_most(gpu: ModuleType) -> None:
    exact = {"large": torch.full((4,), 10.0), "small": torch.tensor([1.0]), "none": torch.zeros(2)}
    found = {"large": torch.full((4,), 11.0), "small": torch.tensor([1.5]), "none": torch.zeros(2)}
    whole, most, name = gpu.difference(exact, found)
    assert (whole, most, name) == (pytest.approx((4.25 / 401) ** 0.5), 0.5, "small")


def test_a_model_without_fused_kernels_says_so_and_plain_switches_them_off(
    sides: ModuleType,
) -> None:
    model = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2))
    sides.choose_kernels(model, False)
    with pytest.raises(sides.Skipped, match="no fused kernels"):
        sides.choose_kernels(model, True)
    model[0].fused = True
    sides.choose_kernels(model, True)
    assert model[0].fused is True
    sides.choose_kernels(model, False)
    assert model[0].fused is False


def test_saves_tell_copying_from_waiting_and_writing(
    sides: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(sides.time, "perf_counter", lambda: now[0])

    def takes(n_seconds: float) -> None:
        now[0] += n_seconds

    checkpoints = SimpleNamespace(wait=lambda: takes(2.0), write=lambda *_: takes(5.0))

    def save() -> None:
        takes(1.0)
        checkpoints.wait()

    trainer = SimpleNamespace(save=save, checkpoints=checkpoints)
    times = sides.Saves(trainer)
    trainer.save()
    checkpoints.write({}, Path("a"), Path("b"))
    checkpoints.wait()
    assert str(times) == (
        "1 saves: copy 1.00 s, wait 2.00 s, write 5.00 s in a thread, 2.00 s of it at the end"
    )
