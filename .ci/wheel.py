"""Build the wheel, install it alone into an empty folder, and import every module from elsewhere.

The only check that sees a folder missing from the package list: an editable install and the
symlinks both hide it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
site = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(site))
import ctsgfn, ctsgfn.kernels, ctsgfn.targets
for package in (ctsgfn, ctsgfn.kernels, ctsgfn.targets):
    assert site in pathlib.Path(package.__file__).parents, package.__file__
names = [found.name for found in pkgutil.walk_packages(ctsgfn.__path__, "ctsgfn.")]
for name in names:
    importlib.import_module(name)
assert (site / "ctsgfn" / "py.typed").exists()
print(f"wheel of ctsgfn {ctsgfn.__version__}: {len(names)} modules import from another folder")
"""


def run(*command: str, cwd: Path) -> None:
    """Run a command; its failure is ours."""
    subprocess.run([sys.executable, *command], cwd=cwd, check=True, stdin=subprocess.DEVNULL)


def main() -> None:
    """Build, look inside, install, import."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # a stale build/lib would enter the wheel
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        run("-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder / "dist"), ".", cwd=ROOT)
        (wheel,) = (folder / "dist").glob("ctsgfn-*.whl")
        top = {entry.split("/")[0] for entry in zipfile.ZipFile(wheel).namelist()}
        strangers = {entry for entry in top if entry != "ctsgfn" and not entry.endswith(".dist-info")}
        if strangers:
            sys.exit(f"the wheel has top-level {sorted(strangers)}: everything must be under ctsgfn/")
        site = folder / "site"
        run("-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel), cwd=folder)
        run("-I", "-c", IMPORT_ALL, str(site), cwd=folder)


if __name__ == "__main__":
    main()
