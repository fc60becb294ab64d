"""What can be wrong with a file: its bytes, text, JSON, tensors, arrays; and with objects.

    mutate = random.Random(7).choice(JSON)
    mutate(Path("config.json"), random.Random(7))               # the file is another one now

A mutation takes a file and a random generator, and writes the file anew. The tuples BYTES, TEXT,
JSON ... list what may happen to files of a kind; what stands in one several times is as much more
likely.
"""

import collections
import hashlib
import importlib.util
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from formats.weights import write_pt

Mutation = Callable[[Path, Random], None]

# -------------------------------------------------------------------------------------------- bytes


def flip_bits(file: Path, rng: Random) -> None:
    """Flip one to four bits, half of the time near an end of the file, where formats have their own
    notes.
    """
    content = bytearray(file.read_bytes())
    ends = [*range(len(content))[:100], *range(len(content))[-100:]]
    for _ in range(rng.randint(1, 4)):
        place = rng.choice(ends) if rng.random() < 0.5 else rng.randrange(len(content))
        content[place] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def truncate(file: Path, rng: Random) -> None:
    """Keep the beginning."""
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])


def change_chunk(file: Path, rng: Random) -> None:
    """Delete, double, zero, overwrite or push away a stretch of the file."""
    content = file.read_bytes()
    start = rng.randrange(len(content))
    chunk = content[start : start + rng.randint(1, 64)]
    noise = rng.randbytes(len(chunk))
    new = rng.choice((b"", chunk * 2, bytes(len(chunk)), noise, noise + chunk))
    file.write_bytes(content[:start] + new + content[start + len(chunk) :])


def empty(file: Path, rng: Random) -> None:
    """No bytes at all."""
    file.write_bytes(b"")


def folder_instead(file: Path, rng: Random) -> None:
    """A folder of the file's name."""
    file.unlink()
    file.mkdir()


BYTES = (flip_bits, truncate, change_chunk) * 3 + (empty, folder_instead)


# --------------------------------------------------------------------------------------------- text

NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?", re.IGNORECASE)
NUMBERS = ("0", "-1", "2", "0.5", "1e400", "-1e400", "1e-320", "NaN", "9" * 5000)
NUMBERS += (str(10**6), str(10**12), str(2**63))
ODD_TEXTS = (
    "\0",
    "\ud800",
    "\u2028",
    "\x85",
    "\x1c",
    "\ufeff",
    "\uffff",
    "\U0001f98a",
    "\r",
    "\n\n",
)
ODD_TEXTS += ("\t", '"', ",", "{", "[MASK]", "\u0301" * 500, "word" * 10_000, "word " * 10_000)


def write_text(file: Path, text: str) -> None:
    """UTF-8, lone surrogates too."""
    file.write_bytes(text.encode("utf-8", "surrogatepass"))


def change_number(file: Path, rng: Random) -> None:
    """Another number instead of one in the text."""
    text = file.read_text(encoding="utf-8")
    found = list(NUMBER.finditer(text))
    start, end = rng.choice(found).span() if found else (0, 0)
    write_text(file, text[:start] + rng.choice(NUMBERS) + text[end:])


def insert_text(file: Path, rng: Random) -> None:
    """Characters that mean something to somebody."""
    text = file.read_text(encoding="utf-8")
    place = rng.randrange(len(text) + 1)
    write_text(file, text[:place] + rng.choice(ODD_TEXTS) + text[place:])


