"""Tags: files of every form, conlleval's counts, windows and their labels, the command."""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune
import models
import pretrained
import tag
import train
from formats.vocab import Vocabulary
from tasks import TagTask
from tasks.conlleval import Counts, chunks, count_file
from tasks.encoding import most_context, window_starts
from tasks.notations import best_path, legal_steps, to_bio
from tasks.tags import IGNORED, Tagged, window_of
from tasks.words import Text, read_texts, split_words, with_column
from tokenization import FullTokenizer
from utils import UserError

CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O
. . O O

-DOCSTART- -X- O O
Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""
GERMEVAL = """#\thttp://example.org\t[2010-07-04]
1\tIm\tO\tO
2\tBerlin\tB-ORG\tB-LOC
3\t#\tO\tO

#\thttp://example.org/2\t[2010-07-05]
1\t\x96\tO\tO
2\tUSA\tB-LOC\tO
"""
CONLL_U = """# newdoc id = 1
# text = I don't know.
1\tI\tI\tPRON\tP\t_\t4\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tV\t_\t4\taux\t_\t_
3\tn't\tnot\tPART\tN\t_\t4\tadvmod\t_\t_
4\tknow\tknow\tVERB\tV\t_\t0\troot\t_\t_
4.1\tit\tit\tPRON\tP\t_\t_\t_\t_\t_
5\t.\t.\tPUNCT\tF\t_\t4\tpunct\t_\t_

"""
WIKIANN = "en:R.H.\tB-ORG\nen:Saunders\tI-ORG\nen:(\tO\n\nen:::\tO\nen:St.\tB-LOC\n\n"
WNUT = "#\tO\n#hashtag\tO\nU.N.\tB-group\n\nParis\tB-location\n\ufeff\n"
ONE_COLUMN = "Paris\nis\n\nnice\n"


def written(folder: Path, text: str) -> Path:
    (folder / "x.txt").write_text(text, encoding="utf-8")
    return folder / "x.txt"


@pytest.mark.parametrize(
    ("text", "column", "words", "tags"),
    [
        (CONLL_2003, None, "EU rejects German call .|Peter Blackburn", "ORG O MISC O O|PER I-PER"),
        (CONLL_2003, "pos", "EU rejects German call .|Peter Blackburn", "NNP VBZ JJ NN .|NNP NNP"),
        (CONLL_2003, "-2", "EU rejects German call .|Peter Blackburn", "NP VP NP I-NP O|NP I-NP"),
        (GERMEVAL, None, "Im Berlin #|\x96 USA", "O ORG O|O LOC"),
        (GERMEVAL, "inner", "Im Berlin #|\x96 USA", "O LOC O|O O"),
        (CONLL_U, None, "I do n't know .", "PRON AUX PART VERB PUNCT"),
        (CONLL_U, "XPOS", "I do n't know .", "P V N V F"),
        (WIKIANN, None, "R.H. Saunders (|:: St.", "ORG I-ORG O|O LOC"),
        (WNUT, None, "# #hashtag U.N.|Paris", "O O group|location"),
        ("a X\n\n\nb  Y \n", "1", "a|b", "X|Y"),
        ("\ufeffa\tX\r\n\r\nb\tY\r\n", None, "a|b", "X|Y"),
    ],
)
def test_every_form_is_read_and_written_back(
    tmp_path: Path, text: str, column: str | None, words: str, tags: str
) -> None:
    file = written(tmp_path, text)
    texts = list(read_texts(file, column))
    assert ["|".join(t.words) for t in texts] == [w.replace(" ", "|") for w in words.split("|")]
    found = [[tag.removeprefix("B-") for tag in t.tags] for t in texts]
    assert found == [t.split() for t in tags.split("|")]
    # Without its new column the file is the old one.
    lines = [line for t in texts for line in with_column(t, ["NEW"] * len(t.words))]
    given = text.removeprefix("\ufeff").replace("\r", "").removesuffix("\n").split("\n")
    assert len(lines) == len(given)
    for line, old in zip(lines, given, strict=True):
        new = line.removeprefix(old)
        assert line.startswith(old)
        assert new.strip() in ("", "NEW", "_", "O")
    assert sum("NEW" in line for line in lines) == sum(len(t.words) for t in texts)
    # The tags may be missing where they are predicted.
    assert [t.words for t in read_texts(file, labelled=False)] == [t.words for t in texts]


