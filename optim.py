"""BertAdam, the optimizer BERT was trained with, its learning-rate schedules and its parameter
groups.

    optimizer = BertAdam(parameter_groups(model), lr=2e-5, total_steps=345, warmup=0.1)
    loss.backward(); norm = optimizer.step(); optimizer.zero_grad()

Source of the rule: optimization.py of google-research/bert.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import distributed
from utils import UserError, nearest

# The share of the learning rate at update s (from 0) of T, after the first w, in which it rises
# from 0.
SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "warmup_linear": lambda s, w, T: 1 - s / T,  # Google's: it falls to 1 - w/T at s = w
    "linear": lambda s, w, T: (T - s) / max(1, T - w),  # from 1 at s = w to 0 at T
    "warmup_cosine": lambda s, w, T: (1 + math.cos(math.pi * s / T)) / 2,
    "warmup_constant": lambda s, w, T: 1.0,
}


def rate(schedule: str, step: int, warmup_steps: int, total_steps: int) -> float:
    """The share of the learning rate that an update uses, counted from 0; past total_steps it stays
    where it ended.

    rate("warmup_linear", 0, 10, 100) -> 0.0    rate("warmup_linear", 5, 10, 100) -> 0.5    (50, 10,
    100) -> 0.5
    """
    if step < warmup_steps:
        return step / warmup_steps
    return SCHEDULES[schedule](min(step, total_steps), warmup_steps, total_steps)


def parameter_groups(
    model: nn.Module,
    weight_decay: float = 0.01,
    lr: float | None = None,
    head_lr: float | None = None,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups by kind of parameter and by rate; what needs no gradient is in none.

    Matrices and embeddings decay, biases and LayerNorm do not. With `lr` a group has its rate: the
    top block `lr`, every block below it `layer_decay` times its upper neighbour's, the embeddings
    that of the lowest block once more; what lies above the encoder `head_lr`, or `lr`.
    """
    blocks = 1 + max(
        (
            int(n)
            for n in re.findall(
                r"transformer\.blocks\.(\d+)\b", " ".join(dict(model.named_modules()))
            )
        ),
        default=-1,
    )
    groups: dict[tuple[float | None, bool], list[nn.Parameter]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                plain = isinstance(module, nn.LayerNorm) or name == "bias"
                block = re.match(r"transformer\.(?:blocks\.(\d+)|embedding)", prefix)
                depth = blocks - 1 - int(block[1] or -1) if block else 0  # 0: the top block
                rate = (
                    lr
                    if lr is None
                    else lr * layer_decay**depth
                    if block
                    else lr
                    if head_lr is None
                    else head_lr
                )
                groups.setdefault((rate, plain), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if plain else weight_decay,
            **({} if rate is None else {"lr": rate}),
        }
        for (rate, plain), parameters in groups.items()
    ]


class BertAdam(torch.optim.AdamW):
    """Adam with decoupled weight decay, gradients clipped by their global norm, the schedule, and
    no bias correction.

    A step is PyTorch's fused AdamW kernel. Its bias correction divides by 1 - beta**step, which is
    1 exactly when the step is 2**24 (a float32 that counting leaves as it is); with
    `bias_correction` the step starts at 0 as usual. The kernel also divides by the clipping factor
    and leaves everything alone when told that a gradient is not finite, so neither costs a pass
    over memory or a wait for a GPU.

    Args:
        params: parameters or groups; a group may have its own lr and weight_decay.
        lr: the learning rate that the schedule takes its share of.
        total_steps: T of the schedule, in updates.
        warmup: share of total_steps in which the rate rises from 0.
        schedule: one of SCHEDULES.
        max_grad_norm: longest gradient (2-norm over all parameters); inf leaves them as they are.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        total_steps: int,
        warmup: float = 0.1,
        schedule: str = "warmup_linear",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
        bias_correction: bool = False,
    ):
        if schedule not in SCHEDULES:
            raise UserError(
                f"schedule={schedule!r}{nearest(schedule, SCHEDULES)}; expected "
                f"{', '.join(SCHEDULES)}"
            )
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        self.schedule, self.total_steps, self.warmup_steps = (
            schedule,
            total_steps,
            int(total_steps * warmup),
        )
        self.max_grad_norm, self.bias_correction = max_grad_norm, bias_correction
        for group in self.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group.setdefault("updates", 0)  # counted here, so that state_dict() has it
        device = self.param_groups[0]["params"][0].device
        self.failed_step = torch.tensor(
            -1, device=device
        )  # first update refused for a value not finite; -1: none

    @property
    def updates(self) -> int:
        """How many updates have been made."""
        return self.param_groups[0]["updates"]

    @property
    def lr(self) -> float:
        """The learning rate of the next update (of the first group)."""
        share = rate(self.schedule, self.updates, self.warmup_steps, self.total_steps)
        return self.param_groups[0]["initial_lr"] * share

    @torch.no_grad()
    def step(self, closure: None = None, *, loss: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Update the parameters; returns the global norm of the gradients before clipping.

        Where that norm (or `loss`, if given) is not finite, this update and all later ones change
        nothing, and `failed_step` tells which it was: a device can be asked every so often instead
        of every step.
        """
        share = rate(self.schedule, self.updates, self.warmup_steps, self.total_steps)
        grads, sharded = [], False
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * share
            for p in group["params"]:
                if p.grad is not None:
                    grads.append(distributed.local(p.grad))
                    sharded = grads[-1] is not p.grad
                    if not self.state[p]:
                        start = torch.tensor(
                            0.0 if self.bias_correction else 2.0**24, device=p.device
                        )
                        self.state[p] = {
                            "step": start,
                            "exp_avg": torch.zeros_like(p),
                            "exp_avg_sq": torch.zeros_like(p),
                        }
        assert grads, "no parameter has a gradient: call loss.backward() first"
        norm = global_norm(grads)
        if sharded:  # the parts that the other processes have
            norm = distributed.total(norm**2).sqrt()
        finite = norm.isfinite() if loss is None else norm.isfinite() & loss.isfinite()
        self.failed_step.copy_(
            torch.where(finite | (self.failed_step >= 0), self.failed_step, self.updates)
        )
        self.found_inf = (self.failed_step >= 0).float()
        self.grad_scale = None
        if norm.dtype == torch.float64:  # the kernel's factor is a float32
            torch._foreach_mul_(grads, (self.max_grad_norm / norm).clamp(max=1))
        elif norm.device.type != "cpu" or norm > self.max_grad_norm:
            self.grad_scale = (norm / self.max_grad_norm).clamp(min=1).float()
        super().step()
        for group in self.param_groups:
            group["updates"] += 1
        return norm


def global_norm(grads: list[Tensor]) -> Tensor:
    """The 2-norm of all gradients together.

    On a CPU, row by row: PyTorch's own way takes twice as long and, in float32, loses three digits
    on a large matrix.
    """
    if grads[0].device.type != "cpu":
        return torch.nn.utils.get_total_norm(grads)
    return torch.linalg.vector_norm(
        torch.cat([torch.linalg.vector_norm(g, dim=-1).flatten() for g in grads])
    )