def change_lines(file: Path, rng: Random) -> None:
    """A line twice, left out, blank, joined with the next, or exchanged with another."""
    lines = file.read_text(encoding="utf-8").split("\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.choice(("twice", "left out", "blank", "joined", "exchanged"))
    if kind == "twice":
        lines.insert(i, lines[j])
    elif kind == "left out":
        del lines[i]
    elif kind == "blank":
        lines[i] = rng.choice(("", " ", "\t", "\r"))
    elif kind == "joined":
        lines[i : i + 2] = ["".join(lines[i : i + 2])]
    else:
        lines[i], lines[j] = lines[j], lines[i]
    write_text(file, "\n".join(lines))


def encode_anew(file: Path, rng: Random) -> None:
    """The same text in another encoding, or with other white space."""
    text = file.read_text(encoding="utf-8")
    encodings = ("utf-16", "utf-32", "utf-8-sig")
    contents = [text.encode(encoding) for encoding in encodings]
    contents += [
        text.replace("e", "\u00e9").encode("latin-1"),
        ("\ufeff" + text).encode("utf-8-sig"),
    ]
    for old, new in (("\n", "\r\n"), ("\n", "\r"), ("\n", "\n\n"), (" ", "\0"), (" ", "\u00a0")):
        contents.append(text.replace(old, new).encode())
    file.write_bytes(rng.choice(contents))


TEXT = (change_number, insert_text, change_lines, encode_anew) * 4 + BYTES


# --------------------------------------------------------------------------------------------- JSON

DEEP = 100_000  # lists within each other
# JSON of which each is somewhere of the wrong type, or too large.
ODD_JSON = r"""null true false Infinity "" [] {} [[]] [1,2] [0,1] ["a","a"] {"a":1} "0" "-1" "a"
"a\nb\tc" "\u0000" "\ud800" "../../x" """.split()
ODD_JSON += [
    *NUMBERS,
    f'"{"long" * 25_000}"',
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
]
ODD_KEYS = ("", "0", "-1", "labels", "hidden_size", "format", "x" * 5000, "\ud800", "a\nb")


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (dict, key) and (list, index) of nested dicts and lists."""
    found: list[tuple[Any, Any]] = []
    if isinstance(tree, dict):
        found = [(tree, key) for key in tree]
    elif isinstance(tree, list):
        found = [(tree, i) for i in range(len(tree))]
    return found + [place for holder, key in found for place in places(holder[key])]


def change_tree(tree: Any, rng: Random, odd: Callable[[Any], Any]) -> None:
    """Replace one to three values of nested dicts and lists by odd(value), add some, or leave some
    out.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder, key = rng.choice(places(tree) or [({"": 0}, "")])
        kind = rng.choice(("replaced",) * 7 + ("added", "left out", "as another"))
        if kind == "replaced":
            holder[key] = odd(holder[key])
        elif kind == "left out":
            del holder[key]
        elif kind == "as another":
            holder[key] = (
                holder[rng.choice(list(holder))] if isinstance(holder, dict) else holder[0]
            )
        elif isinstance(holder, dict):
            holder[rng.choice(ODD_KEYS)] = odd(holder[key])
        else:
            holder.append(odd(holder[key]))


def odd_json(text: str, rng: Random) -> str:
    """JSON with other values in it, or once in a while something else instead of all of it."""
    if rng.random() < 0.05:
        return rng.choice(ODD_JSON)
    # json.dumps writes neither 1e400 nor lists as deep as these, so they are put in afterwards.
    instead: dict[str, str] = {}

    def mark(value: Any) -> str:
        name = f"@odd{len(instead)}@"
        instead[name] = rng.choice(ODD_JSON)
        return name

    tree = json.loads(text)
    change_tree(tree, rng, mark)
    text = json.dumps(tree)
    for name, value in instead.items():
        text = text.replace(f'"{name}"', value)
    return text


def change_json(file: Path, rng: Random) -> None:
    """Other values in a JSON file."""
    write_text(file, odd_json(file.read_text(encoding="utf-8"), rng))


def change_json_line(file: Path, rng: Random) -> None:
    """Other values in a line of JSON lines."""
    lines = file.read_text(encoding="utf-8").splitlines()
    i = rng.randrange(len(lines))
    lines[i] = odd_json(lines[i], rng)
    write_text(file, "\n".join(lines) + "\n")


JSON = (change_json,) * 50 + TEXT
JSON_LINES = (change_json_line,) * 50 + TEXT


# ------------------------------------------------------------------------------------------ tensors

TYPES = (torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.bfloat16, torch.float64)
ODD_VALUES = (None, True, -1, 0, 0.5, float("inf"), float("nan"), 10**6, 10**12, 10**5000)
ODD_VALUES += ("", "a", "\ud800", "long" * 25_000, b"a", [], {}, (), {"a": 1}, {1: 2}, [1, 2])
ODD_VALUES += (torch.zeros(2), torch.zeros(()), torch.Size([2]), torch.float32)


def odd_shapes(t: torch.Tensor) -> list[torch.Tensor]:
    """The values of a tensor, or some of them, in other shapes."""
    return [t[:0], t[None], t.flatten(), t.T if t.ndim == 2 else t[:-1], t.sum()]


def odd_tensor(t: torch.Tensor, rng: Random) -> torch.Tensor:
    """A tensor that no model has."""
    t = t.detach().float()
    tensors = [t.to(kind) for kind in TYPES] + odd_shapes(t)
    tensors += [t.to(torch.complex64), t.to("meta"), t.to_sparse(), torch.nn.Parameter(t)]
    tensors += [torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), t * torch.nan, t * torch.inf]
    # Few numbers that claim to be many.
    tensors += [t.flatten()[:1].expand(t.shape), torch.zeros(1).expand(10**6, 10**6)]
    return rng.choice(tensors)


