"""The import law: inside ctsgfn only lower floors; each other folder only what its place allows.

A new module of ctsgfn goes on the lowest floor above everything it imports; a folder of it, such as
measures/, counts as one module. Nothing here imports the package: the sources are read.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "capabilities errors presets two_sided normal_fits",
        "states budget penalties seeding networks distributions diagnostics psis checkpoints",
        "ascent tails whitening report traced pyro_supports pyro_enumeration",
        "measures acyclic acyclic_sums subsets evidence mixture_fit moves circle_clusters",
        "symmetric_mixture reference target summary arviz_export pyro_runs acyclic_draws with_parameters",
        "law coordinates laplace pyro_ways model_target graph_draws graph_data graph_chains",
        "kernel space graph_evidence subset_evidence counted mala plots pyro_target from_stan quadrature",
        "gflownet trajectories diffuse variational from_pyro predictive likelihood both_ways coordinate_walk",
        "walks balance gaussian_fits exact extreme probing model_plots",
        # the waist: below it measures and no loss, above it arrays and no measure
        "objectives gradient importance annealing history sampler_files missed",
        "behaviours warmup circle_warmup judging subtrajectories divergences"
        "  check_charts check_pairing check_target check_walks",
        "nested_fits",
        "replay optimisation check_flow check_mass structure_builders",
        "training start_law model_fits builders",
        "bridge",
        "smc chains",
        "refine",
        "sampler checks",
        "euclidean_kernels bayes_factor model_posterior listed",
        "euclidean circles exploring graph_summary",
        "graph_plots",
        "api graph_posterior",
        "graph_sources",
        "graph_fit",
    )
)
FLOOR = {name: level for level, floor in enumerate(FLOORS) for name in floor}

KNOWS_KERNELS = frozenset({"builders", "structure_builders"})
"""The modules of ctsgfn that may import kernels: the defaults that ``fit`` chooses from."""

KNOWS_TARGETS = frozenset({"graph_fit", "graph_sources"})
"""The modules of ctsgfn that may import targets: the likelihoods that ``fit_graph`` chooses from."""


@cache
def imports(path: Path) -> frozenset[str]:
    """Full dotted names of what a file imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import, write from ctsgfn.... import"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            found |= {name for name in inner if is_module(name)} or {module}
    return frozenset(found)


def is_module(name: str) -> bool:
    """Whether a dotted name is a file or folder of this repository."""
    place = ROOT / name.replace(".", "/")
    return place.is_dir() or place.with_suffix(".py").is_file()


def own(path: Path) -> set[str]:
    """The part of a file's imports that is ctsgfn, without the leading name."""
    return {name.partition(".")[2] for name in imports(path) if name.startswith("ctsgfn.")}


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


PACKAGE = ROOT / "ctsgfn"
CORE = [path for path in files("ctsgfn") if path != PACKAGE / "__init__.py"]


def unit(path: Path) -> str:
    """The module of ctsgfn that a file is, or the folder it lies in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_module_has_one_floor() -> None:
    on_disk = {unit(path) for path in CORE}
    assert sum(len(floor) for floor in FLOORS) == len(FLOOR), "a module stands on two floors"
    assert set(FLOOR) - on_disk == set(), "the table names modules that do not exist"
    homeless = {
        unit(path): 1 + max((FLOOR[name] for name in own(path) if name in FLOOR), default=-1)
        for path in CORE
        if unit(path) not in FLOOR
    }
    assert not homeless, f"add these modules to FLOORS, at the floor given or above: {homeless}"


@pytest.mark.parametrize("path", CORE, ids=label)
def test_core_imports_only_lower_floors(path: Path) -> None:
    level = FLOOR[unit(path)]
    concrete = {name for name in own(path) if name.split(".")[0] in ("kernels", "targets")}
    if path.stem in KNOWS_KERNELS:
        concrete = {name for name in concrete if name.split(".")[0] == "targets"}
    if path.stem in KNOWS_TARGETS:
        concrete = {name for name in concrete if name.split(".")[0] == "kernels"}
    assert not concrete, f"the theory knows no concrete {concrete}"
    core = {name for name in own(path) if name.split(".")[0] not in ("kernels", "targets")}
    assert not [top for top in imports(path) if top == "ctsgfn"] or path.stem == "checkpoints", (
        "import the module that defines the name, not the package's front door"
    )  # a checkpoint records the version, which the front door owns
    beside = {name for name in core if name.startswith(f"{unit(path)}.")}
    upward = {name for name in core - beside if FLOOR.get(name.split(".")[0], -1) >= level}
    assert not upward, f"{path.stem} is on floor {level} and imports {upward}"


def test_objectives_see_arrays_only() -> None:
    """A loss knows no measure, no space, no network: only the arrays of Balance."""
    assert own(ROOT / "ctsgfn/objectives.py") <= {"balance", "errors"}


@pytest.mark.parametrize("path", files("kernels"), ids=label)
def test_kernels_import_the_core_and_heads(path: Path) -> None:
    allowed = set() if "heads" in path.parts else {"kernels.heads"}
    if path.name != "__init__.py":
        for name in own(path):
            if name.startswith("kernels."):
                sibling = name.rsplit(".", 1)[0] == ".".join(path.relative_to(ROOT).parts[:-1])
                assert sibling or ".".join(name.split(".")[:2]) in allowed, f"imports {name}"
    assert not {name for name in own(path) if name.split(".")[0] in ("targets", "api", "sampler", "training")}
    assert not {"kernels", "targets"} & {name.split(".")[0] for name in imports(path)}, "a second copy"


@pytest.mark.parametrize("path", files("targets"), ids=label)
def test_targets_import_densities_only(path: Path) -> None:
    seen = {name for name in own(path) if not name.startswith("targets")}
    densities = {
        "target",
        "measures",
        "acyclic",
        "acyclic_sums",
        "acyclic_draws",
        "subsets",
        "with_parameters",
    }
    assert seen <= densities | {"errors"}
    assert not {"kernels", "targets"} & {name.split(".")[0] for name in imports(path)}, "a second copy"


@pytest.mark.parametrize("path", files("figures"), ids=label)
def test_figures_redraw_without_the_library(path: Path) -> None:
    assert not {"torch", "ctsgfn"} & {name.split(".")[0] for name in imports(path)}


SCRIPTS = [path for folder in ("examples", "benchmarks", "paper_repro") for path in files(folder)]


@pytest.mark.parametrize("path", SCRIPTS, ids=label)
def test_scripts_use_what_users_have(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    assert not {"kernels", "targets", "tests", "registry"} & tops