def test_documents_join_their_sentences(tmp_path: Path) -> None:
    texts = list(read_texts(written(tmp_path, CONLL_2003 + "\nnew NN O O\n"), by_document=True))
    assert [t.words for t in texts] == [
        ["EU", "rejects", "German", "call", "."],
        ["Peter", "Blackburn", "new"],
    ]
    assert [t.starts for t in texts] == [[0], [0, 2]]
    assert list(texts[1].sentences(texts[1].tags)) == [["B-PER", "I-PER"], ["O"]]


def test_a_word_alone_is_read_where_no_tag_is_wanted(tmp_path: Path) -> None:
    texts = list(read_texts(written(tmp_path, ONE_COLUMN), labelled=False))
    assert [t.words for t in texts] == [["Paris", "is"], ["nice"]]
    assert list(with_column(texts[0], ["B-LOC", "O"])) == ["Paris\tB-LOC", "is\tO", ""]


@pytest.mark.parametrize(
    ("given", "bio"),
    [
        ("B-A I-A O B-A B-A", "B-A I-A O B-A B-A"),
        ("I-A I-A O I-A B-A I-B", "B-A I-A O B-A B-A B-B"),  # IOB1
        ("S-A O B-A I-A E-A S-A S-A", "B-A O B-A I-A I-A B-A B-A"),  # IOBES
        ("U-A O B-A L-A U-B", "B-A O B-A I-A B-B"),  # BILOU
        ("O I-A I-B", "O B-A B-B"),  # illegal in BIO, and read as conlleval does
    ],
)
def test_chunks_are_written_in_bio(given: str, bio: str) -> None:
    assert to_bio(given.split()) == bio.split()


def test_chunks_of_illegal_sequences() -> None:
    assert chunks("I-A I-A B-A O I-B I-A".split()) == [
        ("A", 0, 2), ("A", 2, 3), ("B", 4, 5), ("A", 5, 6)
    ]  # fmt: skip
    assert chunks("E-A E-A I-A".split()) == [("A", 0, 1), ("A", 1, 2), ("A", 2, 3)]
    assert chunks(["O"]) == chunks([]) == []


def test_counts_by_hand() -> None:
    counts = Counts()
    counts.add("B-A I-A O B-B".split(), "B-A I-A O B-A".split())
    counts.add(["B-A"], ["O"])
    # Of three chunks one is found, and another one is wrong.
    assert counts.overall == pytest.approx((50, 100 / 3, 40))
    assert counts.by_type()["A"] == pytest.approx((50, 50, 50))
    assert counts.by_type()["B"] == (0, 0, 0)
    assert counts.accuracy == pytest.approx(60)
    assert counts.report().splitlines() == [
        "processed 5 tokens with 3 phrases; found: 2 phrases; correct: 1.",
        "accuracy:  60.00%; precision:  50.00%; recall:  33.33%; FB1:  40.00",
        "                A: precision:  50.00%; recall:  50.00%; FB1:  50.00  2",
        "                B: precision:   0.00%; recall:   0.00%; FB1:   0.00  0",
    ]


def test_conlleval_rounds_percentages() -> None:
    # 23 of 160 are 14.375%, which is written as 14.38; 100 times .14375 is less.
    counts = Counts()
    for i in range(160):
        counts.add(["B-A"], ["B-A" if i < 23 else "B-B"])
    line = "precision:  14.38%; recall:  14.38%; FB1:  14.38"
    assert counts.report().splitlines()[1] == f"accuracy:  14.38%; {line}"


@pytest.mark.parametrize(
    ("n_gold", "n_found", "n_right"),
    [(160, 160, 23), (63, 1, 1), (57, 7, 1), (56, 8, 5), (54, 10, 3), (53, 11, 9), (7, 9, 0)],
)
def test_metrics_have_the_digits_of_the_report(n_gold: int, n_found: int, n_right: int) -> None:
    counts = Counts()
    for i in range(n_gold):
        counts.add(["B-A"], ["B-A" if i < n_right else "O"])
    for _ in range(n_found - n_right):
        counts.add(["O"], ["B-A"])
    metrics = TagTask(labels=("B-A", "O")).measure(counts)
    # The decimal that a metric is printed as, in percent and rounded as printf rounds.
    names = ("Accuracy", "Precision", "Recall", "F1")
    shown = [(Decimal(repr(metrics[name])) * 100).quantize(Decimal("0.01")) for name in names]
    printed = re.findall(r"[\d.]+(?=%|$)", counts.report().splitlines()[1])
    assert [f"{value}" for value in shown] == printed


