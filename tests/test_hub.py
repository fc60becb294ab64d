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

import checkpoint
import models
from formats import hub, loading
from system.files import read_json
from utils import UserError

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = models.Config(70, 16, 2, 2, 32, max_len=40)
WORDS = [f"word{i}" for i in range(65)]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as Hugging Face's hub has it."""
    folder = tmp_path_factory.mktemp("released") / "model"
    folder.mkdir()
    torch.manual_seed(0)
    tensors = models.PretrainModel(CONFIG).state_dict()
    source = checkpoint.Checkpoint(checkpoint.OURS, folder / "x.pt", CONFIG, tensors)
    vocab = folder.parent / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    checkpoint.write_hugging_face(source, folder, True, vocab)
    return folder


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
            owner, name, kind, revision, *rest = [*path.split("/"), "", "", ""][:6]
            if (owner, name) == ("a", "gated"):
                return self.answer(403, X_Error_Code="GatedRepo")
            if (owner, name) != ("google", "bert_uncased_L-2_H-128_A-2"):
                return self.answer(401, X_Error_Code="RepoNotFound")
            if revision not in ("main", "v1", COMMIT):
                return self.answer(404, X_Error_Code="RevisionNotFound")
            if kind == "revision":
                files = [{"rfilename": file.name} for file in released.iterdir()]
                body = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": files}
                return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
            if kind == "tree":
                entries = [
                    {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"}
                    for file in released.iterdir()
                ]
                body = json.dumps(entries).encode()
                return self.answer(200, body, Content_Type="application/json")
            body = (released / rest[0]).read_bytes()
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
    (tmp_path / "rows.csv").write_text("text,label\nword1 word2,a\nword3,b\n" * 8)
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
    with pytest.raises(UserError, match="did you mean bert-base-uncased"):
        loading.find_weights("bert-base-uncasd")
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
        archive.writestr("../../vocab.txt", "vocab.txt")
    folder = hub.unzipped(file)
    assert folder.parent == tmp_path / "cache" / "pytorchic-bert"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        name: name for name in ("bert_config.json", "vocab.txt", "bert_model.ckpt.index")
    }
    assert not list(tmp_path.rglob("evil.txt"))
    assert loading.find_weights(file) == folder / "bert_model.ckpt"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match="damaged or encrypted, fetch it again"):
        hub.unzipped(file)


@pytest.mark.parametrize("kind", ["deflate", "encrypted", "empty", "nowhere"])
def test_a_zip_that_cannot_be_used_is_a_line_and_leaves_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    file = tmp_path / "bert.zip"
    name = "notes.txt" if kind == "empty" else "bert_model.ckpt.index"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, "x" * 50 + "abc" * 400)
    content = bytearray(file.read_bytes())
    start = content.index(name.encode()) + len(name)
    if kind == "deflate":
        content[start : start + 4] = b"\xff" * 4
    if kind == "encrypted":  # a flag, in the file's head and in the list at the end
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(content)
    if kind == "nowhere":
        cache.write_text("")
    expected = {"empty": "has no TensorFlow checkpoint", "nowhere": "set XDG_CACHE_HOME"}
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