def change_contents(file: Path, rng: Random) -> None:
    """Other values in a file of torch.save; a .pt of ours has a valid digest again."""

    def odd(value: Any) -> Any:
        # One that a change before has made sparse, say, or empty, is odd enough.
        is_plain = isinstance(value, torch.Tensor) and value.layout == torch.strided
        if is_plain and not value.is_quantized and value.numel() > 1 and rng.random() < 0.7:
            return odd_tensor(value, rng)
        return rng.choice(ODD_VALUES)

    contents = torch.load(file, weights_only=True)
    change_tree(contents, rng, odd)
    if rng.random() < 0.05:
        contents = rng.choice(ODD_VALUES)
    if file.suffix == ".pt":
        write_pt(file, contents)
    else:
        torch.save(contents, file, _use_new_zipfile_serialization=zipfile.is_zipfile(file))


def sign_damage(file: Path, rng: Random) -> None:
    """Damaged bytes in a .pt of ours whose digest is right."""
    content = file.read_bytes()
    file.write_bytes(content[:-66])
    rng.choice((flip_bits, change_chunk))(file, rng)
    content = file.read_bytes() + content[-66:-64]
    file.write_bytes(content + hashlib.sha256(content).hexdigest().encode())


def change_header(file: Path, rng: Random) -> None:
    """Other values in the JSON at the beginning of a .safetensors."""
    content = file.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = odd_json(content[8:end].decode(), rng).encode("utf-8", "surrogatepass")
    file.write_bytes(struct.pack("<Q", len(header)) + header + content[end:])


