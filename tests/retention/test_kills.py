"""Events that are being moved to an archive when the process is killed are lost from neither side."""

from tests._helpers.crashes import kill_archivers


def test_what_is_moved_to_an_archive_survives_kills(tmp_path):
    acknowledged, archived = kill_archivers(tmp_path, 0, kills=3)

    assert acknowledged > 0
    assert archived > 0
