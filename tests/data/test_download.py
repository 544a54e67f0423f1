"""Downloads: whole and right, or not there at all, whatever the network or other processes do."""

import hashlib
import os
import subprocess
import sys
import time

import pytest

from metabook.data import DataNotFound
from metabook.data.download import download
from metabook.data.store import Source

CONTENT = bytes(range(256)) * 800


def source(url, content=CONTENT):
    return Source("letters", "letters.bin", url, len(content), {"sha256": hashlib.sha256(content).hexdigest()})


def fetch(url, folder):
    return download(source(url), folder, progress=False, pause=0.01)


def test_a_good_download_is_whole_and_leaves_nothing_else(server, tmp_path):
    path = fetch(server.add("/a", CONTENT), tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["letters.bin"]


@pytest.mark.parametrize(
    ("content", "behaviour", "tries"),
    [
        (CONTENT, "short", 3),  # the connection ends half-way
        (CONTENT[:-1] + b"!", "whole", 3),  # one byte differs
        (CONTENT + b"!", "whole", 3),  # one byte too many
        (CONTENT[:-1], "whole", 3),  # one byte too few
        (CONTENT, "missing", 1),  # trying again would not help
    ],
)
def test_a_bad_download_is_neither_used_nor_kept(server, tmp_path, content, behaviour, tries):
    url = server.add("/a", content, behaviour)
    with pytest.raises(DataNotFound) as error:
        fetch(url, tmp_path)
    assert isinstance(error.value, FileNotFoundError)
    assert all(word in str(error.value) for word in ("letters.bin", url, "METABOOK_DATA"))
    assert os.listdir(tmp_path) == [] and len(server.requests) == tries


def test_a_bad_download_does_not_replace_a_good_file(server, tmp_path):
    (tmp_path / "letters.bin").write_bytes(CONTENT)
    with pytest.raises(DataNotFound):
        fetch(server.add("/a", CONTENT[::-1]), tmp_path)
    assert (tmp_path / "letters.bin").read_bytes() == CONTENT


def test_tries_again_when_the_server_fails_once(server, tmp_path):
    assert fetch(server.add("/a", CONTENT, "flaky"), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_nobody_answers(server, tmp_path):
    url = server.add("/a", CONTENT)
    server.http.server_close()  # nothing listens on this port any more
    with pytest.raises(DataNotFound, match="METABOOK_DATA is (not set|now)"):
        fetch(url, tmp_path)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="METABOOK_CACHE"):
        fetch(server.add("/a", CONTENT), tmp_path / "file" / "folder")


def test_old_leftovers_are_swept_and_young_ones_left_alone(server, tmp_path):
    old, young, other = (tmp_path / f".{name}.part" for name in ("letters.bin.1.ab", "letters.bin.2.cd", "digits.1.ab"))
    for path in (old, young, other):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    fetch(server.add("/a", CONTENT), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"letters.bin", young.name, other.name}


SCRIPT = """
import sys
from pathlib import Path
from metabook.data.download import download
from metabook.data.store import Source
url, size, digest, folder = sys.argv[1:]
path = download(Source("letters", "letters.bin", url, int(size), {"sha256": digest}), Path(folder), pause=0.01)
print(path.stat().st_size)
"""


def test_processes_that_download_at_once_and_one_that_is_killed(server, tmp_path):
    wanted = source(server.add("/gated", CONTENT, "gated"))
    command = [sys.executable, "-c", SCRIPT, wanted.url, str(wanted.size), wanted.checksums["sha256"], str(tmp_path)]
    environment = {**os.environ, "METABOOK_PROGRESS": "0"}
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    try:
        deadline = time.monotonic() + 60
        while len(half_done := list(tmp_path.glob(".*.part"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(half_done) == 3 and not (tmp_path / "letters.bin").exists()
        processes[0].kill()
        server.gate.set()
        outcomes = [process.communicate(timeout=60) for process in processes[1:]]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert outcomes == [(f"{len(CONTENT)}\n", "")] * 2 and processes[0].returncode != 0
    assert (tmp_path / "letters.bin").read_bytes() == CONTENT
    parts = [path.name for path in tmp_path.glob(".*.part")]  # only what the killed process could not tidy up
    assert all(name.startswith(f".letters.bin.{processes[0].pid}.") for name in parts)
