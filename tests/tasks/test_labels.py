"""Labels of one's own data: lists are several, and what looks like no label is asked about."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks import TASKS, SentenceTask, own_task
from tasks.labels import listed, question
from tasks.resolve import learn
from tasks.rows import Rows, read_rows
from utils import UserError


def learnt(folder: Path, name: str, content: str, **flags: Any) -> tuple[SentenceTask, Rows]:
    (folder / name).write_text(content)
    task = own_task(TASKS["csv"], **flags)
    rows = read_rows(task, folder / name)
    return learn(task, rows), rows


def lines(*values: Any) -> str:
    rows = [{"text": f"text {i}", "label": value} for i, value in enumerate(values)]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("field", "labels"),
    [
        ("toxic", None),
        ("[sic]", None),
        ("{a}", None),
        ("[1, [2]]", None),
        ('{"a": 2}', None),
        ("[" * 100_000 + "]" * 100_000, None),
        ("[]", []),
        ('["a", "b"]', ["a", "b"]),
        ("['a', \"b\"]", ["a", "b"]),
        ("[0, 1.0, true]", ["0", "1.0", "true"]),
        ('{"a": 1, "b": 0, "c": true, "d": 0.0}', ["a", "c"]),
        ("{'a': True, 'b': False}", ["a"]),
    ],
)
def test_a_list_in_a_field_is_several_labels(field: str, labels: list[str] | None) -> None:
    assert listed(field) == labels


def test_a_list_of_json_is_several_labels_in_any_order(tmp_path: Path) -> None:
    values = [["red", "big"], ["big", "red"], [], ["big"]]
    task, rows = learnt(tmp_path, "x.jsonl", lines(*values))
    assert (task.labels, task.separator) == (("big", "red"), ",")
    assert task.metric_names == ("F1", "Accuracy")
    array = task.label_array([example.label for example in rows.examples])
    assert array.tolist() == [[1, 1], [1, 1], [0, 0], [1, 0]]
    assert rows.describe().endswith("; label: 'label' (big 3, red 2), several of a text")
    objects = [{"big": 1, "red": 1}, {"big": 0, "red": 0}, {"big": True, "red": False}]
    task, rows = learnt(tmp_path, "y.jsonl", lines(*objects))
    array = task.label_array([example.label for example in rows.examples])
    assert array.tolist() == [[1, 1], [0, 0], [1, 0]]


def test_ones_in_a_list_or_in_columns_are_labels_once_they_are_named(tmp_path: Path) -> None:
    expected = [[0, 1, 0], [1, 1, 0], [0, 0, 0]]
    quoted = "".join(f'text {i},"{row}"\n' for i, row in enumerate(expected))
    for name, content in (("x.jsonl", lines(*expected)), ("x.csv", f"text,label\n{quoted}")):
        for flags in ({}, {"separator": ","}):
            with pytest.raises(UserError, match=r"is a list of 0 and 1; name all labels in their"):
                learnt(tmp_path, name, content, **flags)
        task, rows = learnt(tmp_path, name, content, labels="c,a,b")
        array = task.label_array([example.label for example in rows.examples])
        assert (array.tolist(), task.labels) == (expected, ("c", "a", "b"))
        assert [example.label for example in rows.examples] == ["a", "c,a", ""]
    columns = "text,b,a\none,1,0\ntwo,1.0,TRUE\nthree,0,0\n"
    with pytest.raises(UserError, match="no column 'label'; the columns of its first row are text"):
        learnt(tmp_path, "y.csv", columns)
    task, rows = learnt(tmp_path, "y.csv", columns, labels="a,b")
    array = task.label_array([example.label for example in rows.examples])
    assert array.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert "label: columns (a 1, b 2)" in rows.describe()
    with pytest.raises(UserError, match="line 2: '2' in the column 'b'; expected 0 or 1"):
        learnt(tmp_path, "y.csv", "text,b,a\none,2,0\n", labels="a,b")


def test_a_list_in_a_csv_is_asked_about(tmp_path: Path) -> None:
    content = "text,label\n" + "a,\"['x', 'y']\"\nb,\"['y']\"\nc,[]\n" * 2
    with pytest.raises(UserError, match=r"line 2: label .* is a list of labels; .* `separator=,`"):
        learnt(tmp_path, "x.csv", content)
    for flags in ({"separator": ","}, {"labels": "x,y"}):
        task, rows = learnt(tmp_path, "x.csv", content, **flags)
        assert task.labels == ("x", "y")
        assert [example.label for example in rows.examples][:3] == ["x,y", "y", ""]
    mixed = "text,label\na,x\nb,\"['y']\"\n"
    with pytest.raises(UserError, match=r"line 3: .* is a list, and that of the first row is none"):
        learnt(tmp_path, "y.csv", mixed)
    with pytest.raises(UserError, match="has ',' in it, which stands between labels"):
        learnt(tmp_path, "x.jsonl", lines(["a, b"], ["c"]))


def test_a_model_of_one_label_a_text_is_not_evaluated_on_several(tmp_path: Path) -> None:
    task, _ = learnt(tmp_path, "x.csv", "text,label\na,x\nb,y\n")
    (tmp_path / "y.jsonl").write_text(lines(["x"], ["x", "y"]))
    with pytest.raises(UserError, match="its texts have several labels, and the model gives them"):
        task.load(tmp_path / "y.jsonl", None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "asked"),
    [
        (["5"] * 10 + ["5.0"] * 9 + ["1"] * 9, "the labels '5' and '5.0' are the same number"),
        (["1e1"] * 9 + ["10"] * 9, "the labels '1e1' and '10' are the same number"),
        (
            ["Pos"] * 9 + ["pos"] * 5 + ["neg"] * 9,
            "the labels 'Pos' and 'pos' are alike but for how",
        ),
        (["a  b"] * 9 + ["a b"] * 5, "the labels 'a  b' and 'a b' are alike but for how"),
        (["pos", "neg"] * 9 + ["nan"] * 9, "the label 'nan' may stand for none"),
        (["pos", "neg"] * 9 + ["N/A", "?", "-"] * 9, "the labels 'N/A', .* may stand for none"),
        (["pos", "neg"] * 9 + ["None", "NULL"] * 2, "the labels 'None', 'NULL' may stand for none"),
        (["pos", "neg"] * 9 + ["ppos"], "the label 'ppos' occurs once"),
        (["caf\u00e9"] * 9 + ["cafe\u0301"] * 5, "are alike but for how"),
        (["pos"] * 9 + ["pos\u200b"] * 5, "are alike but for how"),
        (["pos"] * 9 + [' "pos"'] * 5, "are alike but for how"),
        (["1"] * 9 + ["true"] * 5, "the labels '1' and 'true' are"),
        (["a"] * 9 + ["b"] * 9 + ["a|b"] * 5, r"may be several, with '\|' between them"),
    ],
)
def test_labels_that_look_like_mistakes_are_asked_about(
    tmp_path: Path, labels: list[str], asked: str
) -> None:
    content = "text,label\n" + "".join(f"text {i},{name}\n" for i, name in enumerate(labels))
    with pytest.raises(UserError, match=f"{asked}.*; mend the file, or say that all of them are"):
        learnt(tmp_path, "x.csv", content)
    task, _ = learnt(tmp_path, "x.csv", content, labels="all")  # what the message says
    assert task.labels == tuple(sorted({label.strip() for label in labels}))
    assert "sure" not in task.to_json()


def test_the_line_of_an_odd_label_is_named(tmp_path: Path) -> None:
    content = "text,label\n" + "a,pos\nb,neg\n" * 9 + "c,ppos\n"
    with pytest.raises(UserError, match="column 'label', line 20: the label 'ppos' occurs once"):
        learnt(tmp_path, "x.csv", content)


def test_what_is_usual_is_not_asked_about() -> None:
    assert question({"pos": 5, "neg": 4, "neutral": 2, "1": 9, "-1": 9, "0": 9}) == ("", "")
    assert question({"a": 1, "b": 1}) == ("", "")  # of two rows nothing follows


def test_a_header_in_the_middle_is_asked_about(tmp_path: Path) -> None:
    content = "text,label\na,pos\nb,neg\nText ,label\ntext,label\nc,pos\nd,neg\n"
    with pytest.raises(
        UserError, match="line 5: the header stands here once more; remove the line"
    ):
        learnt(tmp_path, "x.csv", content)
    task = TASKS["csv"]
    with pytest.raises(UserError, match="line 5: the header stands here once more"):
        read_rows(task, tmp_path / "x.csv", labelled=False)


def test_a_question_about_the_header_lists_its_columns(tmp_path: Path) -> None:
    content = "review,rating\n" + "good,5\nbad,1\n" * 5
    with pytest.raises(
        UserError, match=r"its columns with `text_a` and `label` \(review, rating\)"
    ):
        learnt(tmp_path, "x.csv", content)


def test_a_column_of_a_label_that_is_missing_is_named(tmp_path: Path) -> None:
    task, _ = learnt(tmp_path, "x.csv", "text,a,b\none,1,0\ntwo,0,1\n", labels="a,b")
    (tmp_path / "y.csv").write_text("text,a\none,1\n")
    with pytest.raises(UserError, match="no column 'b', which is one of the labels a, b; its col"):
        read_rows(task, tmp_path / "y.csv")


def test_a_header_that_passed_for_a_row_of_odd_labels_is_asked_about(tmp_path: Path) -> None:
    content = "id,review,stars\n" + "".join(f"{i},text {i},{i % 2}\n" for i in range(9))
    with pytest.raises(UserError, match=r"10 labels in 10 rows.*If the first.*\(id, review, st"):
        learnt(tmp_path, "x.csv", content)


def test_an_empty_label_is_named_by_its_line(tmp_path: Path) -> None:
    content = "text,label\na,yes\nb,no\nc,\n" + "a,yes\nb,no\n" * 3
    with pytest.raises(UserError, match=r"1 row has no label, line 4; .* `unlabelled=drop`$"):
        learnt(tmp_path, "x.csv", content)


def test_a_decimal_comma_is_told_from_other_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'4,5'; expected a number, with a point before its dec"):
        learnt(tmp_path, "x.csv", "text;label\na;4,5\nb;1,5\n", labels="number")


def test_a_tab_between_fields_can_be_named(tmp_path: Path) -> None:
    content = "fast, good\tpos\nslow, bad\tneg\n"
    with pytest.raises(UserError, match="`delimiter=','`, or ';' or tab"):
        learnt(tmp_path, "x.csv", content)
    for delimiter in ("tab", "\\t", "\t"):
        task, _ = learnt(tmp_path, "x.csv", content, delimiter=delimiter)
        assert task.labels == ("neg", "pos")