@pytest.mark.parametrize(
    ("gold", "predicted", "n_gold", "n_found", "n_right"),
    [
        # A bracket is a chunk of its own, and so is what follows it, if it starts one.
        ("[-A B-A [-A", "[-A B-A [-A", 2, 2, 2),
        # It starts one while another is open; both end together, and count once where right.
        ("B-A [-A", "B-A [-A", 2, 2, 1),
        ("B-A [-A", "B-A I-A", 2, 1, 1),
        ("B-A ]-A O", "O ]-A O", 2, 1, 1),
        # Tags without a type.
        ("[ ] O", "[ O ]", 2, 2, 1),
        ("B I O B", "B O O B", 2, 2, 1),
        ("B-A B", "B-A I", 2, 2, 2),
    ],
)
def test_brackets_and_tags_without_a_type_by_hand(
    gold: str, predicted: str, n_gold: int, n_found: int, n_right: int
) -> None:
    counts = Counts()
    counts.add(gold.split(), predicted.split())
    assert counts.report().splitlines()[0].partition("with ")[2] == (
        f"{n_gold} phrases; found: {n_found} phrases; correct: {n_right}."
    )


def test_the_type_without_a_name_is_listed_twice() -> None:
    counts = Counts()
    counts.add("B I O B-A".split(), "B I O O".split())
    listed = [line.partition(":")[0].strip() for line in counts.report().splitlines()[2:]]
    assert listed == ["", "", "A"]
    counts = Counts()
    counts.add(["B"], ["O"])
    assert len(counts.report().splitlines()) == 3


@pytest.mark.real
def test_conlleval_prints_the_same(real: Path) -> None:
    golden = {file.with_suffix(""): file for file in (real / "golden/conlleval").glob("rand*.out")}
    assert len(golden) == 20
    noisy = real / "golden/conlleval/wnut17.test.noisy.tsv"
    golden[noisy] = noisy.with_name(f"{noisy.name}.out")
    seqeval = real / "golden/seqeval"
    golden[seqeval / "ground_truth.txt"] = seqeval / "ground_truth.conlleval.out"
    for file, expected in golden.items():
        assert count_file(file).report() == expected.read_text().rstrip("\n"), file


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "sentences", "words", "entities"),
    [
        ("wnut17/wnut17train.conll", 3394, None, 1975),
        ("wnut17/emerging.dev.conll", 1009, None, 836),
        ("wnut17/emerging.test.annotated", 1287, 23394, 1079),
        ("wikiann/en/train", 20000, None, None),
        ("wikiann/en/dev", 10000, None, None),
        ("wikiann/de/test", 10000, None, None),
        ("germeval2014/NER-de-dev.tsv", 2200, None, None),
        ("UD_English-LinES/en_lines-ud-train.conllu", 3457, 64684, None),
        ("UD_English-LinES/en_lines-ud-dev.conllu", 1118, 21637, None),
        ("UD_English-LinES/en_lines-ud-test.conllu", 1121, 19984, None),
        ("UD_Chinese-GSD/zh_gsd-ud-dev.conllu", 500, None, None),
        ("UD_Chinese-GSD/zh_gsd-ud-test.conllu", 500, None, None),
    ],
)
def test_real_files_have_the_published_counts(
    real: Path, file: str, sentences: int, words: int | None, entities: int | None
) -> None:
    texts = list(read_texts(real / "tagging" / file))
    assert len(texts) == sentences
    assert words in (None, sum(len(t.words) for t in texts))
    assert entities in (None, sum(len(chunks(t.tags)) for t in texts))


# ------------------------------------------------------------------------------------------ windows


def tokenizer_of(folder: Path) -> FullTokenizer:
    vocab = "[PAD] [UNK] [CLS] [SEP] [MASK] a ##b c d e f".split()
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    return FullTokenizer(folder / "vocab.txt")


