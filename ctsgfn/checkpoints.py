"""Checkpoints: plain tensors and plain values, written whole or not at all, read without running code."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctsgfn.errors import BadCheckpoint, InvalidInput

FORMAT = "ctsgfn checkpoint"
VERSION = 1
"""Raised when older libraries could no longer read what is written."""


def save_checkpoint(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Write tensors, numbers, texts, None, and lists, tuples and dicts of these.

    The file is written beside ``path`` and then renamed onto it, so a crash leaves the old one whole.

    Raises:
        InvalidInput: naming the first entry that is not plain.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(f"{folder}/run.pt", {"step": 3, "weights": torch.ones(2)})
        ...     load_checkpoint(f"{folder}/run.pt")["weights"].tolist()
        [1.0, 1.0]
    """
    import ctsgfn  # for the version only; the package imports this module

    path = Path(path)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "library": ctsgfn.__version__,
        "payload": _plain(payload, "payload"),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote, with tensors on the CPU; nothing in the file is executed.

    Raises:
        FileNotFoundError: when there is no such file.
        BadCheckpoint: when the file is cut short, of another kind, or of a newer library.
    """
    path = Path(path)
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise BadCheckpoint(
                f"{path} is not a checkpoint, or was cut short (it holds no complete archive): use another "
                "file, or delete it and save again."
            )
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()  # torch.load does not look at the checksums
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a foreign archive provokes, it means the same thing
            raise BadCheckpoint(
                f"{path} is damaged or not a checkpoint of this library "
                f"({(str(error).splitlines() or [type(error).__name__])[0][:120]}): use another file, or "
                "delete it and save again."
            ) from error
    if damaged is not None:
        raise BadCheckpoint(f"{path} is damaged, its part {damaged!r} fails its checksum: use another file.")
    if not isinstance(content, dict) or content.get("format") != FORMAT or "payload" not in content:
        raise BadCheckpoint(
            f"{path} holds something else than a checkpoint of ctsgfn: pass one that it saved."
        )
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise BadCheckpoint(
            f"{path} has checkpoint version {content.get('version')} (written by ctsgfn "
            f"{content.get('library')}), and this library reads up to {VERSION}: upgrade ctsgfn."
        )
    payload: dict[str, Any] = content["payload"]
    return payload


def restore(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load parameters and buffers into a module of the same names, shapes and dtypes.

    Raises:
        BadCheckpoint: naming the first parameter that is missing, left over, or of another shape.
    """
    own = module.state_dict()
    for name in [*own, *state]:
        if name not in state or name not in own:
            where = "the file" if name not in state else "this model"
            raise BadCheckpoint(
                f"{path} belongs to another model: {where} has no {name!r}; build the model as it was saved."
            )
        ours, theirs = own[name], state[name]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise BadCheckpoint(
                f"{path} belongs to another model: {name!r} is {_kind(theirs)} in the file and "
                f"{_kind(ours)} here; build the model as it was saved."
            )
    module.load_state_dict(dict(state))


def _kind(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}"


def _plain(value: Any, where: str) -> Any:
    """A copy of nested plain values, tensors detached, on the CPU and without unused storage."""
    if isinstance(value, Tensor):
        t = value.detach().cpu()
        return t.clone() if t.untyped_storage().nbytes() > t.nelement() * t.element_size() else t
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise InvalidInput(
                    f"a checkpoint cannot hold the key {key!r} of {where}: use text or numbers."
                )
        return {key: _plain(v, f"{where}[{key!r}]") for key, v in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise InvalidInput(
        f"a checkpoint cannot hold {where}, a {type(value).__name__}: give tensors, numbers, texts, None, or "
        "lists and dicts of these."
    )
