"""What a query string can say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog import EventQuery
from trio_eventlog.console._errors import ApiError
from trio_eventlog.console._parameters import FILTERS, MAX_QUERY_STRING, Parameters


def read(text: bytes) -> EventQuery:
    return Parameters(text, FILTERS).query()


def test_filters_become_a_query():
    found = read(
        b"since_ms=1&until_ms=2&member_id=w&identity=i&mob_id=m&run_id=r&step_id=s&event_type=a&event_type=b"
    )
    assert found == EventQuery(
        since_ms=1,
        until_ms=2,
        member_id="w",
        identity="i",
        mob_id="m",
        run_id="r",
        step_id="s",
        event_types=("a", "b"),
    )


def test_an_empty_string_is_a_value():
    assert read(b"run_id=&event_type=") == EventQuery(run_id="", event_types=("",))
    assert read(b"") == EventQuery()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"nothing=1", "nothing"),
        (b"run_id=a&run_id=b", "run_id"),
        (b"since_ms=", "since_ms"),
        (b"since_ms=-1", "since_ms"),
        (b"since_ms=1.0", "since_ms"),
        (b"since_ms=1e3", "since_ms"),
        (b"since_ms=%D9%A1", "since_ms"),  # a digit, but not one of ours
        (b"since_ms=18446744073709551616", "since_ms"),
        (b"since_ms=" + b"9" * 5000, "since_ms"),
        (b"fields=1", "fields"),
        (b"fields={", "fields"),
        (b"fields={}{}", "fields"),
        (b"fields=" + b"[" * 3000, "fields"),
    ],
)
def test_a_wrong_parameter_is_named(text, field):
    with pytest.raises(ApiError) as caught:
        read(text)
    assert (caught.value.status, caught.value.code) == (400, "invalid_parameter")
    assert caught.value.field == field
    assert caught.value.message.startswith(field) or repr(field) in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"run_id=%FF", 400),
        (b"run_id=\xff", 400),
        (b"run_id=%ED%A0%80", 400),
        (b"event_type=a&" * 101, 400),
        (b"run_id=" + b"a" * MAX_QUERY_STRING, 414),
    ],
)
def test_a_malformed_query_string(text, status):
    with pytest.raises(ApiError) as caught:
        read(text)
    assert caught.value.status == status


@given(
    st.lists(st.tuples(st.sampled_from([*FILTERS, "x", ""]), st.text(max_size=30) | st.integers().map(str)))
)
def test_anything_else_is_an_error_of_the_client(pairs):
    text = "&".join(f"{name}={value}" for name, value in pairs).encode(errors="surrogatepass")
    status = 400
    try:
        read(text)
    except ApiError as error:
        status = error.status
    assert status in {400, 414}