def change_safetensors(file: Path, rng: Random) -> None:
    """Another tensor in a .safetensors, or another name."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    name = rng.choice(list(tensors))
    t = tensors[name]
    tensors[name] = rng.choice([t.to(kind) for kind in TYPES] + odd_shapes(t)).contiguous()
    if rng.random() < 0.2:
        tensors[rng.choice(("", "x" * 5000, "bert.more", "classifier.bias"))] = tensors.pop(name)
    save_file(tensors, file)


OURS = (change_contents,) * 24 + (sign_damage,) * 6 + BYTES
TORCH = (change_contents,) * 24 + BYTES * 2
SAFETENSORS = (change_header, change_safetensors) * 10 + BYTES


# ------------------------------------------------------------------------------- folders of weights

# Values of the right type that contradict the weights, or another file of their folder.
CONTRADICTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "config.json": {
        "vocab_size": (1, 5, 20, 10**9),
        "hidden_size": (2, 4, 12),
        "num_hidden_layers": (2, 3),
        "num_attention_heads": (1, 3, 4),
        "intermediate_size": (8, 24),
        "max_position_embeddings": (4, 5, 31, 512),
        "type_vocab_size": (1, 3),
        "hidden_act": ("silu", "relu", "gelu_new"),
        "position_embedding_type": ("relative_key", "absolute"),
        "model_type": ("roberta", "bert", "distilbert"),
        "is_decoder": (True, False),
        "add_cross_attention": (True,),
        "architectures": (["BertForMaskedLM"], ["BertForTokenClassification"], ["GPT2"], []),
        "problem_type": ("regression", "multi_label_classification"),
        "id2label": ({"0": "a"}, {"0": "a", "1": "a"}, {"1": "a", "2": "b"}, {"a": "0", "b": "1"}),
        "label2id": ({"a": 7}, {"no": 1, "yes": 0}, {"no": 0, "yes": 0}),
        "num_labels": (1, 3),
        "pad_token_id": (-1, 3, 10**9),
        "classifier_dropout": (0.9, 1.0, 2.0, -1.0),
        "torch_dtype": ("float16", "int8"),
    },
    "tokenizer_config.json": {
        "do_lower_case": (False, True),
        "strip_accents": (True, False),
        "tokenize_chinese_chars": (False,),
        "tokenizer_class": ("RobertaTokenizer", "BertTokenizer", "BertJapaneseTokenizer"),
        "model_max_length": (0, 4, 10**30, 1e30),
        "unk_token": ("anna", "nobody", ""),
        "cls_token": ("[SEP]", "nobody"),
        "mask_token": ("<mask>", "[CLS]"),
        "never_split": (["anna"], []),
        "added_tokens_decoder": (
            {"0": {"content": "anna", "special": True}},
            {"7": {"content": "[E1]", "special": False}},
            {"1000000000": {"content": "[E1]", "special": True}},
            {"-1": {"content": "x"}},
        ),
    },
    "tokenizer.json": {
        "normalizer": (None, {"type": "Lowercase"}, {"type": "BertNormalizer", "lowercase": False}),
        "pre_tokenizer": (None, {"type": "Whitespace"}),
        "model": ({"type": "BPE", "vocab": {}, "merges": []}, {"type": "WordPiece", "vocab": {}}),
        "added_tokens": ([{"id": 0, "content": "anna"}], [{"id": 10**9, "content": "[E1]"}]),
    },
    "special_tokens_map.json": {
        "unk_token": ("anna", "nobody", {"content": "[UNK]"}, {"content": 3}),
        "sep_token": ("[CLS]", "nobody"),
        "additional_special_tokens": (["[E1]"], [{"content": "anna"}], "[E1]"),
    },
    "added_tokens.json": {"[E1]": (0, 7, -1, 10**9), "anna": (0, 3), "": (5,)},
    "modules.json": {
        "type": ("sentence_transformers.models.Dense", "os.system", "Pooling"),
        "path": ("", "../..", "/", "2_Dense"),
    },
    "1_Pooling": {
        "pooling_mode_cls_token": (True, False),
        "pooling_mode_mean_tokens": (True, False),
        "pooling_mode_max_tokens": (True,),
        "word_embedding_dimension": (7, 0),
    },
    "model.safetensors.index.json": {
        "weight_map": (
            {},
            {"bert.pooler.dense.bias": "model-00001-of-00002.safetensors"},
            {"bert.pooler.dense.bias": "../whole/model.safetensors"},
            {"bert.pooler.dense.bias": "model-00009-of-00002.safetensors"},
            {"bert.pooler.dense.bias": "config.json"},
        ),
        "metadata": ({"total_size": 1}, {}),
    },
}


def contradict(file: Path, rng: Random) -> None:
    """One or two values in a JSON file that another file, or the weights, contradict."""
    known = CONTRADICTIONS[file.name if file.parent.name != "1_Pooling" else "1_Pooling"]
    tree = json.loads(file.read_text(encoding="utf-8"))
    # modules.json is a list of objects.
    holder = rng.choice(tree) if isinstance(tree, list) else tree
    for key in rng.sample(list(known), min(len(known), rng.randint(1, 2))):
        holder[key] = rng.choice(known[key])
    file.write_text(json.dumps(tree))


def leave_out(file: Path, rng: Random) -> None:
    """The file is missing."""
    file.unlink()


def exchange(file: Path, rng: Random) -> None:
    """The file and another one, of its folder or the one around it, have each other's names."""
    nearby = [*file.parent.iterdir(), *file.parent.parent.iterdir()]
    other = rng.choice([f for f in sorted(nearby) if f.is_file() and f != file])
    contents = file.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    file.write_bytes(contents[1])


