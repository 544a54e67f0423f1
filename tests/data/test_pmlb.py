"""PMLB: the index, the reader of its tables, and where the files are looked for."""

import gzip
import hashlib
import shutil

import pytest
import torch

from metabook import data
from metabook.data import pmlb
from metabook.data.pmlb import load_pmlb, pmlb_index, read_table


@pytest.fixture
def table(tmp_path):
    """Writes a text as the gzip file of a table."""

    def write(text, name="small"):
        path = tmp_path / f"{name}.tsv.gz"
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
        return path

    return write


@pytest.fixture
def one_set(monkeypatch, table):
    """An index with one set, whose official bytes are those of the file it gives."""
    path = table("a\ttarget\n1\t0\n2\t1\n", "one")
    content = path.read_bytes()
    facts = pmlb.Facts(2, 1, 2, 0, len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(pmlb, "pmlb_index", lambda: {"one": facts})
    return path


def test_the_index_tells_69_shapes_without_a_download():
    index = pmlb_index()
    assert len(index) == 69 and list(index) == sorted(index)
    assert index["iris"][:4] == (150, 4, 3, 0)
    assert all(len(facts.sha256) == 64 and facts.size > 0 and facts.classes > 1 for facts in index.values())
    assert [name for name, facts in index.items() if facts.missing] == ["penguins"]


def test_every_official_file_has_the_shape_of_the_index():
    here = [name for name in pmlb_index() if pmlb.store.locate(pmlb.FOLDER, f"{name}.tsv.gz")]
    if not here:
        pytest.skip("pmlb is neither in METABOOK_DATA nor in the cache")
    missing = 0
    for name in here:
        x, y, columns, _ = load_pmlb(name, download=False)
        assert x.dtype == torch.float32 and y.dtype == torch.int64 and x.shape == (len(y), len(columns))
        assert y.bincount().min() > 0, "classes are numbered without a gap"
        missing += int(x.isnan().sum())
    assert missing == sum(pmlb_index()[name].missing for name in here)


def test_iris_is_fishers():
    if not pmlb.store.locate(pmlb.FOLDER, "iris.tsv.gz"):
        pytest.skip("iris of pmlb is neither in METABOOK_DATA nor in the cache")
    iris = load_pmlb("iris", download=False)
    assert iris.y.bincount().tolist() == [50, 50, 50] and iris.classes == 3
    torch.testing.assert_close(iris.x.mean(0), torch.tensor([5.843, 3.054, 3.759, 1.199]), atol=1e-3, rtol=0)


def test_labels_are_numbered_in_their_order_and_missing_values_are_nan(table):
    read = read_table(table("a\ttarget\tb\n1\t7\tNA\n2\t-1\t0.5\r\n\t7\t3e2\n"), "small")
    assert read.y.tolist() == [1, 0, 1] and read.columns == ("a", "b") and read.name == "small"
    assert read.x.nan_to_num(-9).tolist() == [[1, -9], [2, 0.5], [-9, 300]]


def test_of_two_columns_named_target_the_first_is_the_target(table):
    read = read_table(table("target\ta\ttarget\n0\t5\t1\n1\t6\t1\n"), "small")
    assert read.y.tolist() == [0, 1] and read.x.tolist() == [[5, 1], [6, 1]] and read.columns == ("a", "target")


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\tb\n1\t2\n", "no column named 'target'; its header starts with"),
        ("", "no column named 'target'"),
        ("a\ttarget\nx\t1\n", "not a table of numbers.*'x'"),
        ("a\ttarget\n1\t1\n1\n", "not a table of numbers"),
        ("a\ttarget\n1\t1\t3\n", r"header of 2 columns over an array \(1, 3\)"),
        ("a\ttarget\n", "is damaged"),
        ("a\ttarget\n1\t\n2\t1\n", "1 rows have no target"),
    ],
)
def test_what_is_no_table_is_refused(table, text, message):
    with pytest.raises(ValueError, match=message):
        read_table(table(text), "small")


def test_what_is_no_gzip_file_or_unpacks_too_far_is_refused(table, tmp_path):
    path = table("a\ttarget\n1\t0\n2\t1\n")
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_table(path, "small", most=10)
    for broken in (b"not gzip", path.read_bytes()[:-9]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="cannot be read as a gzip file"):
            read_table(path, "small")


def test_a_file_in_the_own_folder_wins_and_a_damaged_one_there_is_an_error(empty, one_set, monkeypatch, tmp_path):
    folder = tmp_path / "mine" / "pmlb" / "data"
    folder.mkdir(parents=True)
    monkeypatch.setenv("METABOOK_DATA", str(tmp_path / "mine"))
    shutil.copy(one_set, folder / "one.tsv.gz")
    assert load_pmlb("one", download=False).x.tolist() == [[1], [2]]
    (folder / "one.tsv.gz").write_bytes(b"?" * one_set.stat().st_size)
    with pytest.raises(ValueError, match="not the official file: its sha256 is.*replace it or unset METABOOK_DATA"):
        load_pmlb("one")


def test_what_is_absent_is_downloaded_from_its_address_and_kept(empty, one_set, server, monkeypatch):
    address = server.add("/datasets/one/one.tsv.gz", one_set.read_bytes())
    monkeypatch.setattr(pmlb, "ADDRESS", address.removesuffix("/one/one.tsv.gz"))
    for _ in range(2):
        assert load_pmlb("one").y.tolist() == [0, 1]
    assert server.requests == ["/datasets/one/one.tsv.gz"]
    assert [path.name for path in (empty / "pmlb" / "data").iterdir()] == ["one.tsv.gz"]
    (empty / "pmlb" / "data" / "one.tsv.gz").write_bytes(b"damaged")
    assert load_pmlb("one").y.tolist() == [0, 1], "a damaged copy in the cache is fetched again"


def test_a_pointer_instead_of_the_file_is_not_taken_for_it(empty, one_set, server, monkeypatch):
    """An address that answers with the pointer of git-lfs, as raw.githubusercontent.com does."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 60\n"
    address = server.add("/datasets/one/one.tsv.gz", pointer)
    monkeypatch.setattr(pmlb, "ADDRESS", address.removesuffix("/one/one.tsv.gz"))
    monkeypatch.setattr("metabook.data.download.ATTEMPTS", 1)
    with pytest.raises(data.DataNotFound, match="bytes"):
        load_pmlb("one")
    assert not list(empty.rglob("one.tsv.gz"))


def test_an_unknown_name_and_an_absent_file(empty):
    with pytest.raises(ValueError, match="no set 'irises' here; .* the 69 there are"):
        load_pmlb("irises")
    with pytest.raises(data.DataNotFound, match="iris.tsv.gz of pmlb/data.*EpistasisLab/pmlb/raw.*METABOOK_DATA"):
        load_pmlb("iris", download=False)
