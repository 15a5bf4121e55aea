"""Checkpoints: what is written comes back, whole or not at all, and foreign files are refused."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ctsgfn
from ctsgfn.checkpoints import VERSION, load_checkpoint, restore, save_checkpoint
from ctsgfn.errors import BadCheckpoint, InvalidInput

PAYLOAD: dict[str, Any] = {
    "step": 7,
    "rates": [0.1, 1e-300, float("inf")],
    "name": "run",
    "none": None,
    "flag": True,
    "pair": (1, "a"),
    "nested": {0: {"exp_avg": torch.arange(3.0)}, "half": torch.ones(2, dtype=torch.bfloat16)},
    "rng": torch.get_rng_state(),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, PAYLOAD)
    assert same(load_checkpoint(path), PAYLOAD)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]  # nothing left beside it


def test_an_optimiser_goes_on_as_if_nothing_happened(tmp_path: Path) -> None:
    def updates(count: int, layer: nn.Linear, adam: torch.optim.Adam) -> None:
        for i in range(count):
            adam.zero_grad()
            (layer(torch.full((1, 3), 1.0 + i)).square().sum()).backward()
            adam.step()

    layer = nn.Linear(3, 2)
    adam = torch.optim.Adam(layer.parameters(), lr=0.1)
    updates(3, layer, adam)
    save_checkpoint(tmp_path / "a.pt", {"layer": layer.state_dict(), "adam": adam.state_dict()})
    updates(2, layer, adam)
    twin = nn.Linear(3, 2)
    other = torch.optim.Adam(twin.parameters(), lr=0.5)
    saved = load_checkpoint(tmp_path / "a.pt")
    restore(twin, saved["layer"], "a.pt")
    other.load_state_dict(saved["adam"])
    updates(2, twin, other)
    assert torch.equal(layer.weight, twin.weight)


def test_a_view_is_saved_without_what_surrounds_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"x": torch.zeros(1_000_000)[:2], "p": nn.Parameter(torch.ones(1))})
    assert (tmp_path / "a.pt").stat().st_size < 10_000
    assert load_checkpoint(tmp_path / "a.pt")["x"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"f": lambda: 0}, r"payload\['f'\], a function"),
        ({"a": [1, {"b": object()}]}, r"payload\['a'\]\[1\]\['b'\], a object"),
        ({"a": {(1, 2): 0}}, r"the key \(1, 2\) of payload\['a'\]"),
        ({"m": nn.Linear(1, 1)}, "a Linear"),
    ],
)
def test_what_is_not_plain_is_refused(payload: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=words):
        save_checkpoint(tmp_path / "a.pt", payload)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"step": 1})

    def cut(content: Any, file: Any) -> None:
        file.write(b"half of")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, PAYLOAD)
    whole = path.read_bytes()
    for length in [0, 1, 10, *range(100, len(whole) - 1, len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(BadCheckpoint, match="cut short"):
            load_checkpoint(path)


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, PAYLOAD)
    whole = path.read_bytes()
    noticed = 0
    for place in range(0, len(whole), 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert same(load_checkpoint(path), PAYLOAD)
        except BadCheckpoint:
            noticed += 1
    assert noticed > len(whole) / 23 / 2


class Bomb:
    def __reduce__(self) -> Any:
        return (Path("exploded").touch, ())


def write(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("not a checkpoint\n" * 100)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"format": "ctsgfn checkpoint"}))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("readme.txt", "hello")
    elif kind == "code":
        torch.save({"format": "ctsgfn checkpoint", "version": 1, "payload": Bomb()}, path)
    elif kind == "weights":
        torch.save(nn.Linear(2, 2).state_dict(), path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "newer":
        torch.save(
            {"format": "ctsgfn checkpoint", "version": VERSION + 1, "library": "9.0", "payload": {}}, path
        )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "no complete archive"),
        ("pickle", "no complete archive"),
        ("zip", "damaged or not a checkpoint"),
        ("code", "damaged or not a checkpoint"),
        ("weights", "something else than a checkpoint"),
        ("list", "something else than a checkpoint"),
        ("newer", rf"version {VERSION + 1} \(written by ctsgfn 9.0\).*up to {VERSION}: upgrade"),
    ],
)
def test_foreign_files_are_refused(
    kind: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.pt", kind)
    with pytest.raises(BadCheckpoint, match=words) as caught:
        load_checkpoint("a.pt")
    assert "\n" not in str(caught.value)
    assert not Path("exploded").exists()


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pt")


def test_the_version_of_the_library_is_recorded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {})
    assert torch.load(tmp_path / "a.pt", weights_only=True)["library"] == ctsgfn.__version__


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nn.Linear(3, 4), r"'weight' is float32\[2, 3\] in the file and float32\[4, 3\] here"),
        (nn.Linear(3, 2, bias=False), "this model has no 'bias'"),
        (nn.Sequential(nn.Linear(3, 2)), "the file has no '0.weight'"),
        (nn.Linear(3, 2).double(), r"'weight' is float32\[2, 3\] in the file and float64\[2, 3\] here"),
    ],
)
def test_another_model_is_refused_and_left_alone(other: nn.Module, words: str) -> None:
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(BadCheckpoint, match=words):
        restore(other, nn.Linear(3, 2).state_dict(), "a.pt")
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