def test_the_first_piece_of_each_word_has_its_label_by_hand(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path)
    file = written(tmp_path, "ab X\nx\x96 Y\n\x96 X\nc Y\n\nd X\n")
    task = TagTask(labels=("X", "Y"))
    data = task.load(file, tokenizer)
    # [CLS] a ##b [UNK] [UNK] c [SEP]: a word of control characters alone is [UNK].
    assert data.features.ids.tolist() == [2, 5, 6, 1, 1, 7, 3, 2, 8, 3]
    n = IGNORED
    assert data.features.labels.tolist() == [n, 0, n, 1, 0, 1, n, n, 0, n]
    batch = data.features.batches(2)[0]
    assert batch.labels.tolist() == [[n, 0, n] + [n] * 4, [n, 0, n, 1, 0, 1, n]]
    # Two rows, and five labels in both of them.
    assert batch.weights.tolist() == pytest.approx([2 / 5] * 2)


@pytest.mark.parametrize("context", ["sentence", "document"])
def test_every_word_of_a_long_text_is_tagged_once_where_it_has_most_context(
    tmp_path: Path, context: str
) -> None:
    tokenizer = tokenizer_of(tmp_path)
    words = [("ab", "c", "d", "e", "f")[i % 5] for i in range(40)]
    tags = [("X", "Y")[i % 3 == 0] for i in range(40)]
    lines = [f"{word} {tag}" for word, tag in zip(words, tags, strict=True)]
    # Four sentences, which are one text where documents are read.
    for i in (30, 20, 10):
        lines.insert(i, "")
    task = TagTask(labels=("X", "Y"), max_len=10, context=context)
    data = task.load(written(tmp_path, "\n".join(lines)), tokenizer)
    features = data.features
    assert features.lengths.max() == 10
    labels = features.labels[features.labels != IGNORED]
    assert len(labels) == 40
    # Of each word: its piece stands where its tag is read, and its label is its own.
    first = features.ids[features.starts[data.of_input] + data.position]
    assert tokenizer.convert_ids_to_tokens(first.tolist()) == [w[0] for w in words]
    found = features.labels[features.starts[data.of_input] + data.position]
    assert [task.labels[i] for i in found] == tags
    # No other window would give it more context.
    room = features.lengths[data.of_input] - 2
    left, right = data.position - 1, room - data.position
    is_inner = np.minimum(left, right) >= 1
    assert is_inner.mean() > (0.75 if context == "document" else 0.5)


def test_outputs_are_read_at_the_first_piece(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path)
    task = TagTask(labels=("X", "Y"), max_len=8)
    data = task.encode_examples("x", list(task.examples_of(["ab c", ["d"], ""])), tokenizer)
    # The tag of a token is its id, its probability a hundredth of it.
    outputs = np.zeros((3, 2, 8), np.float32)
    for i in range(3):
        ids = data.features.ids[data.features.starts[i] : data.features.starts[i + 1]]
        outputs[i, :, : len(ids)] = [ids % 2, ids / 100]
    answers = task.answers(data, outputs)
    assert [a.words for a in answers] == [["ab", "c"], ["d"], []]
    assert [a.tags for a in answers] == [["Y", "Y"], ["X"], []]
    assert answers[0].probabilities == pytest.approx([0.05, 0.07])


def test_the_window_of_a_word_gives_it_the_most_context() -> None:
    for n, size in ((40, 8), (41, 8), (300, 7), (9, 8), (1000, 126)):
        starts = np.array(window_starts(n, size))
        tokens = np.arange(n)
        expected = most_context(tokens, starts, np.full(len(starts), size))
        assert window_of(tokens, starts, size).tolist() == expected.tolist()


def test_a_long_text_takes_little_memory(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path)
    task = TagTask(labels=("X", "Y"), max_len=10)
    # As a table of windows and pieces this would be 30 GB.
    data = task.encode_examples("x", list(task.examples_of([["a"] * 150_000])), tokenizer)
    assert len(data.position) == 150_000


def test_the_same_tags_in_another_order_keep_their_head(trained: Path, tmp_path: Path) -> None:
    source = pretrained.find(trained)
    assert source
    source = dataclasses.replace(source, labels=["O", "B-A", "I-A"])
    task = TagTask(labels=("B-A", "I-A", "O"))
    fitted = task.match_head(source, training=True)
    assert torch.equal(fitted.tensors["tags.bias"], source.tensors["tags.bias"][[1, 2, 0]])


