"""Forward and backward of a small batch as one launch on a GPU, where launching takes the time.

graphs = StepGraphs(compute, model.parameters())
means = graphs(batch)   # as compute(batch), which leaves gradients; None: compute it without
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.batches import Batch, tensors_of, with_tensors
from utils import warn

MOST_GRAPHS = 128
MOST_TOKENS = 2**14  # of a batch: the kernels of a larger one take longer than their launches

Means = dict[str, Tensor]


def is_small(batch: Batch) -> bool:
    """Whether launching the kernels of a batch takes longer than running them."""
    return hasattr(batch, "input_mask") and int(batch.input_mask.sum()) <= MOST_TOKENS


def is_rounded(batch: Batch) -> bool:
    """Whether a batch was made up to a size that repeats."""
    return getattr(getattr(batch, "input_mask", None), "rounded", False)


class Recorded(NamedTuple):
    """A batch of some shape, recorded."""

    replay: Callable[[], None]
    inputs: list[Tensor]  # what it reads: a batch is copied into them
    means: Means  # what it writes
    parameters: list[nn.Parameter]  # those that get a gradient


class StepGraphs:
    """A graph for each shape of a batch, recorded when it comes the second time.

    The first batch of a shape is computed as it is, so that no step is lost to warming up. A graph
    draws from the state that the generator has when it is replayed: the same bits as without. The
    first one is compared with the step computed plainly before any is relied on.

    Args:
        compute: (batch) -> means; leaves a gradient at each parameter that has none before.
        parameters: of the model.
        seed: sets the generators to the state in which the step begins.
        record: how a function becomes one that replays it; a test may have its own.
    """

    def __init__(
        self,
        compute: Callable[[Batch], Means],
        parameters: Iterable[nn.Parameter],
        seed: Callable[[], None],
        record: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
    ):
        self.compute = compute
        self.parameters = [p for p in parameters if p.requires_grad]
        self.seed, self.record = seed, record or Recorder()
        self.seen = set[Any]()
        self.recorded: dict[Any, Recorded] = {}
        self.failed = False
        # One set for all graphs, or each would hold its own.
        self.grads = list[Tensor]()

    def __call__(self, batch: Batch) -> Means | None:
        """The means of a batch; None where it has to be computed without a graph."""
        tensors = tensors_of(batch)
        shape = tuple(tensor.shape for tensor in tensors)
        # Too many shapes to record would fill the memory.
        if self.failed or (len(self.recorded) == MOST_GRAPHS and shape not in self.recorded):
            return None
        if shape not in self.seen:
            self.seen.add(shape)
            return None
        if shape not in self.recorded:
            try:
                self.recorded[shape] = self.make(batch)
                differs = len(self.recorded) == 1 and self.differs(batch, shape)
                reason = "it gives other gradients than the step itself" if differs else ""
            except RuntimeError as error:
                reason = str(error).split("\n")[0]
            # Whatever was drawn, and left at the parameters, is undone.
            self.clear()
            if reason:
                self.failed = True
                warn(f"cuda_graphs: a step could not be recorded ({reason}); on without graphs")
                return None
        return self.replay(batch, shape)

    def replay(self, batch: Batch, shape: Any) -> Means:
        """The means of a batch whose shape is recorded, and its gradients at the parameters."""
        graph = self.recorded[shape]
        torch._foreach_copy_(graph.inputs, tensors_of(batch))
        graph.replay()
        reached = set(map(id, graph.parameters))
        for parameter, grad in zip(self.parameters, self.grads, strict=True):
            # What a batch does not reach has no gradient, as without a graph.
            parameter.grad = grad if id(parameter) in reached else None
        # The next replay writes over them.
        return {name: value.clone() for name, value in graph.means.items()}

    def differs(self, batch: Batch, shape: Any) -> bool:
        """Whether the gradients of a graph are others than those of the step itself."""
        self.clear()
        self.replay(batch, shape)
        found = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        self.clear()
        self.compute(batch)
        for parameter, grad in zip(self.parameters, found, strict=True):
            if grad is None or parameter.grad is None:
                if grad is not parameter.grad:
                    return True
                continue
            # Some kernels add up in an order that changes; other elements dropped change far more.
            largest = parameter.grad.abs().max()
            if not (grad - parameter.grad).abs().max() <= 0.02 * largest:
                return True
        return False

    def clear(self) -> None:
        """No gradients, and the generators as the step begins."""
        for parameter in self.parameters:
            parameter.grad = None
        self.seed()

    def make(self, batch: Batch) -> Recorded:
        """Record a batch of a new shape."""
        self.grads = self.grads or [torch.empty_like(p) for p in self.parameters]
        static = with_tensors(batch, (tensor.clone() for tensor in tensors_of(batch)))
        means, reached = Means(), list[nn.Parameter]()

        def step() -> None:
            means.update(self.compute(static))
            grads, made = list[Tensor](), list[Tensor]()
            reached.clear()
            for grad, parameter in zip(self.grads, self.parameters, strict=True):
                if parameter.grad is not None:
                    reached.append(parameter)
                    grads.append(grad)
                    made.append(parameter.grad)
            torch._foreach_copy_(grads, made)
            # Their memory is for the next graph.
            for parameter in self.parameters:
                parameter.grad = None

        return Recorded(self.record(step), tensors_of(static), means, reached)


@contextlib.contextmanager
def own_stream(device: torch.device, wanted: bool) -> Iterator[None]:
    """Within it, a GPU computes on a stream of its own: the default one cannot be recorded."""
    if not wanted or device.type != "cuda":
        yield
        return
    before, stream = torch.cuda.current_stream(device), stream_of(device)
    stream.wait_stream(before)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        before.wait_stream(stream)


@functools.cache
def stream_of(device: torch.device) -> torch.cuda.Stream:
    """The same one each time: gradients are added up on the stream that they first came on."""
    return torch.cuda.Stream(device)


class Recorder:
    """Records functions as CUDA graphs, which share their memory."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # The thread that makes batches pins memory meanwhile. torch.cuda.graph() would wait for the
        # GPU, and empty the allocator's cache each time.
        graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
        try:
            function()
        finally:
            graph.capture_end()
        return graph.replay
