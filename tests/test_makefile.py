"""The Makefile: what it may not do to the folder that a user has."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("target", "variable", "folder"),
    [("demo", "VENV", ".venv"), ("test", "VENV", "mine"), ("bench", "BENCH", "measured/venv")],
)
def test_a_folder_that_make_has_not_made_is_left_alone(
    target: str, variable: str, folder: str, tmp_path: Path
) -> None:
    make = shutil.which("make")
    assert make is not None
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "requirements.txt").touch()
    kept = tmp_path / folder / "kept"
    kept.parent.mkdir(parents=True)
    kept.write_text("of the user")
    given = folder.removesuffix("/venv")
    run = subprocess.run(
        (make, target, f"{variable}={given}"), cwd=tmp_path, check=False,
        capture_output=True, text=True, timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )  # fmt: skip
    assert run.returncode == 2
    assert f"make: {folder} is there, and was not made by make" in run.stderr
    assert f"make {target} {variable}=FOLDER" in run.stderr
    assert kept.read_text() == "of the user"
