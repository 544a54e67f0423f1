"""The package as others meet it: quick to import, without effects, a pure wheel with its data inside."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

import metabook

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(code: str, **options) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, **options).stdout


def test_every_public_name_exists():
    for name in metabook.__all__:
        assert getattr(metabook, name).__doc__, name


def test_version_is_that_of_the_project_everywhere():
    assert metabook.__version__ == PROJECT["version"]
    written = {
        "CITATION.cff": [f"version: {metabook.__version__}\n"] * 2,
        "CHANGELOG.md": [f"## [{metabook.__version__}] - "],
        "book/intro.ipynb": [f"{{Version {metabook.__version__}}}"],
    }
    for name, lines in written.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert text.count(lines[0]) == len(lines), f"{name} does not say {lines[0]!r}"


def test_import_takes_less_than_two_seconds_beyond_torch():
    code = "import time, torch, torch.func; t = time.perf_counter(); import metabook; print(time.perf_counter() - t)"
    assert min(float(run(code)) for _ in range(3)) < 2


def test_import_loads_no_plotting_and_no_scikit_learn():
    code = "import sys, metabook, metabook.plotting, metabook.data; print(*{m.split('.')[0] for m in sys.modules})"
    assert not {"matplotlib", "sklearn", "IPython", "pandas"} & set(run(code).split())


def test_import_has_no_effects(tmp_path):
    code = (
        "import torch; s = torch.get_rng_state(); d, t = torch.get_default_dtype(), torch.get_num_threads(); "
        "import metabook, metabook.data, metabook.tasks; "
        "print(torch.equal(s, torch.get_rng_state()), d == torch.get_default_dtype(), t == torch.get_num_threads())"
    )
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    assert run(code, env=environment, cwd=tmp_path).split() == ["True"] * 3
    assert not list(tmp_path.iterdir())


def test_the_library_asks_for_lower_bounds_only():
    names = {requirement.split(">=")[0] for requirement in PROJECT["dependencies"]}
    assert names == {"torch", "numpy", "matplotlib", "tqdm"}
    assert all(requirement.count(">=") == 1 and "<" not in requirement for requirement in PROJECT["dependencies"])


def test_wheel_is_pure_and_complete(tmp_path):
    pytest.importorskip("build")
    source = tmp_path / "source"
    shutil.copytree(ROOT / "metabook", source / "metabook", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"metabook_learning-{metabook.__version__}-py3-none-any.whl"
    packed = set(zipfile.ZipFile(wheel).namelist())
    sources = [path for pattern in ("*.py", "*.json", "*.csv") for path in (ROOT / "metabook").rglob(pattern)]
    assert {str(path.relative_to(ROOT)) for path in sources} <= packed
    assert not [name for name in packed if name.endswith((".so", ".ipynb")) or name.startswith("tests/")]


def test_a_group_of_tests_stays_in_one_process(tmp_path):
    """What tests of a group share, such as a walk through the site, is then made once."""
    (tmp_path / "test_groups.py").write_text(
        "import pytest, time\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test_it(number, worker_id):\n"
        "    time.sleep(0.1)\n"
        "    print('ran in', worker_id)\n"
    )
    run = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-rP", "-p", "no:cacheprovider", tmp_path]
    shown = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path).stdout
    workers = re.findall(r"ran in (\w+)", shown)
    assert len(workers) == 6 and len(set(workers)) == 1, shown
