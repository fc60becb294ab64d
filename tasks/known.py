"""The tasks that are known by a name: GLUE, SuperGLUE, PAWS-X, XNLI; and data of one's own.

find("SST-2").text_a  # "sentence"
"""

from tasks.table_config import TableConfig
from tasks.table_rows import FORMS
from utils import UserError, nearest, short

# The order of the labels is the order of the head's outputs, and part of what a saved model means.
NLI = ("contradiction", "entailment", "neutral")
ENTAILMENT = ("entailment", "not_entailment")
CORRELATIONS = ("Pearson", "Spearman")
BOOLEANS = ("false", "true")  # as JSON writes them

ALL = (
    # CoLA's train and dev have no header; its test file has one. Matthews, since its classes are
    # uneven.
    TableConfig(
        "cola", "sentence|3", label="label|1", metric_names=("Matthews",), submission=("CoLA.tsv",)
    ),
    TableConfig("sst2", "sentence", submission=("SST-2.tsv",)),
    TableConfig(
        "mrpc",
        "#1 String",
        "#2 String",
        label="Quality",
        metric_names=("Accuracy", "F1"),
        submission=("MRPC.tsv",),
    ),
    TableConfig(
        "stsb",
        "sentence1",
        "sentence2",
        label="score",
        labels=(),
        number=True,
        metric_names=CORRELATIONS,
        submission=("STS-B.tsv",),
    ),
    # QQP's files have rows with too few fields, which are skipped while training.
    TableConfig(
        "qqp",
        "question1",
        "question2",
        label="is_duplicate",
        metric_names=("Accuracy", "F1"),
        submission=("QQP.tsv",),
        short_rows=True,
    ),
    TableConfig(
        "mnli",
        "sentence1",
        "sentence2",
        label="gold_label",
        labels=NLI,
        dev=("dev_matched.tsv", "dev_mismatched.tsv"),
        test=("test_matched.tsv", "test_mismatched.tsv"),
        submission=("MNLI-m.tsv", "MNLI-mm.tsv"),
        compatible_with="xnli",
    ),
    TableConfig("qnli", "question", "sentence", labels=ENTAILMENT, submission=("QNLI.tsv",)),
    # GLUE's tables and SuperGLUE's JSON lines.
    TableConfig(
        "rte",
        "sentence1|premise",
        "sentence2|hypothesis",
        labels=ENTAILMENT,
        submission=("RTE.tsv",),
    ),
    TableConfig("wnli", "sentence1", "sentence2", submission=("WNLI.tsv",)),
    # The diagnostic set has no training data: an MNLI model answers it.
    TableConfig(
        "ax",
        "sentence1",
        "sentence2",
        labels=NLI,
        metric_names=("Matthews",),
        test=("diagnostic.tsv",),
        submission=("AX.tsv",),
        compatible_with="mnli",
    ),
    # SuperGLUE. 95% of the rows of BoolQ's val and of MultiRC's are whole at these lengths; at 128
    # tokens it would be half of the former and none of the latter.
    TableConfig("boolq", "passage", "question", labels=BOOLEANS, form="jsonl", max_len=256),
    TableConfig(
        "cb",
        "premise",
        "hypothesis",
        labels=NLI,
        form="jsonl",
        metric_names=("Accuracy", "Macro-F1"),
        max_len=256,
    ),
    # Of these three, superglue.FLATTEN makes the columns.
    TableConfig("wic", "sentence1", "sentence2", labels=BOOLEANS, form="jsonl"),
    TableConfig("wsc", "text", labels=BOOLEANS, form="jsonl"),
    TableConfig(
        "multirc",
        "passage",
        "answer",
        form="jsonl",
        group="question",
        metric_names=("F1a", "EM"),
        max_len=512,
    ),
    # PAWS-X has NS for a sentence that was not translated.
    TableConfig("pawsx", "sentence1", "sentence2", no_text="NS"),
    # XNLI's train and dev files name their columns differently, and spell one label in another way;
    # a language on its own has three columns without a header.
    TableConfig(
        "xnli",
        "premise|sentence1|0",
        "hypo|sentence2|1",
        label="label|gold_label|2",
        labels=NLI,
        aliases=(("contradictory", "contradiction"),),
        compatible_with="mnli",
    ),
    # Data of one's own, each in the form that it is called by.
    *(
        TableConfig(
            form,
            "text|sentence|0",
            label="label|1",
            labels=(),
            form=form,
            # Where one class has most of the rows, accuracy says little.
            metric_names=("Macro-F1", "Accuracy"),
        )
        for form in FORMS
    ),
)
KNOWN = {config.name: config for config in ALL}


# Tasks of other kinds, and the commands that know them.
ELSEWHERE = {
    **dict.fromkeys(("squad", "record", "mlqa", "xquad"), "squad.py"),
    **dict.fromkeys(("ner", "pos", "conll2003", "wnut17", "wikiann", "germeval"), "tag.py"),
    **dict.fromkeys(("swag", "copa", "commonsenseqa", "arc", "openbookqa"), "choose.py"),
}


def key_of(name: str) -> str:
    """The name that a task goes by here: sts_b, STS-B and stsb are one, as programs spell it."""
    return name.lower().replace("-", "").replace("_", "")


def find(name: str) -> TableConfig:
    """A task by its name: mrpc, SST-2, sts_b ...; UserError where none is called so."""
    key = key_of(name)
    if key in ELSEWHERE:
        raise UserError(f"`task={short(name)}` is a task of {ELSEWHERE[key]}; see docs/tasks.md")
    if key not in KNOWN:
        raise UserError(
            f"`task={short(name)}`: unknown task{nearest(key, KNOWN)}; the tasks are "
            f"{', '.join(KNOWN)}"
        )
    return KNOWN[key]
