"""The README's example runs as printed, within its promised length, and shows what its comment says."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_example_runs(capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    shown = capsys.readouterr().out
    match = re.fullmatch(r"([\d.]+) ± [\d.]+ against ([\d.]+) ± [\d.]+: difference (-[\d.]+) ± ([\d.]+)\n", shown)
    assert match, shown
    learned, pooled, difference, half_width = map(float, match.groups())
    assert learned < pooled and difference + half_width < 0
    assert learned - pooled == pytest.approx(difference, abs=0.002)
