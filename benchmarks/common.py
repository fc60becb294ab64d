"""What the benchmarks share: the real data, a description of the machine, and the files results go
to.
"""

import dataclasses
import datetime
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def as_command(function: Callable) -> type:
    """A function as cli.command() runs it: its parameters are the flags."""
    fields: list[tuple] = []
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        more = () if default is parameter.empty else (dataclasses.field(default=default),)
        fields.append((name, parameter.annotation, *more))
    found = {"run": lambda command: function(**vars(command))}
    kind = dataclasses.make_dataclass(function.__name__.capitalize(), fields, namespace=found)
    kind.__doc__, kind.__module__ = function.__doc__, function.__module__
    return kind


def data(name: str) -> Path:
    """A file or folder of the real data, which BERT_DATA names."""
    folder = os.environ.get("BERT_DATA")
    if not folder or not (path := Path(folder) / name).exists():
        sys.exit(
            f"benchmarks need the real data; set BERT_DATA to the folder that has {name} "
            f"(BERT_DATA={folder})"
        )
    return path


def machine() -> str:
    """Date, processor, threads and versions, in a line; what the processor can do, in another."""
    import torch

    model = next(
        (
            line.split(":")[1].strip()
            for line in open("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        "",
    )
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    # Other peers are named where a benchmark has imported them.
    peers = [name for name in ("onnxruntime", "openvino", "nncf") if name in sys.modules]
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "transformers", "tokenizers", *peers)
        if importlib.util.find_spec(name)
    )
    return (
        f"{datetime.date.today()}, {model or platform.processor()} ({torch.get_num_threads()} "
        f"threads){gpu}, Python {platform.python_version()}, {versions}\n\n"
        f"Instruction sets: {instruction_sets()}"
    )


def instruction_sets() -> str:
    """Those of the processor that matter to products: 'avx2, avx512_f'."""
    # Not above, where sys.path lacks the project's root yet.
    from layers import kernels

    names = ("avx2", "avx512_f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    known = kernels.processor()
    return ", ".join(name for name in names if known.get(name)) or "none of " + ", ".join(names)


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes, a GPU's work included."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def median_seconds(function: Callable[[], object], repeats: int = 9) -> float:
    """The median of some calls, after two to warm up."""
    for _ in range(2):
        function()
    return statistics.median(seconds(function) for _ in range(repeats))


def report(name: str, title: str, table: str) -> None:
    """Print a result and write it to benchmarks/results/NAME.md, with what a reader needs to run it
    again.
    """
    command = (
        f"python {Path(sys.argv[0]).resolve().relative_to(ROOT)} {' '.join(sys.argv[1:])}".strip()
    )
    # What makes a processor compute as a lesser one does.
    set_so = [f"{name}={os.environ[name]} " for name in LIMITS if name in os.environ]
    command = f"BERT_DATA=... {''.join(set_so)}{command}"
    text = f"# {title}\n\n{machine()}\n\n    {command}\n\n{table}\n"
    out = ROOT / "benchmarks" / "results" / f"{name}.md"
    out.write_text(text)
    print(text)
