"""Which process this is and of how many, and what they tell each other: torch.distributed, started
by torchrun.

    $ torchrun --nproc_per_node 2 classify.py --task mrpc --data_dir GLUE/MRPC --pretrain_file FOLDER

A single process needs none of it: there, every function returns at once. What the processes agree
on (flags, settings, numbers to print) travels between CPUs by gloo, so that no GPU has to wait for
it; gradients by nccl where there are GPUs.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

from utils import UserError, rank, size

STORE: list[Any] = []  # where processes leave words for each other; empty until start()
MESHES: list[Any] = []  # what shard() has made


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
    """Join the other processes, if a launcher has started several; the first alone prints from now
    on.
    """
    if size() == 1 or STORE:
        return
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    # before there is a group, which its functions would keep as their default
    import torch.distributed.nn.functional

    wait = timedelta(seconds=timeout())
    if torch.cuda.is_available():
        if local_rank() >= (n := torch.cuda.device_count()):
            raise UserError(
                f"process {local_rank()} of this machine has no GPU, of which it has {n}; start "
                f"{n} processes "
                f"(--nproc_per_node), or hide the GPUs (CUDA_VISIBLE_DEVICES=)"
            )
        torch.cuda.set_device(local_rank())
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=wait))
    except ValueError as error:
        raise UserError(
            f"WORLD_SIZE={size()}, but {error}; start the processes by torchrun"
        ) from None
    STORE[:] = [
        dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    ]
    store = dist.PrefixStore(generation(store), store)
    STORE[:] = [dist.PrefixStore("bert", store)]
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        timeout=wait,
        store=store,
        rank=rank(),
        world_size=size(),
    )
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=follow, args=(os.getppid(),), daemon=True).start()
    if rank():
        sys.stdout = open(os.devnull, "w")


def generation(store: Any) -> str:
    """A name that the processes of this start alone agree on. torchrun keeps the store when it
    starts processes again, on some machines or all, and what those before have left there must not
    be mistaken for theirs.
    """
    mine, until, name = uuid.uuid4().hex, time.monotonic() + timeout(), uuid.uuid4().hex
    store.set(f"hello {rank()}", mine)
    while time.monotonic() < until:
        if rank() == 0:  # tell everybody whom it means, until all have understood
            everybody = [
                store.get(key).decode() if store.check([key]) else ""
                for key in (f"hello {r}" for r in range(size()))
            ]
            store.set("go", " ".join([name, *everybody]))
            if all(store.check([f"{name} {r}"]) for r in range(1, size())):
                return name
        elif store.check(["go"]):
            name, *everybody = store.get("go").decode().split(" ")
            if everybody[rank() : rank() + 1] == [mine]:
                store.set(f"{name} {rank()}", "")
                return name
        time.sleep(0.05)
    heard = (
        [r for r in range(1, size()) if store.check([f"{name} {r}"])]
        if rank() == 0
        else range(1, size())
    )
    silent = [str(r) for r in range(size()) if r != rank() and r not in heard]
    raise UserError(
        f"process{'es' * (len(silent) > 1)} {', '.join(silent)} of {size()} did not answer within "
        f"{timeout():g} seconds; see why, or set BERT_TIMEOUT to more"
    )


def follow(launcher: int) -> None:
    """End as on SIGTERM when the launcher is gone; nobody else would end this process then."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def end() -> None:
    """Take leave of the other processes. Whatever holds the group lets go of it, so that gloo's
    threads end here: one that drops a tensor while Python ends would abort the process
    (pytorch/pytorch#190489).
    """
    if STORE:
        import torch.distributed as dist

        STORE.clear()
        for mesh in MESHES:  # which PyTorch's caches keep
            getattr(mesh, "_pg_registry", {}).clear()
        MESHES.clear()
        gc.collect()  # sharded models
        dist.destroy_process_group()


