"""A step of BertAdam, with its clipping and schedule, against torch's fused AdamW on the parameters
of BERT-base.

$ python benchmarks/optimizer.py
"""

import statistics

import torch
from common import as_command, report, seconds

from models import Classifier, Config
from optim import BertAdam, parameter_groups
from system.cli import command


def run(repeats: int = 30) -> None:
    """Time steps in turn.

    Args:
        repeats: medians of this many.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours, theirs = Classifier(Config()).to(device), Classifier(Config()).to(device)
    bert_adam = BertAdam(parameter_groups(ours), 1e-5, 10**6)
    adamw = torch.optim.AdamW(parameter_groups(theirs), 1e-5, fused=True)
    table = [
        "| gradients | AdamW, fused | clip_grad_norm_ and AdamW | BertAdam | of AdamW | of both |",
        "|---|---|---|---|---|---|",
    ]
    for model in (ours, theirs):
        for p in model.parameters():
            p.grad = torch.randn_like(p)

    for name, norm in (("shorter than max_grad_norm", 0.5), ("longer, so clipped", 2.0)):

        def clip_and_step() -> None:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            adamw.step()

        taken: dict[str, list[float]] = {}
        for _ in range(repeats + 3):
            for side, step in (
                ("adamw", adamw.step),
                ("both", clip_and_step),
                ("ours", bert_adam.step),
            ):
                for model in (
                    ours,
                    theirs,
                ):  # clipping shortens the gradients in place: make them anew
                    factor = norm / torch.nn.utils.get_total_norm(
                        [p.grad for p in model.parameters()]
                    )
                    for p in model.parameters():
                        p.grad.mul_(factor)
                taken.setdefault(side, []).append(seconds(step) * 1e3)
        adam, both, mine = (
            statistics.median(taken[side][3:]) for side in ("adamw", "both", "ours")
        )
        table.append(
            f"| {name} | {adam:.1f} ms | {both:.1f} ms | {mine:.1f} ms | {mine / adam:.2f} | "
            f"{mine / both:.2f} |"
        )
    n = sum(p.numel() for p in ours.parameters())
    report("optimizer", f"A step of the optimizer on {n / 1e6:.0f}M parameters", "\n".join(table))


if __name__ == "__main__":
    command(as_command(run))
