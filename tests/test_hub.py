"""Weights by name: against a local server with the hub's interface, and zip files as Google has."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import checkpoint
import models
from formats import finding, hub
from formats.names import OURS
from formats.rules import Rules, special_tokens
from formats.vocab import Vocabulary
from system.files import read_json
from utils import UserError

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = models.Config(70, 16, 2, 2, 32, max_len=40)
WORDS = [f"word{i}" for i in range(65)]
MODEL = "google/bert_uncased_L-2_H-128_A-2"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as Hugging Face's hub has it."""
    folder = tmp_path_factory.mktemp("released") / "model"
    folder.mkdir()
    torch.manual_seed(0)
    tensors = models.PretrainModel(CONFIG).state_dict()
    source = checkpoint.Checkpoint(OURS, folder / "x.pt", CONFIG, tensors)
    vocab = folder.parent / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    vocabulary = Vocabulary.read(vocab)
    # As transformers splits texts.
    rules = Rules(max_input_chars_per_word=100, added=special_tokens(vocabulary.tokens))
    checkpoint.write_hugging_face(source, folder, vocabulary.with_rules(rules, True))
    return folder


def published(folder: Path) -> dict[str, Path]:
    """The files of a repository by their names there."""
    return {str(f.relative_to(folder)): f for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def server(released: Path) -> Iterator[tuple[str, list[str]]]:
    """A local hub with the model as google/bert_uncased_L-2_H-128_A-2 and a/gated; its requests."""
    seen: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            headers["Content-Length"] = str(len(body))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            seen.append(f"{self.command} {self.path} {self.headers.get('Authorization', '')}")
            path = self.path.removeprefix("/api/models").lstrip("/")
            path, _, _ = path.partition("?")
            owner, name, kind, revision, rest = [*path.split("/", 4), "", "", ""][:5]
            if (owner, name) == ("a", "gated"):
                return self.answer(403, X_Error_Code="GatedRepo")
            if (owner, name) != ("google", "bert_uncased_L-2_H-128_A-2"):
                return self.answer(401, X_Error_Code="RepoNotFound")
            if revision not in ("main", "v1", COMMIT):
                return self.answer(404, X_Error_Code="RevisionNotFound")
            if kind == "revision":
                files = [{"rfilename": name} for name in published(released)]
                body = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": files}
                return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
            if kind == "tree":
                entries = [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0"}
                    for name, file in published(released).items()
                ]
                body = json.dumps(entries).encode()
                return self.answer(200, body, Content_Type="application/json")
            body = (released / rest).read_bytes()
            digest = hashlib.sha256(body).hexdigest()
            return self.answer(200, body, X_Repo_Commit=COMMIT, ETag=f'"{digest}"')

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}", seen
    listening.shutdown()


@pytest.fixture
def call(server: tuple[str, list[str]], tmp_path: Path) -> Callable:
    """Run a command of the project with the local hub and an empty cache."""
    pytest.importorskip("huggingface_hub")

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "HF_ENDPOINT": server[0],
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            **more,
        }
        line = [sys.executable, *arguments]
        return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT)

    return run


def test_a_model_is_fetched_once_and_pinned_in_the_run(
    call: Callable, server: tuple[str, list[str]], released: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "word1 word2,a\nword3,b\n" * 8)
    train = ["classify.py", "--task", "csv", "--data_file", str(tmp_path / "rows.csv")]
    train += ["--n_epochs", "1", "--save_dir", str(tmp_path / "run"), "--max_len", "16"]
    name = "google/bert_uncased_L-2_H-128_A-2"
    done = call(*train, "--pretrain_file", name, HF_TOKEN="hf_secret")
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256((released / "model.safetensors").read_bytes()).hexdigest()
    recorded = read_json(tmp_path / "run" / "run.json")
    assert recorded["weights"] == f"{name}@{COMMIT} sha256 {digest}"
    assert any(line.endswith("Bearer hf_secret") for line in server[1])
    assert not any("pytorch_model.bin" in line for line in server[1])
    # Offline the cache has it, and the run's weights are those of the folder.
    del server[1][:]
    for other in (name, "hf:" + name, f"hf:{name}@{COMMIT}"):
        same = call("checkpoint.py", "compare", other, str(released), HF_HUB_OFFLINE="1")
        assert "largest difference 0.000e+00, 0 tensors without" in same.stdout, same.stderr
    assert server[1] == []


