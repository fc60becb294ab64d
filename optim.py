"""BertAdam, the optimizer BERT was trained with; its schedules and parameter groups.

    optimizer = BertAdam(parameter_groups(model), lr=2e-5, total_steps=345, warmup=0.1)
    loss.backward()
    norm = optimizer.step()
    optimizer.zero_grad()

Source of the rule: optimization.py of google-research/bert.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from system import distributed
from utils import UserError, nearest

# The share of the learning rate at update s (from 0) of T, after the w in which it rises.
SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "warmup_linear": lambda s, w, T: 1 - s / T,  # Google's: it falls to 1 - w/T at s = w
    "linear": lambda s, w, T: (T - s) / max(1, T - w),  # from 1 at s = w to 0 at T
    "warmup_cosine": lambda s, w, T: (1 + math.cos(math.pi * s / T)) / 2,
    # transformers': from 1 at s = w to 0 at T
    "cosine": lambda s, w, T: (1 + math.cos(math.pi * (s - w) / max(1, T - w))) / 2,
    "warmup_constant": lambda s, w, T: 1.0,
}

BLOCK = re.compile(r"transformer\.blocks\.(\d+)")  # the name of a block of the encoder


def rate(schedule: str, step: int, warmup_steps: int, total_steps: int) -> float:
    """The share of the learning rate that an update uses, counted from 0.

    Past total_steps it stays where it ended.

    rate("warmup_linear", 0, 10, 100) -> 0.0
    rate("warmup_linear", 5, 10, 100) -> 0.5
    rate("warmup_linear", 10, 10, 100) -> 0.9
    """
    # The warm-up rises from 0, so that the first update changes nothing, as in Google's code.
    if step < warmup_steps:
        return step / warmup_steps
    # A run that goes on past total_steps must not get a negative rate.
    return SCHEDULES[schedule](min(step, total_steps), warmup_steps, total_steps)


def parameter_groups(
    model: nn.Module,
    weight_decay: float = 0.01,
    lr: float | None = None,
    head_lr: float | None = None,
    layer_decay: float = 1.0,
    head_steps: int = 0,
) -> list[dict[str, Any]]:
    """Groups of parameters with the same decay and learning rate; frozen ones are in none.

    Matrices and embeddings decay, biases and LayerNorm do not. With `lr` a group has a rate of its
    own: the top block `lr`, every block below it `layer_decay` times that of the block above, the
    embeddings `layer_decay` times that of the lowest block; the head `head_lr`, or `lr`. In the
    first `head_steps` updates all but the head stay as they are.
    """
    depths = encoder_depths(model)
    groups: dict[tuple[float | None, bool, int], dict[str, Any]] = {}
    for prefix, module in model.named_modules():
        # recurse=False, so that each parameter is met once, in the module that owns it.
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            # By the kind of module: names alone do not say what a LayerNorm is.
            decays = not isinstance(module, nn.LayerNorm) and name != "bias"
            rate = group_lr(depths.get(prefix), lr, head_lr, layer_decay)
            new = {"params": [], "weight_decay": weight_decay if decays else 0.0}
            if rate is not None:
                new["lr"] = rate
            if wait := head_steps if prefix in depths else 0:
                new["wait"] = wait
            groups.setdefault((rate, decays, wait), new)["params"].append(parameter)
    return list(groups.values())


def encoder_depths(model: nn.Module) -> dict[str, int]:
    """{module of the encoder: blocks above it}: 0 in the top block, n_layers in the embeddings."""
    names = [name for name, _ in model.named_modules()]
    # The modules inside a block have the block's number, too.
    blocks = {name: int(match[1]) for name in names if (match := BLOCK.match(name))}
    n_blocks = 1 + max(blocks.values(), default=-1)
    depths = {name: n_blocks - 1 - number for name, number in blocks.items()}
    embeddings = [name for name in names if name.startswith("transformer.embedding")]
    return depths | dict.fromkeys(embeddings, n_blocks)


def group_lr(
    depth: int | None, lr: float | None, head_lr: float | None, layer_decay: float
) -> float | None:
    """The rate of what lies `depth` blocks below the top one; of the head where it is None."""
    if lr is None:
        # None leaves the group with the optimizer's own rate.
        return None
    if depth is None:
        return lr if head_lr is None else head_lr
    return lr * layer_decay**depth


class BertAdam(torch.optim.AdamW):
    """Adam: decoupled weight decay, clipping by the global norm, a schedule, no bias correction.

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
        # The fused kernel also takes the clipping factor and the check for finite values.
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        self.schedule, self.total_steps = schedule, total_steps
        # Rounded down, as Google's code counts warm-up steps.
        self.warmup_steps = int(total_steps * warmup)
        self.max_grad_norm, self.bias_correction = max_grad_norm, bias_correction
        # The schedule scales initial_lr; "lr" is what the last update used.
        for group in self.param_groups:
            group.setdefault("initial_lr", group["lr"])
            # Counted here, so that state_dict() has it.
            group.setdefault("updates", 0)
        device = self.param_groups[0]["params"][0].device
        # The first update refused because a value was not finite; -1: none.
        self.failed_step = torch.tensor(-1, device=device)

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
    def step(  # type: ignore[override]
        self, closure: None = None, *, loss: Tensor | None = None
    ) -> Tensor:
        """Update the parameters; returns the global norm of the gradients before clipping.

        Where that norm (or `loss`, if given) is not finite, this update and all later ones change
        nothing, and `failed_step` tells which it was: a device can be asked every so often instead
        of every step.
        """
        share = rate(self.schedule, self.updates, self.warmup_steps, self.total_steps)
        grads, sharded = [], False
        for group in self.param_groups:
            # Its decay is a share of its rate, and its moments go on all the same.
            waits = self.updates < group.get("wait", 0)
            group["lr"] = 0.0 if waits else group["initial_lr"] * share
            for p in group["params"]:
                if p.grad is None:
                    continue
                # Of a sharded gradient the local part, which is all that this process updates.
                local = distributed.local(p.grad)
                sharded = local is not p.grad
                grads.append(local)
                if not self.state[p]:
                    # 2**24 + 1 is 2**24 in float32, so that counting up leaves the step alone.
                    first = 0.0 if self.bias_correction else 2.0**24
                    self.state[p] = {
                        "step": torch.full((), first, device=p.device),
                        "exp_avg": torch.zeros_like(p),
                        "exp_avg_sq": torch.zeros_like(p),
                    }
        assert grads, "no parameter has a gradient: call loss.backward() first"
        norm = global_norm(grads)
        if sharded:
            norm = distributed.total(norm**2).sqrt()
        finite = norm.isfinite() if loss is None else norm.isfinite() & loss.isfinite()
        # The first failed update is kept, and none after it is made.
        failed = torch.where(finite | (self.failed_step >= 0), self.failed_step, self.updates)
        self.failed_step.copy_(failed)
        # The kernel leaves everything alone where found_inf is 1, and divides by grad_scale.
        self.found_inf = (failed >= 0).float()
        self.grad_scale = None
        if norm.dtype == torch.float64:
            # grad_scale is a float32, so that float64 is clipped here.
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
    rows = [torch.linalg.vector_norm(grad, dim=-1).flatten() for grad in grads]
    return torch.linalg.vector_norm(torch.cat(rows))
