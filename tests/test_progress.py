"""When the bar is drawn: by default, never in recorded notebooks, and as the caller says above all."""

import pytest

from metabook.progress import progress_bar


@pytest.mark.parametrize(
    ("variable", "show", "drawn"), [("1", None, True), ("0", None, False), ("0", True, True), ("1", False, False)]
)
def test_when_it_is_drawn(monkeypatch, capsys, variable, show, drawn):
    monkeypatch.setenv("METABOOK_PROGRESS", variable)
    with progress_bar(3, show, desc="three steps") as bar:
        bar.update(3)
    assert ("three steps" in capsys.readouterr().err) == drawn