def test_the_names_in_an_answer() -> None:
    from tasks.tags import Tagged

    words, tags = "Barack Obama saw Paris".split(), "B-PER I-PER O B-LOC".split()
    answer = Tagged(words, tags, [1.0] * 4)
    assert [entity[:2] for entity in answer.entities] == [("PER", "Barack Obama"), ("LOC", "Paris")]
    # With nothing else given they are parts of the words with blanks between them.
    assert [entity[2:] for entity in answer.entities] == [(0, 12, 1.0), (17, 22, 1.0)]


def test_plain_text_is_split_into_words() -> None:
    text = "The U.N.'s Ekeus (62) can't come, e.g. by www.un.org; 東京 A-1 3,000."
    words = "The U.N. 's Ekeus ( 62 ) can't come , e.g. by www.un.org ; 東 京 A-1 3,000 ."
    assert split_words(text) == words.split()
    # A mark belongs to its letter, as in Hindi and in decomposed accents.
    assert split_words("नमस्ते e\u0301te\u0301.") == ["नमस्ते", "e\u0301te\u0301", "."]


NUMBERS = "1\tCD\tO\nman\tNN\tO\nU.N.\tNNP\tB-ORG\n"


def test_a_number_as_the_first_word_numbers_nothing(tmp_path: Path) -> None:
    (text,) = read_texts(written(tmp_path, NUMBERS))
    assert text.words == ["1", "man", "U.N."]
    empty_node = CONLL_U.replace("1\tI\t", "0.1\tx\t_\tX\t_\t_\t_\t_\t_\t_\n1\tI\t", 1)
    (text,) = read_texts(written(tmp_path, empty_node))
    assert text.words == ["I", "do", "n't", "know", "."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ada Lovelace lived in London.\n", "plain text comes from standard input"),
        (CONLL_U + "x\t" + "\t".join("abcdefghi") + "\n", "line 11: found x; expected a word"),
        (WIKIANN + "St.\tO\n", "line 8: no en: before the word"),
    ],
)
def test_what_would_be_tagged_wrongly_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(read_texts(written(tmp_path, text), labelled=False))


@pytest.mark.parametrize("given", [None, 5, b"abc", {"words": 5}, [1]])
def test_inputs_of_another_form_are_refused(trained: Path, given: object) -> None:
    with pytest.raises(UserError, match="expected a text or its words"):
        finetune.load(trained).predict([given])


# ---------------------------------------------------------------------------- against transformers


def test_the_head_and_its_loss_are_those_of_transformers(
    tiny: models.Config, padded_batch: tuple, tmp_path: Path
) -> None:
    from transformers import BertForTokenClassification

    import checkpoint

    torch.manual_seed(0)
    ours = models.Tagger(tiny, 5).double().eval()
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    labels = [f"T{i}" for i in range(5)]
    tensors = {name: t.float() for name, t in ours.state_dict().items()}
    source = checkpoint.Checkpoint("ours", tmp_path, tiny, tensors, labels)
    (tmp_path / "hf").mkdir()
    (tmp_path / "vocab.txt").write_text("\n".join(map(str, range(95))) + "\n[PAD]\n[UNK]\n[CLS]\n")
    with open(tmp_path / "vocab.txt", "a") as f:
        f.write("[SEP]\n[MASK]\n")
    checkpoint.write_hugging_face(source, tmp_path / "hf", Vocabulary.read(tmp_path / "vocab.txt"))
    theirs = BertForTokenClassification.from_pretrained(tmp_path / "hf").double().eval()
    ours.load_state_dict(tensors)
    ids, segments, mask = padded_batch
    gold = torch.where(mask > 0, ids % 5, IGNORED)
    expected = theirs(ids, mask, segments, labels=gold)
    found = ours(ids, segments, mask)
    assert (found - expected.logits)[mask > 0].abs().max() < 1e-10
    from tasks.encoding import Batch

    weights = torch.full((5,), 5 / int(mask.sum()), dtype=torch.float64)
    batch = Batch(ids, segments, mask, gold, weights)
    loss, _ = TagTask(labels=tuple(labels)).loss(ours, batch)
    assert float(loss) == pytest.approx(float(expected.loss), abs=1e-12)
    # And back: its labels make the task.
    again = checkpoint.read(tmp_path / "hf")
    assert TagTask.saved(again).labels == tuple(labels)
    assert all(torch.equal(again.tensors[name], tensors[name]) for name in tensors)


# ----------------------------------------------------------------------------------------- commands


