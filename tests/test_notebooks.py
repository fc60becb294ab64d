"""The notebooks: each runs from top to bottom on a tiny model, and is committed with its outputs.

$ PYTHONPATH=. python tests/test_notebooks.py notebooks/*.ipynb  # renew what is committed
"""

import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoint
import models
from formats.vocab import Vocabulary
from tasks import pictures, quality

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {file.stem: file for file in sorted(ROOT.glob("notebooks/*.ipynb"))}


def execute(file: Path, folder: Path) -> "nbformat.NotebookNode":
    """A notebook with the outputs of running it in a folder."""
    notebook = nbformat.read(file, 4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=3600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return notebook


def code_of(notebook: "nbformat.NotebookNode") -> list["nbformat.NotebookNode"]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook: "nbformat.NotebookNode") -> list["nbformat.NotebookNode"]:
    return [output for cell in code_of(notebook) for output in cell.outputs]


def printed(notebook: "nbformat.NotebookNode") -> str:
    streams = [output for output in outputs_of(notebook) if output.output_type == "stream"]
    return "".join(output.text for output in streams if output.name == "stdout")


def n_pictures(notebook: "nbformat.NotebookNode") -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs_of(notebook))


# -------------------------------------------------------------------------------- what is committed


def test_there_are_nine() -> None:
    assert [name[0] for name in NOTEBOOKS] == list("123456789")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_committed_notebook_has_its_outputs_and_says_nothing_of_a_machine(name: str) -> None:
    text = NOTEBOOKS[name].read_text()
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_of(notebook)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert all(cell.metadata == {} for cell in notebook.cells)
    # No errors, and on stderr neither warnings nor progress bars.
    outputs = outputs_of(notebook)
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert n_pictures(notebook) >= 1
    assert not re.search(r"(?<![\w.])/(work|tmp|home|root|usr|opt|var|private|Users)\b", text)
    assert len(text) < 1_000_000


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_short(name: str) -> None:
    sources = [cell.source for cell in code_of(nbformat.read(NOTEBOOKS[name], 4))]
    assert len([line for source in sources for line in source.splitlines() if line.strip()]) < 60