def test_all_that_a_model_of_today_consists_of_is_fetched(
    call: Callable, server: tuple[str, list[str]], released: Path, tmp_path: Path
) -> None:
    # transformers 5 writes tokenizer.json and no vocab.txt; large weights come in several files.
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.BertWordPieceTokenizer({token: i for i, token in enumerate(tokens)})
    names = {
        "special_tokens_map.json": "{}",
        "modules.json": "[]",
        "sentence_bert_config.json": "{}",
        "1_Pooling/config.json": '{"pooling_mode_mean_tokens": true}',
        "README.md": "no part of it",
        "onnx/model.onnx": "nor this",
        "tokenizer.json": model.to_str(),
    }
    whole = (released / "model.safetensors").read_bytes()
    tensors, vocab = load_file(released / "model.safetensors"), (released / "vocab.txt").read_text()
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    expected = checkpoint.read(released).tensors
    try:
        for name, text in names.items():
            (released / name).parent.mkdir(exist_ok=True)
            (released / name).write_text(text)
        for file in set(places.values()):
            save_file({n: t for n, t in tensors.items() if places[n] == file}, released / file)
        index = json.dumps({"metadata": {}, "weight_map": places})
        (released / "model.safetensors.index.json").write_text(index)
        (released / "model.safetensors").unlink()
        (released / "vocab.txt").unlink()
        done = call("checkpoint.py", "convert", f"hf:{MODEL}", str(tmp_path / "new"))
        assert done.returncode == 0, done.stderr
    finally:
        for path in [*map(released.__truediv__, {*names, *places.values()} - {"README.md"})]:
            path.unlink()
        (released / "model.safetensors.index.json").unlink()
        (released / "model.safetensors").write_bytes(whole)
        (released / "vocab.txt").write_text(vocab)
    found = checkpoint.read(tmp_path / "new").tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], t) for name, t in expected.items())
    assert (tmp_path / "new/vocab.txt").read_text() == vocab
    cached = published(next((tmp_path / "cache/hub").glob("models--*/snapshots/*")))
    assert cached.keys() >= {*names, *places.values()} - {"README.md", "onnx/model.onnx"}
    assert not cached.keys() & {"README.md", "onnx/model.onnx"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:a/gated", "hf:a/gated: its owner wants you to accept terms first"),
        ("hf:a/missing", "the hub has no a/missing, or it is private; check the name"),
        ("google/bert_uncased_L-2_H-128_A-2@v9", "it has no revision v9; name a branch"),
        ("hf:a b", "hf:a b: expected hf:owner/name or hf:owner/name@revision"),
        ("bert-base-cased", "bert-base-cased: the hub has no google-bert/bert-base-cased"),
    ],
)
def test_what_the_hub_refuses_is_a_line(call: Callable, name: str, message: str) -> None:
    done = call("checkpoint.py", "inspect", name)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.strip().splitlines()
    assert message in line


def test_without_network_or_package_it_says_what_to_download(
    monkeypatch: pytest.MonkeyPatch, call: Callable
) -> None:
    lines = [call("checkpoint.py", "inspect", "bert-base-uncased", HF_HUB_OFFLINE="1").stderr]
    lines += [
        call("checkpoint.py", "inspect", "bert-base-uncased", HF_ENDPOINT="http://[::1]:9").stderr
    ]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError) as error:
        hub.fetch("bert-base-uncased")
    for line in (*lines, str(error.value)):
        assert len(line.strip().splitlines()) == 1
        assert "download config.json, vocab.txt and model.safetensors of google-bert/bert" in line
    assert "pip install huggingface_hub" in str(error.value)


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.repository("bert-base-uncased") == ("google-bert/bert-base-uncased", None)
    assert hub.repository("bert-base-uncased@v1") == ("google-bert/bert-base-uncased", "v1")
    assert hub.repository("hf:me/mine@b1") == ("me/mine", "b1")
    small = "google/bert_uncased_L-4_H-256_A-4"
    assert hub.repository(small) == (small, None)
    assert hub.repository("hf:me/mine@refs/pr/1") == ("me/mine", "refs/pr/1")
    for name in ("hf:me/mine", "bert-base-uncased", small):
        for revision in ("../../x", "/etc", "a/b", "..", "refs/../../x", "refs//x", "refs/pr/"):
            with pytest.raises(UserError, match="expected a branch, a tag, a commit, or refs/pr"):
                hub.repository(f"{name}@{revision}")
    for name in ("hf:..", "hf:../x", "hf:me/..", "hf:/etc/x", "hf:me/a/b"):
        with pytest.raises(UserError, match="expected hf:owner/name or hf:owner/name@revision"):
            hub.repository(name)
    with pytest.raises(UserError, match="did you mean bert-base-uncased"):
        finding.find_weights("bert-base-uncasd")
    # A folder that is missing, or is there, is no name.
    assert hub.repository("runs/mrpc") is None
    monkeypatch.chdir(tmp_path)
    Path("bert-base-uncased").mkdir()
    assert hub.repository("bert-base-uncased") is None


