"""Which process this is and of how many, and what they tell each other.

    $ torchrun --nproc_per_node 2 classify.py --task mrpc --data_dir GLUE/MRPC --pretrain_file BERT

A single process needs none of it: there, every function returns at once. What the processes agree
on (flags, settings, numbers to print) travels between CPUs by gloo, so that no GPU has to wait for
it; gradients by nccl where there are GPUs.
"""

import contextlib
import dataclasses
import gc
import os
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from utils import UserError, rank, size


@dataclasses.dataclass
class Group:
    """What this process holds of the group that it has joined."""

    store: Any = None  # where processes leave words for each other; None until start()
    meshes: list[Any] = dataclasses.field(default_factory=list)  # what shard() has made


GROUP = Group()


def timeout() -> float:
    """Seconds that a process waits for another one."""
    value = os.environ.get("BERT_TIMEOUT", "600")
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e9:
        raise UserError(f"BERT_TIMEOUT={value}; expected seconds, more than 0")
    return seconds


def start() -> None:
    """Join the other processes, if a launcher has started several; then only the first prints."""
    # A single process, or a group that has been joined already: a notebook may ask twice.
    if size() == 1 or GROUP.store:
        return
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    # Before there is a group, which its functions would keep as their default argument.
    import torch.distributed.nn.functional

    wait = timedelta(seconds=timeout())
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        # Each process has the GPU of its number.
        if local_rank() >= (n := torch.cuda.device_count()):
            raise UserError(
                f"process {local_rank()} of this machine has no GPU, of which it has {n}; start "
                f"{n} processes (--nproc_per_node), or hide the GPUs (CUDA_VISIBLE_DEVICES=)"
            )
        torch.cuda.set_device(local_rank())
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=wait))
    except ValueError as error:
        raise UserError(
            f"WORLD_SIZE={size()}, but {error}; start the processes by torchrun"
        ) from None
    # Each start of torchrun's gets names of its own in the store, which outlives them.
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    GROUP.store = dist.PrefixStore(f"start {restarts}", store)
    store = dist.PrefixStore(agree_on_name(GROUP.store), GROUP.store)
    GROUP.store = dist.PrefixStore("bert", store)
    dist.init_process_group(backend, timeout=wait, store=store, rank=rank(), world_size=size())
    # torchrun ends its processes when one fails; if it is killed itself, nobody would.
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=exit_with_launcher, args=(os.getppid(),), daemon=True).start()
    # All processes print the same; the first one is enough.
    if rank():
        sys.stdout = open(os.devnull, "w")


def agree_on_name(store: Any) -> str:
    """A name for this start that all of its processes agree on.

    torchrun keeps the store when it starts processes again, on some machines or all, and what
    earlier ones have left there must not be mistaken for theirs. So each leaves a secret of its
    own; the first process publishes the secrets it has seen, until everybody has found theirs.
    """
    secret, name = uuid.uuid4().hex, uuid.uuid4().hex
    # A process that never starts must not keep the others waiting forever.
    until = time.monotonic() + timeout()
    others = range(1, size())
    store.set(f"hello {rank()}", secret)
    while time.monotonic() < until:
        # Only who finds its secret among those published belongs to this start.
        if rank() == 0:
            keys = [f"hello {r}" for r in range(size())]
            seen = [store.get(key).decode() for key in keys if store.check([key])]
            store.set("go", " ".join([name, *seen]))
            if all(store.check([f"{name} {r}"]) for r in others):
                return name
        elif store.check(["go"]):
            name, *seen = store.get("go").decode().split(" ")
            if secret in seen:
                store.set(f"{name} {rank()}", "")
                return name
        time.sleep(0.05)
    silent = [r for r in others if not store.check([f"{name} {r}"])] if rank() == 0 else [0]
    raise UserError(
        f"{processes(silent)} of {size()} did not answer within {timeout():g} seconds; see why, or "
        "set BERT_TIMEOUT to more"
    )


def processes(numbers: list[int]) -> str:
    """processes([3]) -> 'process 3'      processes([1, 2]) -> 'processes 1, 2'"""
    return f"process{'es' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def exit_with_launcher(launcher: int) -> None:
    """End as on SIGTERM when the launcher is gone; nobody else would end this process then."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def end() -> None:
    """Leave the group.

    Whatever holds the group lets go of it, so that gloo's threads end here: one that drops a tensor
    while Python ends would abort the process (pytorch/pytorch#190489).
    """
    if not GROUP.store:
        return
    import torch.distributed as dist

    GROUP.store = None
    # PyTorch's caches keep the meshes, and these the group.
    for mesh in GROUP.meshes:
        getattr(mesh, "_pg_registry", {}).clear()
    GROUP.meshes.clear()
    gc.collect()  # sharded models
    dist.destroy_process_group()


def local_rank() -> int:
    """The number of this process among those of its machine, from 0: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", str(rank())))


# ----------------------------------------------------------------------------------- what is shared


def maximum(value: int) -> int:
    """The greatest value that any process has."""
    if size() == 1:
        return value
    # PyTorch is loaded when it is needed: preparing a corpus is one process without it.
    import torch
    import torch.distributed as dist

    values = torch.tensor([value])
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return int(values)


def wait_for_all() -> None:
    """Wait until every process has come here."""
    maximum(0)


def total(value: Any) -> Any:
    """The sum of a tensor over all processes, in place."""
    if size() > 1:
        import torch.distributed as dist

        dist.all_reduce(value)
    return value


def gather(value: Any) -> list[Any]:
    """What every process has, in their order."""
    if size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def map_tensors(value: Any, function: Callable[[Any], Any]) -> Any:
    """A value with what a function makes of its tensors, also of those in dicts and lists."""
    import torch

    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, list):
        return [map_tensors(item, function) for item in value]
    return value