def poison(file: Path, rng: Random) -> None:
    """A weight, or all of a tensor's, that are no numbers, or too large to compute with."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    name = rng.choice(list(tensors))
    value = rng.choice((float("nan"), float("inf"), float("-inf"), 3e38, -3e38))
    if rng.random() < 0.5:
        tensors[name] = torch.full_like(tensors[name], value)
    else:
        tensors[name].view(-1)[rng.randrange(tensors[name].numel())] = value
    save_file(tensors, file)


FOLDER = (change_json, contradict) * 20 + (leave_out, exchange) * 4 + TEXT
WEIGHTS = (poison,) * 20 + (leave_out, exchange) * 4 + SAFETENSORS


# ------------------------------------------------------------------------------------------- arrays

ARRAY_TYPES = ("i1", "u1", "u8", ">i4", "f2", "f8", "c8", "?", "S3", "U3", "O", "M8[s]", "i4,i4")
ODD_INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 7, 16, 100, 2**31, 2**62)


def odd_numbers(a: np.ndarray, rng: Random) -> np.ndarray:
    """Other numbers in an array, one or all of them, or in another order."""
    kind = rng.choice(("one", "one", "one", "all", "order"))
    if kind == "order":
        return rng.choice((a[::-1], np.roll(a, 1), np.sort(a, axis=None)[::-1].reshape(a.shape)))
    value = np.array(rng.choice(ODD_INTEGERS)).astype(a.dtype)
    if kind == "all":
        return np.full_like(a, value)
    a = a.copy()
    a.flat[rng.randrange(a.size)] = value
    return a


def odd_array(a: np.ndarray, rng: Random) -> np.ndarray:
    """An array of wrong numbers, or of a wrong type or shape."""
    kind = rng.choice(("numbers", "numbers", "numbers", "type", "shape"))
    if kind == "numbers":
        return odd_numbers(a, rng)
    if kind == "type":
        return a.astype(rng.choice(ARRAY_TYPES))
    shapes = (a[:0], a[:1], a[..., :0], a[..., :1], a[None], a[..., None], a.ravel(), a[:1].sum())
    return np.asarray(rng.choice(shapes))


def change_arrays(file: Path, rng: Random) -> None:
    """Other arrays in an npz."""
    with np.load(file) as npz:
        arrays = dict(npz)
    names = list(arrays)
    for name in rng.sample(names, rng.choice((1, 1, 1, 2, 3))):
        arrays[name] = odd_array(arrays[name], rng)
    if rng.random() < 0.1:
        other = rng.choice((*names, "valid_lengths", "input_word_ids", "a/b"))
        arrays[other] = arrays.pop(rng.choice(names))
    rng.choice((np.savez, np.savez_compressed))(file, **arrays)


def change_archive(file: Path, rng: Random) -> None:
    """An npz compressed otherwise, and perhaps an array that says it is far larger than it is, or
    unpacks to more.
    """
    with zipfile.ZipFile(file) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    compression = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    if rng.random() < 0.7:
        rows, filled = rng.choice(((2**43, 0), (2**30, 0), (10**30, 0), (-1, 0), (2**23, 2**26)))
        type_ = rng.choice(("<i8", "<i8", "|O", "|V100"))
        header, claim = io.BytesIO(), {"descr": type_, "fortran_order": False, "shape": (rows, 1)}
        np.lib.format.write_array_header_1_0(header, claim)
        parts[rng.choice(list(parts))] = header.getvalue() + bytes(filled)
    with zipfile.ZipFile(file, "w", rng.choice(compression)) as new:
        for name, content in parts.items():
            new.writestr(name, content)


def change_shard_array(file: Path, rng: Random) -> None:
    """Other numbers in an array of a shard, whose shard.json agrees with them."""
    about = json.loads((file.parent / "shard.json").read_text())
    entry = about["arrays"][file.stem]
    a = np.fromfile(file, entry["dtype"])
    if rng.random() < 0.3:
        a = rng.choice((a[: rng.randrange(len(a))], np.append(a, a[-1:]), a[1:]))
    elif rng.random() < 0.2:
        entry["dtype"] = rng.choice(ARRAY_TYPES)
    else:
        a = odd_numbers(a, rng)
    content = a.tobytes()
    file.write_bytes(content)
    entry["size"] = len(content) // np.dtype(entry["dtype"]).itemsize
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    (file.parent / "shard.json").write_text(json.dumps(about))


NPZ = (change_arrays,) * 30 + (change_archive,) * 4 + BYTES
SHARD_ARRAY = (change_shard_array,) * 24 + BYTES


# ----------------------------------------------------------------------------------------- TFRecord


def change_record(file: Path, rng: Random) -> None:
    """Other values in an example of a TFRecord."""
    import tensorflow as tf

    written = tf.data.TFRecordDataset(str(file))
    examples = [tf.train.Example.FromString(record.numpy()) for record in written]
    features = rng.choice(examples).features.feature
    name = rng.choice(sorted(features))
    values = list(features[name].int64_list.value)
    values[rng.randrange(len(values))] = rng.choice((-1, 2, 10**6, 2**62))
    kind = rng.choice(
        ("number", "number", "number", "shorter", "floats", "bytes", "nothing", "missing")
    )
    del features[name]
    if kind == "number":
        features[name].int64_list.value[:] = values
    elif kind == "shorter":
        features[name].int64_list.value[:] = values[1:]
    elif kind == "floats":
        features[name].float_list.value[:] = map(float, values)
    elif kind == "bytes":
        features[name].bytes_list.value[:] = [b"a"]
    elif kind == "nothing":
        features[name].int64_list.value[:] = []
    with tf.io.TFRecordWriter(str(file), rng.choice(("", "GZIP"))) as writer:
        for example in examples:
            writer.write(example.SerializeToString(deterministic=True))


RECORDS = (change_record,) * 16 + BYTES


# ------------------------------------------------------------------------------------------ objects
# What a notebook may hand over instead of texts. They are made anew for each run: some are used up.


def draw_again(file: Path, rng: Random) -> None:
    """Another number in the file, from which odd objects follow."""
    file.write_text(str(rng.random()))


class Odd:
    """An object whose length and items do not agree, or cannot be had."""

    def __init__(self, length: Any, items: Any):
        self.length, self.items = length, items

    def __len__(self) -> Any:
        if isinstance(self.length, Exception):
            raise self.length
        return self.length

    def __iter__(self) -> Any:
        if isinstance(self.items, Exception):
            raise self.items
        return iter(self.items)


class Text(str):
    """A text of a class of its own."""


def itself() -> list[Any]:
    """A list that is its own item."""
    a: list[Any] = []
    a.append(a)
    return a


def odd_object(rng: Random) -> Any:
    """Something that is no text, or an odd one."""
    kind = rng.choice((*"?bhilqBHILQefdgFDGSUOmM", "i4,i4"))
    array = np.zeros(rng.choice(((), 0, 2, (2, 2))), kind)
    plain = (None, float("nan"), float("inf"), 3, -1, True, 10**400, 1e400, 1j, ..., object, print)
    texts = ("", " ", "\0", "\ud800", "\n\n", "[MASK]", "a" * 300, "a " * 300, Text("anna"))
    numpy = (np.str_("anna"), np.float32("nan"), np.int64(3), np.bool_(True), array, [array])
    numpy += (np.array(["anna", "sold"]), np.array([["anna", "sold"]]), np.array("anna"))
    lists = ([], [[]], [["anna"]], (), ("anna",), ("a", "b", "c"), ("a", None), ("a", ["b", None]))
    lists += (["a", 3], ("a", float("nan")), ("a", ["b"]), ("a", []), itself())
    others = (b"anna", bytearray(b"a"), {}, {"text": "anna"}, {1: 2}, {"a", "b"}, range(2))
    others += (iter(["a", "b"]), (x for x in "ab"), Odd(2, ["a"]), Odd(-1, "ab"), Odd("2", "ab"))
    others += (Odd(2, TypeError("no items")), Odd(ValueError("no length"), ["a", "b"]))
    return rng.choice(rng.choice((plain, texts, numpy, lists, others)))


def changed(value: Any, rng: Random) -> Any:
    """A valid input with an odd object instead of it or of a part of it."""
    if not isinstance(value, list | tuple) or rng.random() < 0.3:
        return odd_object(rng)
    i = rng.randrange(len(value))
    parts = [changed(part, rng) if i == j else part for j, part in enumerate(value)]
    return rng.choice((type(value), list, tuple))(parts)


def object_array(items: list[Any]) -> np.ndarray:
    """Objects as a NumPy array with one dimension."""
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


def odd_inputs(valid: Any, rng: Random) -> tuple[Any, int | None]:
    """What to predict, and how many answers it has to have; None: it is refused, or none knows."""
    if rng.random() < 0.1:
        return odd_object(rng), None
    items = [valid] * rng.randint(0, 3)
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        items.insert(rng.randint(0, len(items)), changed(valid, rng))
    containers: list[Callable[[list[Any]], Any]] = [list, tuple, iter, collections.deque]
    containers += [object_array, lambda items: (item for item in items), lambda items: [*items]]
    containers += [lambda items: Odd(len(items), items), lambda items: Odd(7, items)]
    # Neither is a list of inputs: a table of columns, and a mapping.
    tables = [lambda items: {str(i): item for i, item in enumerate(items)}]
    if importlib.util.find_spec("pandas"):
        import pandas as pd

        containers.append(lambda items: pd.Series(items, dtype=object))
        tables.append(lambda items: pd.DataFrame({"text": object_array(items)}))
    if rng.random() < 0.1:
        return rng.choice(tables)(items), None
    return rng.choice(containers)(items), len(items)
