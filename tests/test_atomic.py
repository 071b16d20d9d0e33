"""Files that are whole or not there."""

import resource

import pytest

from resnet_keras.atomic import atomic_path, remove_leftovers, write_atomically
from resnet_keras.errors import RunError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "folder" / "kept.bin"
    path.parent.mkdir()
    path.write_bytes(b"good")
    return path


def assert_untouched(path):
    assert path.read_bytes() == b"good"
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_a_full_disk_keeps_the_old_file_and_leaves_no_litter(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RunError, match=r"kept\.bin could not be written"):
            write_atomically(path, [bytes(500)] * 9, RunError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_untouched(path)


def test_a_failing_source_of_bytes_keeps_the_old_file(path):
    def parts():
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, parts(), RunError)
    assert_untouched(path)


def test_a_new_file_is_as_readable_as_any_other(path):
    other = path.with_name("other")
    other.write_bytes(b"")
    new = write_atomically(path.with_name("new"), [b"x"], RunError)
    assert new.stat().st_mode == other.stat().st_mode


def test_the_temporary_name_keeps_the_ending(path):
    with atomic_path(path.with_suffix(".keras"), RunError) as temporary:
        assert temporary.suffix == ".keras"
        assert temporary.parent == path.parent
        temporary.write_bytes(b"x")


def test_what_a_killed_writer_left_is_removed_and_nothing_else(path):
    for name in (".gitkeep", ".mine.tmp", ".notes.tmp.md"):
        path.with_name(name).write_bytes(b"")
    writing = atomic_path(path, RunError)
    left = writing.__enter__()
    left.write_bytes(b"half")
    remove_leftovers(path.parent.parent)
    assert not left.exists()
    assert {item.name for item in path.parent.iterdir()} == {
        path.name, ".gitkeep", ".mine.tmp", ".notes.tmp.md",
    }  # fmt: skip
