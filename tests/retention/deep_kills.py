"""A process that moves events to an archive is killed a hundred times: ``nox -s trail``."""

import pytest

from tests._helpers.crashes import kill_archivers


@pytest.mark.parametrize("seed", range(100, 104))
def test_what_is_moved_to_an_archive_survives_kills(tmp_path, seed):
    acknowledged, archived = kill_archivers(tmp_path, seed, kills=25)

    assert acknowledged > 0
    assert archived > 0
