"""Where files are looked for, and that only verified ones are used."""

import hashlib
from pathlib import Path

import pytest

from metabook import data
from metabook.data import store

CONTENT = b"official bytes"


@pytest.fixture
def letters(monkeypatch, server):
    """A data set of one file, served on this machine."""
    url = server.add("/letters.bin", CONTENT)
    file = {
        "name": "letters.bin",
        "url": url,
        "size": len(CONTENT),
        "md5": hashlib.md5(CONTENT).hexdigest(),
        "git_blob_sha1": hashlib.sha1(b"blob 14\0" + CONTENT).hexdigest(),
    }
    known = {"letters": {"title": "letters", "licence": "none", "files": [file]}}
    monkeypatch.setattr(store, "catalogue", lambda: known)
    monkeypatch.setattr("metabook.data.download.time.sleep", lambda _: None)


def put(folder, content=CONTENT):
    path = folder / "letters" / "letters.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_order_own_folder_then_cache_then_download(letters, empty, monkeypatch, tmp_path, server):
    downloaded = store.get("letters", "letters.bin")
    assert downloaded == empty / "letters" / "letters.bin" and downloaded.read_bytes() == CONTENT
    assert store.get("letters", "letters.bin") == downloaded and len(server.requests) == 1
    monkeypatch.setenv("METABOOK_DATA", str(tmp_path / "own"))
    assert store.get("letters", "letters.bin") == downloaded
    own = put(tmp_path / "own")
    assert store.get("letters", "letters.bin") == own and len(server.requests) == 1


def test_a_damaged_file_in_the_cache_is_replaced(letters, empty, server):
    put(empty, CONTENT[:-1])
    assert store.get("letters", "letters.bin").read_bytes() == CONTENT
    put(empty, CONTENT[:-1] + b"!")
    assert store.get("letters", "letters.bin").read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_damaged_file_of_the_reader_is_named_and_left_alone(letters, empty, monkeypatch, tmp_path, server):
    monkeypatch.setenv("METABOOK_DATA", str(tmp_path / "own"))
    path = put(tmp_path / "own", CONTENT[:-1] + b"!")
    with pytest.raises(ValueError, match="md5 is .* instead of .*METABOOK_DATA") as error:
        store.get("letters", "letters.bin")
    assert str(path) in str(error.value) and path.exists() and not server.requests


def test_both_checksums_count(letters, empty):
    source = store.sources("letters")[0]
    path = put(empty)
    assert store.problem(source, path) is None
    for kind in source.checksums:
        altered = store.Source(**{**vars(source), "checksums": {**source.checksums, kind: "0" * 40}})
        assert kind in store.problem(altered, path)


def test_absent_and_not_to_be_downloaded(letters, empty, server):
    with pytest.raises(data.DataNotFound, match="letters.bin of letters is not in .*cache.*METABOOK_DATA is not set"):
        store.get("letters", "letters.bin", download=False)
    assert not server.requests


def test_absent_and_offline(letters, empty, server):
    server.http.server_close()
    with pytest.raises(data.DataNotFound, match="letters.bin.*127.0.0.1.*METABOOK_DATA"):
        store.get("letters", "letters.bin")


def test_unknown_names(empty):
    with pytest.raises(ValueError, match="no data set is called 'emnist'; there are glyphs, digits, omniglot, mnist"):
        store.sources("emnist")
    with pytest.raises(ValueError, match="no file 'x'; it has train-images"):
        store.get("mnist", "x")


def test_cache_folder(monkeypatch):
    monkeypatch.delenv("METABOOK_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert store.cache_folder() == Path("/somewhere/metabook")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert store.cache_folder() == Path.home() / ".cache" / "metabook"
    monkeypatch.setenv("METABOOK_CACHE", "~/mine")
    assert store.cache_folder() == Path.home() / "mine"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")

    def half(part):
        part.write_text("ne")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        store.write_atomically(tmp_path / "a", half)
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


def test_the_table_of_sources_is_complete():
    for name, entry in store.catalogue().items():
        assert entry["title"] and entry["licence"]
        assert ("comes_with" in entry) + ("index" in entry) + bool(entry["files"]) == 1
        for source in store.sources(name):
            assert source.url.startswith("https://") and source.url.endswith("/" + source.name) and source.size > 0
            lengths = {"sha256": 64, "md5": 32, "git_blob_sha1": 40}
            assert source.checksums and all(len(v) == lengths[k] for k, v in source.checksums.items())
            assert source.checksums.keys() & {"sha256", "git_blob_sha1"}
