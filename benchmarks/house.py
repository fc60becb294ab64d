"""How large and how dense the code is: modules, tokens, functions, comments, flags, README.

    $ python benchmarks/house.py [FOLDER]

Counted are the program files: not tests, benchmarks, examples and docs. Tokens are those of
Python's tokenizer without comments, docstrings and line ends.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OTHERS = {"tests", "benchmarks", "examples", "docs", "notebooks", "runs"}
COMMANDS = {"main", "extract", "similar", "fewshot", "prepare", "describe", "convert", "learn"}
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


def main() -> None:
    """Print the figures of a checkout."""
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    files = program_files(root)
    counted = [count(file) for file in files]
    tokens, lines, comments, wide = (
        sum(column) for column in zip(*(c[:4] for c in counted), strict=True)
    )
    functions = [function for c in counted for function in c.functions]
    below = [function for function in functions if function.name not in COMMANDS]
    longest = max(below, key=lambda function: function.lines)
    widest = max(below, key=lambda function: function.parameters)
    largest = max(zip(counted, files, strict=True), key=lambda pair: pair[0].lines)
    sys.path.insert(0, str(root))
    from classify import Classify
    from system import flags

    n_flags = len(flags.flags_of(Classify))
    print(f"modules at the top         {len(list(root.glob('*.py')))}, in all {len(files)}")
    print(f"tokens per code line       {tokens / lines:.2f}")
    print(f"code tokens, code lines    {tokens:,}, {lines:,}")
    print(f"lines over 100 columns     {wide}")
    print(
        f"largest module             {largest[1].relative_to(root)}, {largest[0].lines} code lines"
    )
    print(f"longest function           {longest.name}, {longest.lines} lines")
    print(f"most parameters            {widest.name}, {widest.parameters}")
    print(f"comments per 1,000 lines   {1000 * comments / lines:.0f}")
    print(f"flags of classify.py       {n_flags}")
    print(f"words of README.md         {len((root / 'README.md').read_text().split())}")


if __name__ == "__main__":
    main()