def test_googles_zip_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "uncased_L-2_H-16_A-2.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("bert_config.json", "vocab.txt", "bert_model.ckpt.index", "../../evil.txt"):
            archive.writestr(f"uncased_L-2_H-16_A-2/{name}", name)
        archive.writestr("__MACOSX/uncased_L-2_H-16_A-2/._bert_model.ckpt.index", "x")
    folder = hub.unzipped(file)
    assert folder.parent == tmp_path / "cache" / "pytorchic-bert"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        name: name for name in ("bert_config.json", "vocab.txt", "bert_model.ckpt.index")
    }
    assert not list(tmp_path.rglob("evil.txt"))
    assert finding.find_weights(file) == folder / "bert_model.ckpt"
    # What was altered since is taken out again; what was not is not touched.
    before = (folder / "vocab.txt").stat().st_mtime_ns
    assert hub.unzipped(file) == folder
    assert (folder / "vocab.txt").stat().st_mtime_ns == before
    for damage in (
        lambda: (folder / "bert_model.ckpt.index").write_text("bert_model.ckpt.indeX"),
        lambda: (folder / "vocab.txt").unlink(),
        lambda: (folder / "model.safetensors").write_text("of somebody else"),
    ):
        damage()
        assert hub.unzipped(file) == folder
        assert {path.name: path.read_text() for path in folder.iterdir()} == {
            name: name for name in ("bert_config.json", "vocab.txt", "bert_model.ckpt.index")
        }
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match="damaged or encrypted, fetch it again"):
        hub.unzipped(file)


@pytest.mark.parametrize("kind", ["deflate", "encrypted", "empty", "nowhere", "bomb", "lie", "two"])
def test_a_zip_that_cannot_be_used_is_a_line_and_leaves_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    file = tmp_path / "bert.zip"
    name = "notes.txt" if kind == "empty" else "bert_model.ckpt.index"
    monkeypatch.setattr(hub, "MOST_MORE", 2**20)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, "x" * 50 + "abc" * 400)
        if kind in ("bomb", "lie"):
            archive.writestr("bert_model.ckpt.data-00000-of-00001", bytes(2**21))
        if kind == "two":
            archive.writestr("other/bert_model.ckpt.index", "x")
    content = bytearray(file.read_bytes())
    if kind == "lie":  # 2 MB that claim to be 9 bytes
        assert content.count((2**21).to_bytes(4, "little")) == 2
        content = content.replace((2**21).to_bytes(4, "little"), (9).to_bytes(4, "little"))
    start = content.index(name.encode()) + len(name)
    if kind == "deflate":
        content[start : start + 4] = b"\xff" * 4
    if kind == "encrypted":  # a flag, in the file's head and in the list at the end
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(content)
    if kind == "nowhere":
        cache.write_text("")
    expected = {
        "empty": "has no TensorFlow checkpoint",
        "nowhere": "set XDG_CACHE_HOME",
        "bomb": r"would become 2,098,402 bytes, \d+ times its size; weights do not compress",
        "two": "has two files bert_model.ckpt.index, .* and other/bert_model.ckpt.index; unpack",
    }
    with pytest.raises(UserError, match=expected.get(kind, "damaged or encrypted")) as error:
        hub.unzipped(file)
    assert str(file) in str(error.value)
    assert not cache.is_dir() or not list(cache.rglob("*bert*/*"))


@pytest.mark.real
def test_a_real_checkpoint_in_a_zip(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorflow")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "uncased_minilm.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for path in (real / "minilm_tf").iterdir():
            archive.write(path, f"uncased_minilm/{path.name}")
    a, b = checkpoint.read(file), checkpoint.read(real / "minilm_tf")
    assert a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
