"""A recorder that is killed in the middle of its work leaves nothing wrong."""

from tests._helpers.recorder_kills import kill_recorders


def test_a_recorder_that_is_killed_goes_on(tmp_path):
    kill_recorders(tmp_path, 1, kills=2)
