"""The picture of the modules in docs/architecture.svg, drawn from their imports.

    $ python examples/architecture.py

An arrow leads from a module to one that it imports, unless it gets there through others too. Rows
are those of ARCHITECTURE.md.
"""

import ast
import re
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
WIDTH, BAND, BOX, LABEL = 1180.0, 84.0, 28.0, 150.0  # pixels: the picture, a row, a box, names


def rows() -> dict[str, list[str]]:
    """The rows of the chart in README.md: {row: modules and packages}."""
    chart = re.search(r"```\n(commands  .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert chart
    found: dict[str, list[str]] = {}
    for line in chart[1].splitlines():
        # A long row goes on in the next line, which has no name.
        name = line[:18].strip() or list(found)[-1]
        found.setdefault(name, []).extend(re.findall(r"(\w+)(?:\.py|/)", line[18:]))
    return found


def imports(unit: str) -> set[str]:
    """What a module, or the modules of a package, import anywhere."""
    module = ROOT / f"{unit}.py"
    # A run may have left a folder of a module's name; a module is a file first.
    files = [module] if module.is_file() else [*(ROOT / unit).glob("*.py")]
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - {unit}


def arrows(units: list[str]) -> list[tuple[str, str]]:
    """Imports among units, without those that a path of others implies."""
    direct = {unit: imports(unit) & set(units) for unit in units}
    reached: dict[str, set[str]] = {}
    # The last row imports nothing, and each one only from rows below.
    for unit in reversed(units):
        reached[unit] = direct[unit].union(*(reached[other] for other in direct[unit]))
    return [
        (unit, other)
        for unit in units
        for other in sorted(direct[unit])
        if not any(other in reached[between] for between in direct[unit])
    ]


def svg() -> str:
    """The picture."""
    chart = rows()
    height = BAND * len(chart)
    places: dict[str, tuple[float, float, float]] = {}  # of a box: middle, top, width
    shapes, labels = [], []
    for i, (row, units) in enumerate(chart.items()):
        top = i * BAND
        fill = "#f4f6fa" if i % 2 == 0 else "#ffffff"
        shapes.append(
            f'<rect x="0" y="{top:.0f}" width="{WIDTH:.0f}" height="{BAND:.0f}" fill="{fill}"/>'
        )
        labels.append(f'<text x="12" y="{top + BAND / 2 + 4:.0f}" fill="#667">{escape(row)}</text>')
        widths = [8.0 * len(unit) + 22 for unit in units]
        gap = (WIDTH - LABEL - sum(widths)) / (len(units) + 1)
        x = LABEL + gap
        for unit, width in zip(units, widths, strict=True):
            places[unit] = (x + width / 2, top + (BAND - BOX) / 2, width)
            x += width + gap
    lines = []
    for unit, other in arrows([unit for units in chart.values() for unit in units]):
        (a, b, _), (c, d, _) = places[unit], places[other]
        b += BOX
        bend = (d - b) / 2
        corners = ((a, b), (a, b + bend), (c, d - bend), (c, d))
        start, *others = (f"{right:.0f} {down:.0f}" for right, down in corners)
        lines.append(f'<path d="M{start} C{" ".join(others)}"/>')
    boxes = []
    for unit, (x, y, width) in places.items():
        boxes.append(
            f'<rect x="{x - width / 2:.0f}" y="{y:.0f}" width="{width:.0f}" height="{BOX:.0f}" '
            'rx="5" fill="#fff" stroke="#345"/>'
        )
        name = unit if (ROOT / f"{unit}.py").is_file() else f"{unit}/"
        boxes.append(f'<text x="{x:.0f}" y="{y + 19:.0f}" text-anchor="middle">{name}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" '
            f'width="{WIDTH:.0f}" height="{height:.0f}" font-family="monospace" font-size="13">',
            *shapes,
            '<g fill="none" stroke="#58a" stroke-opacity="0.45">',
            *lines,
            "</g>",
            *labels,
            *boxes,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    (ROOT / "docs" / "architecture.svg").write_text(svg())
