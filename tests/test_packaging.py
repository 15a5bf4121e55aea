"""What is installed is what is on disk, and importing it changes nothing for anybody."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = ("zuko", "arviz", "sklearn", "pandas", "networkx")


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def folders_on_disk() -> dict[str, str]:
    """Every folder of the three sources that holds files, as package name -> folder."""
    found = {"ctsgfn": "ctsgfn"}
    for top in ("kernels", "targets"):
        for folder in [ROOT / top, *(ROOT / top).rglob("*")]:
            if (
                folder.is_dir()
                and folder.name != "__pycache__"
                and any(p.is_file() for p in folder.iterdir())
            ):
                path = folder.relative_to(ROOT).as_posix()
                found["ctsgfn." + path.replace("/", ".")] = path
    inside = [p for p in (ROOT / "ctsgfn").iterdir() if p.is_dir() and not p.is_symlink()]
    found |= {f"ctsgfn.{p.name}": f"ctsgfn/{p.name}" for p in inside if p.name != "__pycache__"}
    return found


def test_package_list_equals_the_folders() -> None:
    listed = setup_cfg()["options"]["packages"].split()
    assert sorted(listed) == sorted(folders_on_disk())


def test_package_map_equals_the_folders() -> None:
    lines = setup_cfg()["options"]["package_dir"].strip().splitlines()
    mapped = dict(re.split(r"\s*=\s*", line.strip()) for line in lines)
    assert mapped == folders_on_disk()


def test_symlinks_lead_to_the_folders() -> None:
    for name in ("kernels", "targets"):
        assert (ROOT / "ctsgfn" / name).resolve() == ROOT / name


def test_version_is_a_plain_literal() -> None:
    """The build reads it without importing torch."""
    tree = ast.parse((ROOT / "ctsgfn/__init__.py").read_text())
    (version,) = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "__version__"
        and isinstance(node.value, ast.Constant)
    ]
    assert isinstance(version, str)
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()


def run(code: str) -> str:
    """Run code in a fresh interpreter, outside the repository."""
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning:ctsgfn", "-c", code],
        cwd=ROOT.anchor,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_pulls_no_optional_extra() -> None:
    modules = run("import sys, ctsgfn, ctsgfn.kernels, ctsgfn.targets; print(*sorted(sys.modules))").split()
    assert "ctsgfn" in modules
    assert not [name for name in OPTIONAL if name in modules]


def test_import_leaves_torch_as_it_was() -> None:
    run(
        "import random, numpy, torch\n"
        "def state():\n"
        "    return (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(),\n"
        "            torch.get_rng_state().tolist(), random.getstate(),\n"
        "            numpy.random.get_state()[1].tolist(), torch.are_deterministic_algorithms_enabled(),\n"
        "            torch.distributions.Distribution._validate_args)\n"
        "torch.manual_seed(5); random.seed(5); numpy.random.seed(5)\n"
        "before = state()\n"
        "import ctsgfn, ctsgfn.kernels, ctsgfn.targets\n"
        "assert state() == before, 'import ctsgfn changed the state of torch, numpy or random'\n"
    )


DISTRIBUTION = {
    "pyro": "pyro-ppl",
    "sklearn": "scikit-learn",
    "dibs": "dibs-lib",
    "gfn": "torchgfn",
    "ot": "POT",
    "typing_extensions": "typing-extensions",
}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("ctsgfn", "kernels", "targets"), ("arviz", "flows", "graphs")),
        (("tests", "examples"), ("arviz", "flows", "test", "dev")),
        (
            ("benchmarks", "paper_repro", "figures"),
            ("arviz", "flows", "test", "dev", "bench", "peers", "torchgfn", "molecule", "digits", "dibs"),
        ),
    ],
    ids=lambda value: "-".join(value),
)
def test_what_is_imported_is_declared(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    """Every third-party import stands in pyproject.toml under an extra that its folder may use."""
    text = (ROOT / "pyproject.toml").read_text()
    blocks = [re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)]
    blocks += [re.search(rf"^{extra} = \[(.*?)\]$", text, re.S | re.M) for extra in extras]
    requirements = [r for block in blocks if block for r in re.findall(r'"([^"]+)"', block.group(1))]
    declared = {re.split(r"[^A-Za-z0-9_-]", r)[0].lower() for r in requirements}
    undeclared = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                tops = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
                beside = [path.parent, ROOT / "benchmarks"] if folder == "paper_repro" else [path.parent]
                local = {
                    top
                    for top in tops
                    if top == "ctsgfn" or any((place / f"{top}.py").exists() for place in beside)
                }
                undeclared |= {
                    f"{top} ({path.relative_to(ROOT)})"
                    for top in tops - local
                    if DISTRIBUTION.get(top, top).lower() not in declared
                }
    assert not undeclared