def local_rank() -> int:
    """The number of this process among those of its machine, from 0: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", str(rank())))


# ----------------------------------------------------------------------------------- what is shared


def any_of(*flags: int) -> list[int]:
    """The greatest value that any process has for each flag."""
    if size() == 1:
        return list(flags)
    import torch
    import torch.distributed as dist

    values = torch.tensor(flags)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return values.tolist()


def meet() -> None:
    """Wait for all other processes."""
    any_of(0)


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


def from_first(value: Any) -> Any:
    """What the first process has: any object; tensors in its dicts and lists go one by one."""
    if size() == 1:
        return value
    import torch
    import torch.distributed as dist

    tensors: list[torch.Tensor] = []

    def pack(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            tensors.append(part.contiguous())
            return torch.empty_like(part, device="meta")
        if isinstance(part, dict):
            return {key: pack(item) for key, item in part.items()}
        return [pack(item) for item in part] if isinstance(part, list) else part

    def unpack(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            tensor = tensors.pop(0) if rank() == 0 else torch.empty_like(part, device="cpu")
            dist.broadcast(tensor, 0)
            return tensor
        if isinstance(part, dict):
            return {key: unpack(item) for key, item in part.items()}
        return [unpack(item) for item in part] if isinstance(part, list) else part

    packed = [pack(value) if rank() == 0 else None]
    dist.broadcast_object_list(packed, 0)
    return unpack(packed[0])


def check_same(what: str, values: dict[str, Any]) -> None:
    """UserError, in every process, where one has other values than the first."""
    first, *others = gather(values)
    for number, theirs in enumerate(others, start=1):
        if different := [
            f"{name} is {theirs.get(name)!r}, the first one's {first.get(name)!r}"
            for name in sorted(first | theirs)
            if first.get(name) != theirs.get(name)
        ]:
            raise UserError(
                f"process {number} has other {what} ({'; '.join(different[:5])}); start all with "
                "the same "
                f"flags and files"
            )


# ---------------------------------------------------------------------------------- sharded tensors


def shard(model: Any, blocks: Any, device_type: str) -> None:
    """Divide a model's parameters, and with them gradients and the optimizer's state, among the
    processes (FSDP2): each of the blocks apart, and what lies around them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    warnings.filterwarnings(
        "ignore", message="FSDP2-wrapped module"
    )  # of in-place changes, which no head makes
    mesh = init_device_mesh(device_type, (size(),))
    MESHES.append(mesh)
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


@contextlib.contextmanager
def gathered(model: Any) -> Iterator[None]:
    """A sharded model whose parts can be called by themselves, not only as a whole, once it has
    been called as a whole.
    """
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
    if not hasattr(other, "placements"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


# ----------------------------------------------------------------------------------- when one fails


def is_lost(error: BaseException | None) -> bool:
    """Whether an error means that another process does not answer."""
    if size() == 1 or not isinstance(error, RuntimeError):
        return False
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error)


def leave_reason(reason: str) -> bool:
    """Leave the reason why this process ends, for those it leaves alone; False if another one has
    been before.
    """
    if not STORE:
        return rank() == 0  # before start() all fail alike
    mine = f"{rank()} {reason}"
    try:
        return STORE[0].compare_set("reason", "", mine).decode() == mine
    except Exception:  # the store has gone with the process that held it
        return True


def why_lost(error: BaseException | None) -> str | None:
    """Why another process does not answer, in words; None where that one has told it."""
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # torchrun ends those that are left, once they have told
    closed = any(word in str(error) for word in ("closed", "reset", "refused", "Broken pipe"))
    try:
        STORE[0].set(f"here {rank()}", "")
        time.sleep(2)  # for the others to do the same
        if STORE[0].check(["reason"]):
            return None
        silent = [r for r in range(size()) if not STORE[0].check([f"here {r}"])]
    except Exception:
        silent = [0]
    names = (
        f"process{'es' * (len(silent) > 1)} {', '.join(map(str, silent))}"
        if silent
        else "another process"
    )
    if closed:
        return f"{names} of {size()} has ended without a word (killed?); the same command goes on from the last checkpoint"
    return (
        f"{names} of {size()} did not answer within {timeout():g} seconds; see what it does, or "
        "set BERT_TIMEOUT to "
        f"more; the same command goes on from the last checkpoint"
    )
