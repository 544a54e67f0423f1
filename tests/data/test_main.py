"""The command line: the list, and fetching by name."""

import hashlib

import numpy as np
import pytest

from metabook.data import store
from metabook.data.__main__ import main


def test_list_names_everything(empty, capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name, entry in store.catalogue().items():
        assert f"\n{name}" in "\n" + listed and entry["title"] in listed and entry["licence"] in listed
    assert "16.3 MB to download; absent: python -m metabook.data fetch omniglot" in listed
    assert "comes with matplotlib" in listed
    assert f"METABOOK_DATA: not set\ncache: {empty}" in listed
    assert main(["list"]) == 0 and capsys.readouterr().out == listed


def test_list_says_which_place(empty, monkeypatch, tmp_path, capsys):
    own, cached = tmp_path / "own" / "omniglot", empty / "omniglot"
    for folder, name in ((own, "omniglot_28.npz"), (cached, "all_runs.zip")):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(bytes(1_000_000))
    monkeypatch.setenv("METABOOK_DATA", str(own.parent))
    main(["list"])
    listed = capsys.readouterr().out
    assert f"2.0 MB; in {own} (METABOOK_DATA) and {cached} (cache); licence: MIT" in listed
    assert f"METABOOK_DATA: {own.parent}" in listed


@pytest.fixture
def served(monkeypatch, empty, server):
    """MNIST's four files, tiny, from a server on this machine."""
    import gzip

    known = store.catalogue()
    for file in known["mnist"]["files"]:
        shape = (2, 28, 28) if "images" in file["name"] else (2,)
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
        content = gzip.compress(header + bytes(int(np.prod(shape))))
        file["url"] = server.add("/" + file["name"], content)
        file |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    monkeypatch.setattr(store, "catalogue", lambda: known)
    return server


def test_fetch_downloads_once(served, empty, capsys):
    assert main(["fetch", "mnist", "glyphs", "mnist"]) == 0
    out = capsys.readouterr().out
    assert out == f"mnist: in {empty / 'mnist'} (cache)\nglyphs: comes with matplotlib\n"
    assert main(["fetch", "mnist"]) == 0 and len(served.requests) == 4


def test_fetch_of_what_is_at_hand_downloads_nothing(omniglot, monkeypatch, capsys):
    monkeypatch.setattr("metabook.data.download.download", lambda *_: pytest.fail("nothing is to be downloaded"))
    assert main(["fetch", "omniglot"]) == 0 and capsys.readouterr().out.startswith("omniglot: in ")


def test_fetch_shows_a_bar_where_one_is_wanted(served, monkeypatch, capsys):
    monkeypatch.setenv("METABOOK_PROGRESS", "1")
    main(["fetch", "mnist"])
    assert "train-images-idx3-ubyte.gz" in capsys.readouterr().err


def test_fetch_that_fails_says_why_and_goes_on(served, empty, capsys):
    served.behaviour["/train-labels-idx1-ubyte.gz"] = "missing"
    assert main(["fetch", "mnist", "glyphs"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("mnist: train-labels-idx1-ubyte.gz of mnist is not in") and "METABOOK_DATA" in shown.err
    assert "glyphs: comes with matplotlib" in shown.out
    assert sorted(path.name for path in (empty / "mnist").iterdir()) == ["train-images-idx3-ubyte.gz"]


def test_unknown_names_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fetch", "imagenet"])
    assert stop.value.code == 2 and "choose from" in capsys.readouterr().err