def from_first(value: Any) -> Any:
    """What the first process has: any object; the tensors in it are sent one by one."""
    if size() == 1:
        return value
    import torch
    import torch.distributed as dist

    tensors: list[torch.Tensor] = []

    # The outline has each tensor's shape and type, so that the others know what to expect.
    def take_out(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor.contiguous())
        return torch.empty_like(tensor, device="meta")

    def exchange(shape: torch.Tensor) -> torch.Tensor:
        # Broadcast writes into a tensor of the right shape, which the others make first.
        tensor = tensors.pop(0) if rank() == 0 else torch.empty_like(shape, device="cpu")
        dist.broadcast(tensor, 0)
        return tensor

    outline = [map_tensors(value, take_out) if rank() == 0 else None]
    dist.broadcast_object_list(outline, 0)
    return map_tensors(outline[0], exchange)


def check_same(what: str, values: dict[str, Any]) -> None:
    """UserError, in every process, where one has other values than the first."""
    first, *others = gather(values)
    for number, theirs in enumerate(others, start=1):
        different = [
            f"{name} is {theirs.get(name)!r}, the first one's {first.get(name)!r}"
            for name in sorted(first | theirs)
            if first.get(name) != theirs.get(name)
        ]
        if different:
            raise UserError(
                f"process {number} has other {what} ({'; '.join(different[:5])}); start all with "
                "the same flags and files"
            )


# ---------------------------------------------------------------------------------- sharded tensors


def shard(model: Any, device_type: str) -> None:
    """Divide a model's parameters, gradients and optimizer state among the processes (FSDP2).

    The members of each ModuleList, such as the blocks of an encoder, are gathered one at a time.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It warns of in-place changes, which no model here makes.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    mesh = init_device_mesh(device_type, (size(),))
    GROUP.meshes.append(mesh)
    # A block at a time is gathered for its forward pass, so that no GPU ever holds the whole model.
    for module in list(model.modules()):
        if isinstance(module, torch.nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh)
    # What is in no block, such as the embeddings, belongs to the model as a whole.
    fully_shard(model, mesh=mesh)


@contextlib.contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Within it, the parts of a sharded model can be called by themselves.

    The model has to have been called as a whole before.
    """
    # FSDP2 gives a model these methods, and no others have them.
    sharded = hasattr(model, "unshard")
    if sharded:
        model.unshard()
    try:
        yield
    finally:
        if sharded:
            model.reshard()


def local(tensor: Any) -> Any:
    """This process's part of a sharded tensor; any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Any) -> Any:
    """All of a sharded tensor, in every process, all of which have to ask; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def sharded_like(tensor: Any, other: Any) -> Any:
    """A whole tensor, sharded as another one is."""
    # Whole tensors are what a checkpoint holds, and what an unsharded model takes.
    if not hasattr(other, "placements"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # Every process has the whole tensor, so that each takes its part without sending anything.
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


# ----------------------------------------------------------------------------------- when one fails


def peer_failed(error: BaseException | None) -> bool:
    """Whether an error means that another process does not answer."""
    if size() == 1 or not isinstance(error, RuntimeError):
        return False
    import torch.distributed as dist

    # gloo raises a plain RuntimeError that names it.
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def publish_failure(reason: str) -> bool:
    """Leave the reason why this process ends, for the others; False if one has been left before."""
    if not GROUP.store:
        # Before start() all fail alike, and the first one reports.
        return rank() == 0
    mine = f"{rank()} {reason}"
    try:
        # The first reason wins: errors of the others follow from it.
        return GROUP.store.compare_set("reason", "", mine).decode() == mine
    except Exception:
        # The store has gone with the process that held it.
        return True


def diagnose(error: BaseException | None) -> str | None:
    """Why another process does not answer, in words; None where that one has reported it."""
    # torchrun ends those that are left once they have reported.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A connection that is closed means that the process is gone; otherwise it is only slow.
    closed = any(word in str(error) for word in ("closed", "reset", "refused", "Broken pipe"))
    try:
        GROUP.store.set(f"here {rank()}", "")
        # Time for the others to do the same.
        time.sleep(2)
        if GROUP.store.check(["reason"]):
            return None
        silent = [r for r in range(size()) if not GROUP.store.check([f"here {r}"])]
    except Exception:
        # The store is kept by the first process.
        silent = [0]
    names = processes(silent) if silent else "another process"
    what = (
        f"did not answer within {timeout():g} seconds; see what it does, or set BERT_TIMEOUT to "
        "more"
    )
    if closed:
        what = "has ended without a word (killed?)"
    return f"{names} of {size()} {what}; the same command resumes from the last checkpoint"
