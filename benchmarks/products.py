"""Which float32 products suit training on this processor: PyTorch's own, MKL on most, or oneDNN's.

    $ python benchmarks/products.py
    $ ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \\
        python benchmarks/products.py  # as if it had no AVX-512

A layer's product and both of its gradients, in the shapes of minilm and base. The rule is that of
layers/kernels.py: a run has to give the same bits when it is resumed, so that nothing is measured
then.
"""

import statistics

import torch
from common import as_command, report, seconds

from layers import kernels
from system.cli import command

SHAPES = [
    *((384, 1152), (384, 384), (384, 1536), (1536, 384)),  # minilm
    *((768, 2304), (768, 768), (768, 3072), (3072, 768)),  # base
]
ROWS = 64, 300, 1000, 2048


def run(repeats: int = 15) -> None:
    """Time both in turn.

    Args:
        repeats: medians of so many.
    """
    table = [
        "| inputs, outputs | rows | PyTorch, GFLOP/s | oneDNN | times |",
        "|---|---|---|---|---|",
    ]
    ratios = []
    for n_in, n_out in SHAPES:
        for n_rows in ROWS:
            taken = times(n_rows, n_in, n_out, repeats)
            pytorch, onednn = (
                6 * n_rows * n_in * n_out / statistics.median(taken[name]) / 1e9 for name in taken
            )
            ratios.append(onednn / pytorch)
            table.append(
                f"| {n_in}, {n_out} | {n_rows} | {pytorch:.0f} | {onednn:.0f} | {ratios[-1]:.2f} |"
            )
    note = (
        f"oneDNN's rate is {min(ratios):.2f} to {max(ratios):.2f} times PyTorch's, "
        f"{statistics.geometric_mean(ratios):.2f} in the mean. The rule takes "
        f"{kernels.usual_products()}."
    )
    found = torch.backends.cpu.get_cpu_capability()
    title = f"Float32 products of a training step, by {found}"
    report(f"products_{found.lower()}", title, "\n".join([*table, "", note]))


def times(n_rows: int, n_in: int, n_out: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of a product and its gradients, by the name of its way."""
    x, weight = torch.randn(n_rows, n_in), torch.randn(n_out, n_in)
    bias, gradient = torch.randn(n_out), torch.randn(n_rows, n_out)
    leaves = [x, weight, bias]
    for leaf in leaves:
        leaf.requires_grad_()

    def step() -> None:
        torch.autograd.grad(kernels.linear(*leaves), leaves, gradient)

    taken: dict[str, list[float]] = {"pytorch": [], "onednn": []}
    for i in range(repeats + 2):
        for way, found in taken.items():
            kernels.PRODUCTS.chosen = way
            took = seconds(step)
            if i > 1:
                found.append(took)
    kernels.PRODUCTS.chosen = None
    return taken


if __name__ == "__main__":
    command(as_command(run))
