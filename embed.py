"""Train an encoder whose vectors are near where texts are alike; evaluate it; search with it.

    $ python embed.py --train_file pairs.jsonl --eval_file sts-dev.csv --pretrain_file BERT \\
          --save_dir runs/vectors
    $ python embed.py --mode eval --model_file runs/vectors --data_dir cranfield
    $ python embed.py --mode predict --model_file runs/vectors --data_file texts.txt \\
          --out vectors.npy
    $ python embed.py --mode search --model_file runs/vectors --data_file corpus.jsonl \\
          --queries "heat conduction in slabs" --top 5
    $ python embed.py --mode mine --model_file runs/vectors --data_file pairs.jsonl \\
          --out with_negatives.jsonl
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command import FilesCommand, check_shared, write_answers
from system.cli import command
from system.files import whole_file
from system.flags import only
from utils import UserError, json_text, warn

if TYPE_CHECKING:
    import numpy as np

    from encoder import Encoder
    from finetune import Saved

FORM = ("pooling", "normalize", "query_prompt", "document_prompt")
USES = "eval predict search mine"
FINDS = "search mine"


def __getattr__(name: str) -> Any:
    """load, for which PyTorch is loaded."""
    if name == "load":
        return load_encoder
    raise AttributeError(f"module 'embed' has no attribute {name!r}")


def load_encoder(weights: str | Path, *args: Any, **more: Any) -> "Encoder":
    """encoder.load(), of texts as long as sentence encoders usually read."""
    import encoder
    from tasks.vectors import MAX_LEN

    return encoder.load(weights, *args, **{"usual_len": MAX_LEN} | more)


@dataclasses.dataclass(kw_only=True)
class Embed(FilesCommand):
    """Train an encoder of texts, evaluate it, write vectors, search, mine hard negatives."""

    kind = "encoder"
    reads_folders = True
    modes = ("train", "eval", "predict", "search", "mine")
    task_fields = (
        *FORM,
        *("dense", "activation", "loss_name", "temperature", "both_ways", "margin", "widths"),
        *("bitext", "text_a", "text_b", "label", "max_len"),
    )

    # -- Weights
    # a model trained here, a folder of sentence-transformers, or any BERT
    model_file: str | None = only(USES)
    # -- Data
    # a query and a text in each row, also with negatives, a score or a label, or a text and its
    # group: csv, tsv or JSON lines; or a folder of BEIR's
    train_file: str | None = only("train")
    # to evaluate: pairs with a score, pairs, or BEIR's folder (several with commas between them);
    # to predict and to search: a text a line or a row; to mine: pairs
    data_file: str | None = only(USES)
    # a folder of BEIR's (corpus.jsonl, queries.jsonl, qrels), instead of train_file or data_file
    data_dir: str | None = only(f"train {USES}")
    text_a: str | None = None  # column of the query, or of a text to predict; default: look
    text_b: str | None = None  # column of the text that fits
    label: str | None = only("train eval")  # column of the score or label
    # longest text in tokens; default: what the folder of a sentence encoder says, else 256
    max_len: int | None = None
    # -- Vectors
    # mean or max over the tokens, cls, or layers: mean of the first and the last block. Default:
    # what the folder says, else mean
    pooling: str | None = None
    normalize: bool | None = None  # vectors of length 1; default: what the folder says, else True
    query_prompt: str | None = None  # what to put before each query
    document_prompt: str | None = None  # what to put before each other text
    dense: int | None = only("train")  # width of a layer behind pooling; default: none
    activation: str | None = only("train")  # behind it: tanh or identity
    # -- Training
    # contrastive: all texts of the whole batch are wrong but one; cosent, cosine: for scores;
    # margin: over the row's own negatives. Default: contrastive, with scores cosent
    loss: str | None = only("train")
    temperature: float | None = only("train")  # of contrastive; default .05
    both_ways: bool | None = only("train")  # of contrastive: also the query of each text
    margin: float | None = only("train mine")  # of cosines; default .2, to mine 0
    # comma list: vectors of the first so many elements are trained too
    widths: str | None = only("train")
    # -- Search
    queries: str | None = only("search")  # a text, or a file of them
    top: int = only("search", 10)  # texts of each query
    vectors: str | None = only("search")  # the .npy that predict made of data_file
    # pairs of a sentence and its translation: accuracy and F1 by margin scores (Tatoeba, BUCC)
    bitext: bool | None = only("eval")
    index: str | None = only("search")  # faiss, where that package is installed; default: exact
    # instead of queries: so many groups of like texts
    clusters: int | None = only("search")
    negatives: int = only("mine", 5)  # texts of each pair
    # -- Output
    # of predict the .npy to write; of search and mine the JSON lines, default: standard output; of
    # eval the folder for metrics
    out: str | None = only(USES)

    def check(self) -> None:
        super().check()
        if self.mode == "predict" and not (self.out and self.out.endswith(".npy")):
            raise UserError("--mode predict writes vectors; name a file with --out vectors.npy")
        if self.mode in ("search", "mine") and self.out:
            self.check_outputs([self.out])
        if self.mode == "search" and (self.queries is None) == (self.clusters is None):
            raise UserError("--mode search needs --queries or --clusters")
        if self.index not in (None, "faiss"):
            raise UserError(f"--index {self.index}: expected faiss, or none for an exact search")
        if self.clusters is not None and (self.clusters < 1 or self.index):
            raise UserError(f"--clusters {self.clusters}: expected 1 or more, and no --index")
        if self.top < 1 or self.negatives < 1:
            raise UserError("--top and --negatives: expected 1 or more")
        if self.mode == "mine":
            check_shared(self.data_file)

    def given(self) -> dict[str, Any]:
        """The task's fields that were given."""
        values = {name: getattr(self, name, None) for name in self.task_fields}
        values["loss_name"] = self.loss
        if self.widths is not None:
            values["widths"] = tuple(self.numbers("widths"))
        return {name: value for name, value in values.items() if value is not None}

    def numbers(self, name: str) -> list[int]:
        """A comma list of numbers."""
        text = str(getattr(self, name))
        if not all(part.strip().isdecimal() for part in text.split(",")):
            raise UserError(f"--{name} {text}: expected numbers with commas between them")
        return [int(part) for part in text.split(",")]

    # ------------------------------------------------------------------------------ train and eval

    def load(self) -> "Saved":
        """The saved model as one that evaluates."""
        import finetune
        import pretrained
        from tasks.vectors import VectorTask

        assert self.model_file
        start = pretrained.find(self.model_file, self.model_cfg, self.vocab, predicting=True)
        task = VectorTask.saved(start, **self.given())
        return finetune.load(self.model_file, task, start, **self.inference())

    def encoder(self) -> "Encoder":
        """The saved model as one that makes vectors."""
        how = self.inference()
        del how["data_parallel"]
        form = {name: getattr(self, name) for name in FORM if getattr(self, name) is not None}
        assert self.model_file
        return load_encoder(
            self.model_file, self.model_cfg, self.vocab, self.max_len, form=form, **how
        )

    # ------------------------------------------------------------------------------------- predict

    def predict(self) -> None:
        """Write a vector for each text."""
        from formats.arrays import write_npy
        from tasks.pairs import read_texts

        assert self.data_file
        assert self.out
        encoder = self.encoder()
        texts = [text for _, text in read_texts(self.corpus, self.text_a)]
        with whole_file(self.out) as f:
            parts = encoder.encode_parts(texts, "document", file=self.data_file)
            write_npy(f, parts, (len(texts), encoder.width), {"model": encoder.digest})
        warn(f"Saved {self.out}: {len(texts)} vectors of {encoder.width} numbers")

    # -------------------------------------------------------------------------------------- search

    def search(self) -> None:
        """Write the texts that are nearest to each query, or groups of texts."""
        from tasks.pairs import read_texts

        assert self.data_file
        # What is wrong is said before anything is computed.
        queries = self.read_queries() if self.clusters is None else []
        encoder, file = self.encoder(), self.corpus
        found = list(read_texts(file, self.text_a))
        vectors = self.vectors_of(encoder, [text for _, text in found])
        if self.clusters is not None:
            write_answers(self.grouped(found, vectors), self.out)
            return
        wanted = encoder.encode([text for _, text in queries], "query", bar=False)
        places, scores = self.nearest(vectors, wanted)
        write_answers(ranked(queries, found, places, scores), self.out)

    @property
    def corpus(self) -> str:
        """The file of texts to search: of BEIR's folder its corpus."""
        assert self.data_file
        folder = Path(self.data_file)
        return str(folder / "corpus.jsonl") if folder.is_dir() else self.data_file

    def read_queries(self) -> list[tuple[str, str]]:
        """The queries with their ids."""
        from tasks.pairs import QUERY, read_texts

        assert self.queries is not None
        file = Path(self.queries)
        # A text may be longer than any name of a file.
        with contextlib.suppress(OSError, ValueError):
            if file.is_dir():
                file = file / "queries.jsonl"
        is_file = False
        with contextlib.suppress(OSError, ValueError):
            is_file = file.exists()
        if not is_file:
            if file.suffix in (".txt", ".jsonl", ".csv", ".tsv"):
                raise UserError(f"--queries {self.queries}: there is no such file")
            if not self.queries.strip():
                raise UserError("--queries is empty; expected a text or a file")
            return [("1", self.queries)]
        usual = (*QUERY, "text")
        found = [(name, text) for name, text in read_texts(file, usual=usual) if text.strip()]
        if not found:
            raise UserError(f"{self.queries} has no queries; expected a text a line or a row")
        return found

    def vectors_of(self, encoder: "Encoder", texts: list[str]) -> "np.ndarray":
        """The texts' vectors, at length 1: those of --vectors, or new ones."""
        import numpy as np

        from formats.arrays import read_npy

        if not texts:
            raise UserError(f"{self.corpus} has no texts")
        if not self.vectors:
            return unit(encoder.encode(texts, "document", file=self.corpus))
        vectors, about = read_npy(Path(self.vectors))
        if about.get("model") != encoder.digest:
            raise UserError(
                f"{self.vectors} was made by another model, or with other settings; make it again "
                "with --mode predict"
            )
        if len(vectors) != len(texts):
            raise UserError(
                f"{self.vectors} has {len(vectors)} vectors, and {self.corpus} {len(texts)} texts; "
                "make it again with --mode predict"
            )
        return vectors if encoder.form.normalize else unit(np.asarray(vectors))

    def nearest(self, vectors: "np.ndarray", queries: "np.ndarray") -> tuple[Any, Any]:
        """The places of the nearest vectors, and their cosines."""
        from tasks import nearest

        if self.index is None:
            return nearest.search(vectors, unit(queries), self.top)
        return nearest.search_faiss(vectors, unit(queries), self.top)

    def grouped(self, texts: list[tuple[str, str]], vectors: "np.ndarray") -> Iterator[str]:
        """A line for each group: its size and its most central texts."""
        import numpy as np

        from tasks import nearest

        assert self.clusters is not None
        groups, centres = nearest.clusters(np.asarray(vectors), self.clusters, seed=42)
        for group in np.argsort(-np.bincount(groups, minlength=len(centres)), kind="stable"):
            places = np.flatnonzero(groups == group)
            near = places[np.argsort(-(vectors[places] @ centres[group]), kind="stable")]
            central = [{"id": texts[i][0], "text": texts[i][1]} for i in near[: self.top]]
            yield json_line({"group": int(group), "size": len(places), "texts": central})

    # ---------------------------------------------------------------------------------------- mine

    def mine(self) -> None:
        """Write the pairs with texts that are near their query and do not fit it."""
        from tasks import nearest
        from tasks.pairs import as_judged, read_judged, read_pairs

        assert self.data_file
        encoder = self.encoder()
        columns = {"text_a": self.text_a, "text_b": self.text_b, "label": None}
        found = read_pairs(self.data_file, columns)
        if found.scored:
            raise UserError(
                f"{self.data_file}: its pairs have a number; mining needs pairs that fit each other"
            )
        folder = Path(self.data_file)
        # Of a collection all texts are looked through.
        judged = read_judged(folder, training=True) if folder.is_dir() else as_judged(found)
        names = {name: i for i, name in enumerate(judged.texts)}
        texts = list(judged.texts.values())
        place = {text: i for i, text in enumerate(texts)}
        by_query = {
            text: [i for i, grade in judged.grades.get(name, {}).items() if grade > 0]
            for name, text in judged.queries.items()
        }
        vectors = unit(encoder.encode(texts, "document", file=self.data_file))
        queries = unit(encoder.encode([pair.query for pair in found.pairs], "query"))
        own = [place[pair.texts[0]] for pair in found.pairs]
        fits = [
            {names[name] for name in by_query[pair.query]} | {place.get(pair.query, -1)}
            for pair in found.pairs
        ]
        import numpy as np

        margin = self.margin or 0.0
        mined = nearest.hard_negatives(
            vectors, queries, np.array(own), fits, margin, self.negatives
        )
        n = sum(map(len, mined))
        lines = (
            json_line(
                {
                    "query": pair.query,
                    "text": pair.texts[0],
                    "negatives": list(dict.fromkeys([*pair.texts[1:], *(texts[i] for i in row)])),
                }
            )
            for pair, row in zip(found.pairs, mined, strict=True)
        )
        write_answers(lines, self.out)
        warn(f"{n} negatives of {len(mined)} pairs")


def ranked(
    queries: list[tuple[str, str]], texts: list[tuple[str, str]], places: Any, scores: Any
) -> Iterator[str]:
    """A line for each text that was found, the nearest first."""
    for (query_id, query), row, values in zip(queries, places, scores, strict=True):
        for rank, (i, score) in enumerate(zip(row, values, strict=True), start=1):
            # An approximate index may find fewer.
            if i < 0:
                break
            name, text = texts[i]
            found = {"query_id": query_id, "query": query, "rank": rank, "score": float(score)}
            yield json_line(found | {"id": name, "text": text})


def json_line(values: dict[str, Any]) -> str:
    """An object as a line."""
    return f"{json_text(values, 'the answers', ensure_ascii=False)}\n"


def unit(vectors: "np.ndarray") -> "np.ndarray":
    """(N, D) vectors at length 1."""
    import numpy as np

    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


if __name__ == "__main__":
    command(Embed, processes=True)
