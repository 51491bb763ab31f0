"""Logs are tampered with and recorders killed, more often than in the main suite: ``nox -s trail``."""

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests._helpers.examples import few
from tests._helpers.recorder_kills import kill_recorders
from tests._helpers.tampering import ATTACKS, assert_found, assert_found_in_a_new_tree, sealed_log


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return sealed_log(tmp_path_factory.mktemp("sealed"))


@few(100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attack=ATTACKS)
def test_every_attack_is_found(template, tmp_path, attack):
    assert_found(template, tmp_path, attack)


@few(50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attack=ATTACKS, own_key=st.booleans())
def test_a_tree_that_is_built_anew_without_the_key_is_found(template, tmp_path, attack, own_key):
    assert_found_in_a_new_tree(template, tmp_path, attack, own_key=own_key)


@pytest.mark.parametrize("seed", range(4))
def test_recorders_that_are_killed_go_on(tmp_path, seed):
    kill_recorders(tmp_path, seed, kills=25)