# --------------------------------------------------------------------------------------- running it


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny weights, whose vocabulary has every word of the notebooks, and a csv."""
    folder = tmp_path_factory.mktemp("parts")
    words: set[str] = set()
    for file in NOTEBOOKS.values():
        for cell in code_of(nbformat.read(file, 4)):
            words |= set(re.findall(r"[a-z]+|[.,!]", cell.source.lower()))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    torch.manual_seed(0)
    config = models.Config(len(tokens), dim=32, n_layers=2, n_heads=4, dim_ff=64)
    model = models.PretrainModel(config)
    source = checkpoint.Checkpoint("ours", folder, config, dict(model.state_dict()))
    (folder / "bert").mkdir()
    checkpoint.write_hugging_face(source, folder / "bert", Vocabulary.read(folder / "vocab.txt"))
    rng = random.Random(0)
    for name, n in (("train.csv", 40), ("dev.csv", 20)):
        rows = [
            f"{' '.join(rng.choices(tokens[10:], k=6))},{('no', 'yes')[i % 2]}" for i in range(n)
        ]
        (folder / name).write_text("\n".join(["text,label", *rows]) + "\n")
    return folder


@pytest.fixture
def here(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a notebook runs in; the environment names what it reads."""
    variables = {
        "BERT": parts / "bert",
        "BERT_TF": tmp_path / "tensorflow",
        "CSV": parts / "train.csv",
        "CSV_EVAL": parts / "dev.csv",
        "STEPS": 2,
        "PYTHONPATH": ROOT,
        "IPYTHONDIR": tmp_path / "ipython",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("BERT_MLM", raising=False)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    return folder


def test_the_first_look_sees_what_transformers_computes(here: Path) -> None:
    pytest.importorskip("transformers")
    text = printed(execute(NOTEBOOKS["1_first_look"], here))
    found = re.search(r"largest difference: (\S+) \(hidden\), (\S+) \(pooled\)", text)
    assert found
    assert max(map(float, found.groups())) < 1e-4


def test_attention_has_maps_and_tables(here: Path) -> None:
    notebook = execute(NOTEBOOKS["2_attention"], here)
    chance = re.search(r"alike gives each token about (\S+)", printed(notebook))
    assert chance
    assert float(chance[1]) == pytest.approx(1 / 16, abs=0.02)
    assert n_pictures(notebook) == 7


def test_blanks_and_vectors_pretrain_a_model_where_none_is_named(here: Path) -> None:
    notebook = execute(NOTEBOOKS["3_blanks_and_vectors"], here)
    scores = re.findall(r"^ *(-\d+\.\d)  (\d+) tokens  ", printed(notebook), re.MULTILINE)
    assert len(scores) == 4
    # The same tokens in other orders; a model that has learned nothing finds none of them likely.
    assert len({n for _, n in scores}) == 1
    assert max(float(score) for score, _ in scores) < -50
    assert n_pictures(notebook) == 1
    assert (here / "runs/tiny/model_steps_2.pt").is_file()


def test_a_csv_is_learned_from_three_seeds_and_its_errors_shown(here: Path) -> None:
    notebook = execute(NOTEBOOKS["4_your_csv"], here)
    text = printed(notebook)
    assert "rows: no 20 yes 20" in text
    assert re.search(r"^spread +\d\.\d{4}", text, re.MULTILINE)
    error = re.search(r"expected calibration error (\S+)", text)
    assert error
    assert 0 <= float(error[1]) <= 1
    assert n_pictures(notebook) == 4


def test_tensorflow_and_pytorch_agree_layer_by_layer(here: Path, parts: Path) -> None:
    pytest.importorskip("tensorflow")
    from test_checkpoint import tensorflow_checkpoint

    source = checkpoint.read(parts / "bert")
    folder = tensorflow_checkpoint(source.tensors, source.config, here.parent / "tensorflow")
    (folder / "vocab.txt").write_text((parts / "vocab.txt").read_text())
    text = printed(execute(NOTEBOOKS["5_tensorflow"], here))
    found = re.findall(r"^(embeddings|layer \d|pooler) +(\S+) +(\S+)$", text, re.MULTILINE)
    assert [name for name, _, _ in found] == ["embeddings", "layer 0", "layer 1", "pooler"]
    assert max(float(single) for _, single, _ in found) < 1e-4
    assert max(float(double) for _, _, double in found) < 1e-12


def test_pretraining_shows_the_corpus_the_curve_and_the_words(here: Path) -> None:
    notebook = execute(NOTEBOOKS["6_pretraining"], here)
    text = printed(notebook)
    assert "warning: the text is a single document" in text
    assert "of the sentences are the same as another; menus, footers" in text
    assert re.search(r"^1 .*\n2 .*\d\.\d\d$", text, re.MULTILINE)
    assert n_pictures(notebook) == 2


def test_a_messy_file_is_asked_about_and_reported_class_by_class(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    words = "good bad film story great a the it was".split()
    rows = [f"{' '.join(rng.choices(words, k=6))},{rng.choice(('no', 'yes'))}" for _ in range(400)]
    (here / "messy.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    monkeypatch.setenv("CSV", str(here / "messy.csv"))
    text = printed(execute(NOTEBOOKS["7_messy_file"], here))
    assert re.search(r"^the data: \d+ rows have no label, .*; \d+ rows have no text", text, re.M)
    assert re.search(r"^Evaluated: \d+ rows \(no \d+, yes \d+\)$", text, re.MULTILINE)
    assert re.search(r"^macro avg +\d\.\d{4} ", text, re.MULTILINE)
    assert re.search(r"^Chosen on dev.jsonl: temperature [\d.]+: expected cal", text, re.MULTILINE)
    assert (here / "runs/messy/dev.jsonl").is_file()


def test_pairs_become_a_search_and_a_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    words = "pairs query text search vectors groups folder all of the".split()
    rows = [
        {name: " ".join(rng.choices(words, k=6)) for name in ("query", "text")} for _ in range(60)
    ]
    (here / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("PAIRS", str(here / "pairs.jsonl"))
    text = printed(execute(NOTEBOOKS["8_search"], here))
    assert "48 pairs to train on, 12 to evaluate" in text
    assert re.search(r"^MRR@10: [01]\.\d{3}$", text, re.MULTILINE)
    assert len(re.findall(r"^    -?\d\.\d\d  ", text, re.MULTILINE)) == 6
    assert sum(map(int, re.findall(r"^(\d+) texts:", text, re.MULTILINE))) == 60
    assert (here / "runs/search-folder/modules.json").is_file()


def test_a_text_of_one_s_own_is_learnt_before_its_labels(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(3)
    words = "good bad film zebrafish zebrafishes the it was".split()
    rows = [f"{' '.join(rng.choices(words, k=9))},{rng.choice(('no', 'yes'))}" for _ in range(120)]
    (here / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    monkeypatch.setenv("TEXTS", str(here / "texts.csv"))
    text = printed(execute(NOTEBOOKS["9_domain"], here))
    assert re.search(r"^\d+\.\d tokens a text, now \d+\.\d$", text, re.MULTILINE)
    for name in ("before", "after"):
        assert re.search(rf"^{name}: [01]\.\d+, [01]\.\d+, [01]\.\d+; mean", text, re.MULTILINE)
    assert (here / "runs/domain/bert/config.json").is_file()


# ------------------------------------------------------------------------------- what pictures show


def test_the_calibration_error_of_a_hand_worked_example() -> None:
    chances = np.array([[0.9, 0.1], [0.2, 0.8], [0.35, 0.65], [0.05, 0.95], [1.0, 0.0]])
    labels = np.array([0, 0, 1, 1, 0])
    counts, confidence, accuracy = quality.calibration(chances, labels, n_bins=10)
    assert counts.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 1, 3]
    assert confidence[[6, 8, 9]] == pytest.approx([0.65, 0.8, 0.95])
    assert accuracy[[6, 8, 9]].tolist() == [1, 0, 1]
    # |0.65 - 1| and |0.8 - 0| of one example each, |0.95 - 1| of three.
    expected = (0.35 + 0.8 + 3 * 0.05) / 5
    assert pictures.calibration_error(chances, labels) == pytest.approx(expected)
    upper, lower = pictures.reliability(chances, labels, "A model").axes
    assert upper.get_title() == "A model: expected error 0.260"
    assert [bar.get_height() for bar in lower.patches] == counts.tolist()


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    chances = np.tile([0.25, 0.75], (4, 1))
    assert pictures.calibration_error(chances, np.array([1, 1, 0, 1])) == pytest.approx(0)


def test_principal_components_keep_what_differs_most() -> None:
    # Points of a plane in five dimensions, three times as wide as it is high.
    rng = np.random.default_rng(0)
    plane, _ = np.linalg.qr(rng.normal(size=(5, 2)))
    corners = np.array([[3, 1], [3, -1], [-3, 1], [-3, -1]])
    points, shares = pictures.principal(corners @ plane.T + 7)
    assert abs(points) == pytest.approx(abs(corners))
    assert shares == pytest.approx([0.9, 0.1])


def test_every_head_and_token_is_named() -> None:
    values = np.array([[0.25, 1.0, 0.0], [0.5, 0.125, 0.75]])
    axes = pictures.heads(values, "Attention to the token before").axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["0.25", "1.00", "0.00", "0.50", "0.12", "0.75"]
    tokens = ["[CLS]", "a", "[SEP]"]
    maps = {f"head {i}": np.full((3, 3), 1 / 3) for i in range(4)}
    grid = pictures.attention(tokens, maps).axes[:6]
    assert [axes.get_title() for axes in grid] == [*maps, "", ""]
    # The tokens stand below the lowest map of each column, and to the left of each row.
    for i in (1, 2, 3):
        assert [label.get_text() for label in grid[i].get_xticklabels()] == tokens
    for i in (0, 3):
        assert [label.get_text() for label in grid[i].get_yticklabels()] == tokens
    # One colour scale: what is 0 or 1 in one map is so in all.
    assert {axes.images[0].get_clim() for axes in grid[:4]} == {(0, 1)}
    every = pictures.all_attention(np.zeros((2, 3, 4, 4)), "A sentence")
    assert sum(bool(axes.images) for axes in every.axes) == 6


def test_lines_and_points_are_named_in_a_legend() -> None:
    figure = pictures.lines([1, 2], {"a": [1, 10], "b": [3, 4]}, ("x", "y"), "Two", log=True)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert figure.axes[0].get_yscale() == "log"
    figure = pictures.scatter(np.eye(2), ["p", "q"], ("x", "y"), "Two")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["p", "q"]


def renew(names: list[str]) -> None:
    """Run notebooks where they are, and write them with their outputs."""
    for name in names:
        notebook = execute(Path(name), Path(name).parent)
        for cell in code_of(notebook):
            # Progress bars, and what libraries say of this machine.
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        notebook.metadata.language_info = {"name": "python"}  # of any version
        nbformat.write(notebook, name)


if __name__ == "__main__":
    renew(sys.argv[1:])
