"""What a killed export leaves: gone with the next one, but never while it is still written."""

import subprocess
import sys

from resnet_keras.export.publish import new_version

EXPORT = """
import sys
from pathlib import Path
from resnet_keras.export.publish import new_version
with new_version(Path(sys.argv[1])) as version:
    version.folder.mkdir()
    (version.folder / "file").write_text("half")
    print("under way", flush=True)
    sys.stdin.read()
"""


def publish(path):
    with new_version(path) as version:
        version.folder.mkdir()
        (version.folder / "file").write_text("whole")


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path):
    (tmp_path / ".export-settings.json").write_text("somebody's own")
    command = [sys.executable, "-c", EXPORT, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"under way\n"
        (scratch,) = (path for path in tmp_path.iterdir() if path.is_dir())
        publish(tmp_path)
        assert (scratch / "version" / "file").read_text() == "half"
        other.kill()
        other.wait()
    assert scratch.exists()
    publish(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".export-settings.json", "1", "2"]
