"""Files of samplers: the parameters of a flow, and how it was built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctsgfn.checkpoints import load_checkpoint, restore, save_checkpoint
from ctsgfn.errors import BadCheckpoint
from ctsgfn.gflownet import GFlowNet


def write_sampler(
    path: str | Path, gfn: GFlowNet[Any], recipe: dict[str, Any] | None, notes: tuple[str, ...]
) -> None:
    """Write a flow's parameters, its recipe if there is one, and what was decided about it."""
    save_checkpoint(
        path,
        {
            "kind": "sampler",
            "space": gfn.space.name,
            "measure": str(gfn.space.points),
            "recipe": recipe,
            "notes": list(notes),
            "gfn": gfn.state_dict(),
        },
    )


def read_sampler(path: str | Path, gfn: GFlowNet[Any]) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Read parameters into a flow built as the saved one was; returns the recipe and the notes.

    Raises:
        BadCheckpoint: when the file is no sampler, is cut short, or belongs to another model.
    """
    saved = _read(path)
    if saved["space"] != gfn.space.name or saved["measure"] != str(gfn.space.points):
        raise BadCheckpoint(
            f"{path} belongs to {saved['space']} with points in {saved['measure']}, not to "
            f"{gfn.space.name} with {gfn.space.points}: build the flow on the space it was saved with."
        )
    restore(gfn, saved["gfn"], path)
    return saved["recipe"], tuple(saved["notes"])


def read_recipe(path: str | Path) -> dict[str, Any] | None:
    """How the flow in a saved sampler was built, or None where it was saved without saying.

    Raises:
        BadCheckpoint: when the file is no sampler or is cut short.
    """
    recipe: dict[str, Any] | None = _read(path)["recipe"]
    return recipe


def _read(path: str | Path) -> dict[str, Any]:
    saved = load_checkpoint(path)
    if saved.get("kind") != "sampler":
        raise BadCheckpoint(
            f"{path} is a checkpoint of kind {saved.get('kind')!r}: pass one that Sampler.save wrote."
        )
    return saved
