"""Zip files: hostile ones are refused before a byte of them is used."""

import struct
import zipfile

import pytest

from metabook.data.archive import read_zip


def make(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo("placeholder")
            if info is not name:
                info.filename = name  # the constructor would tidy the name
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def test_reads_members_in_order(tmp_path):
    path = make(tmp_path / "a.zip", [("folder/", b""), ("folder/b.png", b"2"), ("a.png", b"1"), ("c.txt", b"3")])
    assert [(str(name), content) for name, content in read_zip(path, suffix=".png")] == [
        ("folder/b.png", b"2"),
        ("a.png", b"1"),
    ]


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../up", "a/../../up", "a/./b", "a//b", "..\\up", "C:/windows", "C:up", "a\nb", "..", "a/.."],
)
def test_unsafe_names_are_refused(tmp_path, name):
    path = make(tmp_path / "a.zip", [("good", b"good"), (name, b"evil")])
    with pytest.raises(ValueError, match="refused because of its member"):
        next(read_zip(path))  # not even the good member before it comes out


def test_a_name_cut_by_a_zero_byte_is_refused(tmp_path):
    path = make(tmp_path / "a.zip", [("abXtxt", b"evil")])
    path.write_bytes(path.read_bytes().replace(b"abXtxt", b"ab\0txt"))
    with pytest.raises(ValueError, match="control character"):
        list(read_zip(path))


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with pytest.raises(ValueError, match="link or a device"):
        list(read_zip(make(tmp_path / "a.zip", [(link, b"/etc/passwd")])))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_twice_the_same_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="occurs twice"):
        list(read_zip(make(tmp_path / "a.zip", [("a", b"1"), ("a", b"2")])))


def test_encrypted_members_are_refused(tmp_path):
    path = make(tmp_path / "a.zip", [("a", b"1")])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="encrypted"):
        list(read_zip(path))


def test_bombs_are_refused(tmp_path):
    path = make(tmp_path / "a.zip", [("zeros", bytes(3_000_000))])
    with pytest.raises(ValueError, match="1000 times its size"):
        list(read_zip(path))
    with pytest.raises(ValueError, match="declares 3,000,000 bytes"):
        list(read_zip(path, total_bytes=2_000_000))
    with pytest.raises(ValueError, match="3 entries"):
        list(read_zip(make(tmp_path / "b.zip", [(str(k), b"") for k in range(3)]), members=2))


def test_a_size_that_is_declared_too_small_does_not_get_past_the_limit(tmp_path):
    path = make(tmp_path / "a.zip", [("zeros", bytes(100_000))])
    content = bytearray(path.read_bytes())
    struct.pack_into("<L", content, content.index(b"PK\1\2") + 24, 10)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as a zip file"):
        list(read_zip(path, total_bytes=1000))


def test_damaged_files_are_refused(tmp_path):
    path = make(tmp_path / "a.zip", [("a", bytes(range(256)))])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        list(read_zip(path))
    middle = content.index(bytes(range(60, 80)))
    path.write_bytes(content[:middle] + b"!" + content[middle + 1 :])
    with pytest.raises(ValueError, match="cannot be read"):
        list(read_zip(path))
