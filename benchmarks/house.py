"""How large and how dense the code is, what a start costs, and what stands where it should not.

    $ python benchmarks/house.py [FOLDER]

Counted are the program files: not tests, benchmarks, examples and docs. Tokens are those of
Python's tokenizer without comments, docstrings and line ends.
"""

import ast
import io
import re
import resource
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OTHERS = {"tests", "benchmarks", "examples", "docs", "notebooks", "runs"}
LAYOUT = (
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


class Function(NamedTuple):
    """A function, its lines without the docstring, its parameters."""

    name: str
    lines: int
    parameters: int


class Counts(NamedTuple):
    """What one file has."""

    tokens: int
    lines: int  # with code
    comments: int  # lines with a comment
    wide: int  # lines over 100 columns
    functions: list[Function]


def program_files(root: Path) -> list[Path]:
    """The modules of a checkout."""
    files = sorted(root.rglob("*.py"))
    parts = {file: file.relative_to(root).parts for file in files}
    return [f for f in files if not OTHERS & set(parts[f]) and not parts[f][0].startswith(".")]


def docstring_lines(node: ast.AST) -> range:
    """The lines of a node's docstring."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
        first = node.body[0]
        return range(first.lineno, (first.end_lineno or first.lineno) + 1)
    return range(0)


def functions_of(tree: ast.AST) -> Iterator[Function]:
    """All functions of a module; self does not count as a parameter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            parameters = [a for a in arguments if a.arg not in ("self", "cls")]
            lines = (node.end_lineno or 0) - node.lineno + 1 - len(docstring_lines(node))
            yield Function(node.name, lines, len(parameters))


def count(file: Path) -> Counts:
    """Count one file."""
    text = file.read_text()
    tree = ast.parse(text)
    documentation = {line for node in ast.walk(tree) for line in docstring_lines(node)}
    tokens, code, comments = 0, set[int](), set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        first, last = token.start[0], token.end[0]
        if token.type == tokenize.COMMENT:
            comments.add(first)
        elif token.type not in LAYOUT and first not in documentation:
            tokens += 1
            code.update(range(first, last + 1))
    wide = sum(len(line) > 100 for line in text.splitlines())
    return Counts(tokens, len(code), len(comments), wide, list(functions_of(tree)))


EIGHT = "tokenization checkpoint models optim train utils pretrain classify".split()
COMMANDS = "checkpoint pretrain classify squad tag choose embed rank features corpus".split()
ROOMS = {
    "the eight": EIGHT,
    "other commands": "squad tag choose embed rank features".split(),
    "command, finetune, encoder, pretrained": "command finetune encoder pretrained".split(),
}
LOADED = """
import runpy, sys
sys.argv = ["{name}.py", *{words}]
try:
    runpy.run_path("{name}.py", run_name="__main__")
except SystemExit:
    pass
print("torch" in sys.modules, file=sys.__stderr__)
"""
NAMED = {"features": "extract", "corpus": "prepare", "checkpoint": "convert"}


def starts(root: Path) -> tuple[bool, float]:
    """Whether --help or a wrong flag of a command loads torch, and the slowest's processor time.

    The time is the median of five starts.
    """
    loads, slowest = False, 0.0
    for name in COMMANDS:
        for flag in ("--help", "--xyzzy"):
            words = [NAMED[name], flag] if name in NAMED else [flag]
            code, times = LOADED.format(name=name, words=words), []
            for _ in range(5):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                done = subprocess.run(
                    [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
                )
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            loads |= done.stderr.splitlines()[-1] != "False"
            slowest = max(slowest, statistics.median(times))
    return loads, slowest


def spoken_flags(file: Path) -> int:
    """How often string literals of a module name a flag of ours."""
    tree = ast.parse(file.read_text())
    documentation = {line for node in ast.walk(tree) for line in docstring_lines(node)}
    return sum(
        len(re.findall("--(?!nproc_per_node)[a-z]", node.value))
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.lineno not in documentation
    )


def main() -> None:
    """Print the figures of a checkout."""
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    files = program_files(root)
    counted = [count(file) for file in files]
    tokens, lines, comments, wide = (
        sum(column) for column in zip(*(c[:4] for c in counted), strict=True)
    )
    functions = [function for c in counted for function in c.functions]
    longest = max(functions, key=lambda function: function.lines)
    widest = max(functions, key=lambda function: function.parameters)
    largest = max(zip(counted, files, strict=True), key=lambda pair: pair[0].lines)
    length = {file.stem: len(file.read_text().splitlines()) for file in root.glob("*.py")}
    readme = (root / "README.md").read_text()
    loads, slowest = starts(root)
    below = [f for f in files if f.parent != root or f.stem not in (*COMMANDS, "command")]
    below = [file for file in below if file.parent.name != "system"]
    figures = {
        "modules at the top": f"{len(length)}, in all {len(files)}",
        **{
            name: f"{sum(length.get(m, 0) for m in modules):,} lines: "
            + ", ".join(f"{m} {length.get(m, 0)}" for m in modules)
            for name, modules in ROOMS.items()
        },
        "product": f"{sum(len(f.read_text().splitlines()) for f in files):,} lines",
        "tokens per code line": f"{tokens / lines:.2f}",
        "code tokens, code lines": f"{tokens:,}, {lines:,}",
        "lines over 100 columns": wide,
        "largest module": f"{largest[1].relative_to(root)}, {largest[0].lines} code lines",
        "longest function": f"{longest.name}, {longest.lines} lines",
        "most parameters": f"{widest.name}, {widest.parameters}",
        "comments per 1,000 lines": f"{1000 * comments / lines:.0f}",
        "torch at --help or a wrong flag": f"{loads}; {slowest:.2f} s of processor time",
        "SimpleNamespace": sum("SimpleNamespace" in file.read_text() for file in files),
        "--flag below the commands": sum(map(spoken_flags, below)),
        "words of README.md": f"{len(readme.split())}, {len(readme.split('```')[0].split())} "
        "before the first command",
    }
    for name, value in figures.items():
        print(f"{name:40}{value}")


if __name__ == "__main__":
    main()