@pytest.fixture
def trained(sample: Path, tmp_path: Path) -> Path:
    """A model that tags the last letter of a word, trained for a few steps."""
    lines = (sample / "corpus.txt").read_text().splitlines()[:60]
    rows = [
        "\n".join(f"{w} {'B-A' if w[-1] in 'aeiou' else 'O'}" for w in s.split()) for s in lines
    ]
    (tmp_path / "train.txt").write_text("\n\n".join(rows) + "\n")
    start = pretrained.find(None, f"{sample}/config.json", f"{sample}/vocab.txt")
    cfg = train.Config(batch_size=8, n_epochs=1, lr=1e-3)
    run = finetune.prepare(TagTask(max_len=32), tmp_path / "train.txt", start, cfg=cfg)
    return run.fit(tmp_path / "run").file


def test_the_command_evaluates_predicts_and_scores(
    trained: Path, tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"--mode eval --model_file {trained} --data_file {tmp_path}/train.txt"
    status, out, err = run(line, tag.Tag, tag.Score)
    assert status == 0, err
    metrics = dict(line.split(": ") for line in out.splitlines() if re_metric(line))
    report = json.loads((trained.parent / "eval/train.json").read_text())
    assert float(metrics["F1"]) == report["F1"]
    # All entities are of one type.
    assert {k: v for k, v in report["types"]["A"].items() if k != "support"} == {
        "f1": report["F1"],
        "precision": report["Precision"],
        "recall": report["Recall"],
    }
    # What it wrote is scored alike, and what it predicts too.
    _, scored, _ = run(f"score {trained.parent}/eval/train.tsv", tag.Tag, tag.Score)
    assert scored.strip() in out
    line = (
        f"--mode predict --model_file {trained} --data_file {tmp_path}/train.txt --out {tmp_path}/p"
    )
    status, out, err = run(line, tag.Tag, tag.Score)
    assert (status, out) == (0, "")
    _, again, _ = run(f"score {tmp_path}/p", tag.Tag, tag.Score)
    assert again == scored
    # From a pipe comes plain text, and each line is answered.
    saved = finetune.load(trained)
    # A name of one word may be longer elsewhere.
    assert saved.task.labels == ("B-A", "I-A", "O")
    given = ["anna sold it .", "boris"]
    answers = saved.predict(given)
    rows = [row for a in answers for row in [*zip(a.words, a.tags, strict=True), ("", "")]]
    expected = [f"{w}\t{t}" for w, t in rows]
    import io
    import sys

    stream = io.TextIOWrapper(io.BytesIO("\n".join(given).encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    status, out, err = run(f"--mode predict --model_file {trained} --data_file -", tag.Tag)
    assert out.splitlines() == [line.strip() for line in expected]


def re_metric(line: str) -> bool:
    return line.split(":")[0] in ("F1", "Precision", "Recall", "Accuracy")


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("a X\nb\n", "", "x.txt, line 2: 1 columns; expected 2 as in the first sentence"),
        ("a X\n\nb Y Z\n", "", "x.txt, line 3: 3 columns; expected 2 as in the first sentence"),
        ("a\tX\nb\t\n", "", "x.txt, line 2: the tag is empty; mend the line"),
        ("a X\n" * 10_001, "", "a sentence of more than 10,000 lines; expected blank lines"),
        ("\n\n", "", "x.txt has no words; expected a word a line, and its tag beside it"),
        ("a\nb\n", "", "x.txt has words alone; expected their tags in a column beside them"),
        ("a X\nb X\n", "", "1 tags of 2 words, such as 'X'; expected two or more"),
        ("a X\nb Y\n", "--column 2", "--column 2: "),
        ("a X\nb Y\n", "--column 0", "--column 0: "),
        (CONLL_U, "--column upso", "--column upso: "),
        ("a X\nb Y\n", "--context all", "--context 'all': expected sentence or document"),
        ("a X\nb Y\n", "--encoding latin9000", "--encoding 'latin9000': expected one that Python"),
        ("a X\nb Y\n", "--dev_split 0.1", "1 rows with 1 different texts or groups"),
        ("a X\nb Y\n", "--max_len 2", "max_len=2; a word needs at least 3 tokens"),
        (
            "a X\nb Y\n",
            "--eval_file {folder}/dev.txt",
            "dev.txt, line 3: the tag 'Z' is not in the",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    sample: Path, tmp_path: Path, run: Callable, text: str, flags: str, message: str
) -> None:
    file = written(tmp_path, text)
    (tmp_path / "dev.txt").write_text("a X\n\nc Z\n")
    line = f"--train_file {file} --model_cfg {sample}/config.json --vocab {sample}/vocab.txt "
    line += f"--save_dir {tmp_path}/run {flags.format(folder=tmp_path)}"
    status, _, err = run(line, tag.Tag, tag.Score)
    assert status == 2, err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_uncased_vocabulary_and_names_bring_a_recommendation(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tokenizer = FullTokenizer(sample / "vocab.txt")
    for text, noted in (("a B-X\nb O\n", True), ("a X\nb Y\n", False)):
        TagTask().load_training(written(tmp_path, text), tokenizer)
        assert ("a cased model finds more" in capsys.readouterr().err) == noted


def test_scoring_refuses_what_is_no_table_of_tags(tmp_path: Path) -> None:
    for text, message in (
        ("a X\n", "2 columns"),
        ("a\n", "line 1: 1 columns; expected 2 or more"),
        ("a X Y\nb X\n", "line 2: 2 columns; expected 3 as before"),
        ("\n", "has no words"),
    ):
        if message == "2 columns":  # a gold and a predicted tag, and no word
            assert count_file(written(tmp_path, text)).n_words == 1
            continue
        with pytest.raises(UserError, match=message):
            count_file(written(tmp_path, text))


def test_a_head_with_other_tags_starts_anew(trained: Path, tmp_path: Path) -> None:
    start = pretrained.find(trained)
    for text, is_new in (("a B-A\nb O\n", False), ("a B-B\nb O\n", True)):
        task, _ = TagTask().load_training(written(tmp_path, text), start.tokenizer)
        assert ("tags" not in task.match_head(start, training=True).heads) == is_new
    assert dataclasses.replace(task, labels=()).metric_names[0] == "F1"


def test_a_model_of_another_scheme_is_counted_by_its_chunks() -> None:
    task = TagTask(labels=("B-LOC", "E-LOC", "I-LOC", "O", "S-LOC"))
    words = "a b c d e".split()
    gold = ["B-LOC", "I-LOC", "O", "B-LOC", "O"]  # as every file is read
    text = Text(1, words, gold, [0])
    answer = Tagged(words, ["B-LOC", "E-LOC", "O", "S-LOC", "O"], [1.0] * 5)
    assert task.measure(task.count([text], [answer])) == dict.fromkeys(task.metric_names, 1.0)


def test_the_best_legal_sequence_is_that_of_all_sequences() -> None:
    labels = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
    begin, legal = legal_steps(labels)
    rng = np.random.default_rng(4)

    def is_legal(path: tuple[int, ...]) -> bool:
        names = ["O", *(labels[i] for i in path)]
        return all(
            not tag.startswith("I") or (last != "O" and last[1:] == tag[1:])
            for last, tag in itertools.pairwise(names)
        )

    for _ in range(30):
        scores = rng.normal(size=(int(rng.integers(1, 6)), 5))
        paths = itertools.product(range(5), repeat=len(scores))
        best = max(
            filter(is_legal, paths), key=lambda path: sum(scores[i, t] for i, t in enumerate(path))
        )
        assert best_path(scores, begin, legal) == list(best)
    assert best_path(np.zeros((0, 5)), begin, legal) == []


def test_viterbi_answers_no_illegal_sequence_and_greedy_where_that_is_legal() -> None:
    task = TagTask(labels=("B-PER", "I-PER", "O"), decode="viterbi", max_len=8)
    texts = [Text(1, ["a", "b"], [], [0]), Text(2, ["c", "d", "e"], [], [0, 1])]
    chances = np.array(
        [[0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.1, 0.5, 0.4], [0.1, 0.2, 0.7]]
    )
    found = task.best_sequences(texts, np.log(chances))
    # A sentence cannot begin with I: the first text's becomes B, and of the second text's second
    # sentence the legal .4 x .7 is best.
    assert [task.labels[int(tag)] for tag in found[:, 0]] == ["B-PER", "I-PER", "O", "O", "O"]
    assert found[:, 1] == pytest.approx([0.3, 0.8, 0.7, 0.4, 0.7])
    with pytest.raises(UserError, match="expected greedy or viterbi"):
        TagTask(decode="beam")
    with pytest.raises(UserError, match="is for entities"):
        TagTask(labels=("NOUN", "VERB"), decode="viterbi")
