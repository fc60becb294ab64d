"""From what --data_file names to a prepared corpus: text, fixed instances, or one made earlier.

builder = CorpusBuilder(cache_dir="runs/base")
corpus = builder.prepare("books/*.txt", Vocabulary.read("vocab.txt"))
"""

import dataclasses
import hashlib
import json
from pathlib import Path

from formats.vocab import Vocabulary, find_vocab_file, load_vocab
from pretraining.instances import FIXED, prepare_instances
from pretraining.shards import Corpus, digests_of, find_shards, is_prepared
from pretraining.text import check_texts, cores, prepare_text, source_settings
from system.files import find_files
from utils import UserError


@dataclasses.dataclass(frozen=True)
class CorpusBuilder:
    """How files become a prepared corpus."""

    cache_dir: str | Path = "."  # for prepared text
    language: str | None = None  # to split lines into sentences in; None: a line is a sentence
    column: str | None = None  # of JSON lines, their text; None: "text"

    def prepare(self, names: str, vocabulary: Vocabulary) -> Corpus:
        """The corpus in a folder that was prepared earlier, or that is made of files now.

        Args:
            names: a folder, or a comma list of files, globs and folders.
            vocabulary: of the model, to tokenise text by.
        """
        if is_prepared(names):
            return self.open(names, vocabulary)
        files, are_records = self.find(names)
        # Ids and masks come from the files alone: no vocabulary or casing changes them.
        if are_records:
            made_from = {"text": digests_of(files)}
        else:
            made_from = source_settings(files, vocabulary, self.language, self.column)
        # Whatever changes the arrays is in the folder's name: another setting prepares anew.
        digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
        folder = Path(self.cache_dir) / f"corpus-{digest[:16]}"
        if are_records:
            prepare_instances(files, folder)
        else:
            prepare_text(
                files, vocabulary, folder, cores(), language=self.language, settings=made_from
            )
        return Corpus(folder)

    def find(self, names: str) -> tuple[list[Path], bool]:
        """The files to prepare, and whether they have fixed instances; nothing is prepared yet.

        UserError where they are neither text nor fixed instances, or some of each.
        """
        files = find_files(names)
        records = [file for file in files if FIXED.search(file.name)]
        # Text and ready-made instances cannot be batched together.
        if records and records != files:
            other = next(file for file in files if file not in records)
            raise UserError(f"{records[0]} has fixed instances, {other} text; train on one kind")
        if not records:
            check_texts(files)
        return files, bool(records)

    def open(self, folder: str, vocabulary: Vocabulary) -> Corpus:
        """A corpus prepared earlier; UserError where it was prepared otherwise than asked for."""
        corpus = Corpus(folder)
        if corpus.vocab_file and load_vocab(corpus.vocab_file) != vocabulary.tokens:
            raise UserError(
                f"{folder} was prepared with another vocabulary than {vocabulary.file}; prepare "
                "the text again, or name the model that belongs to it"
            )
        # A corpus keeps what it was prepared with; the flag can only agree.
        split = corpus.about.get("split_sentences")
        if self.language not in (None, split):
            raise UserError(
                f"{folder} was prepared with `split_sentences={split}`; leave the flag out, or "
                "prepare the text again"
            )
        return corpus


def vocab_of(names: str) -> Path | None:
    """The vocabulary in a folder that was prepared earlier."""
    return find_vocab_file(find_shards(Path(names))[0]) if is_prepared(names) else None
