"""Which servers a connection knows, and which it tries first."""

import pytest

from trio_eventlog.stores.jetstream._access import MAX_LEARNT, Server, Servers, access

GIVEN = Server("n1.example", 4222)


def known(servers):
    return set(map(str, servers.in_random_order()))


@pytest.mark.parametrize(
    "advertised",
    [
        ["10.0.0.5:99999"],
        ["10.0.0.5:x"],
        ["10.0.0.5:0"],
        ["10.0.0.5:-1"],
        [""],
        [":4222"],
        ["[::1:4222"],
        ["[nonsense]:4222"],
        ["a..b:4222"],
        ["x" * 64 + ".example:4222"],
        ["a\0b:4222"],
        ["a b:4222"],
        ["\ud800:4222"],
        ["a\u2100b:4222"],
        [None],
        [17],
        [["10.0.0.5:4222"]],
        [{"host": "10.0.0.5"}],
        {"10.0.0.5:x": 1},
        "10.0.0.5:x",
    ],
    ids=repr,
)
def test_an_address_that_cannot_be_parsed(advertised):
    """It is named once, and the others of the same server are learnt."""
    servers = Servers([GIVEN])

    assert len(servers.learn(GIVEN, advertised)) == 1
    assert servers.learn(GIVEN, advertised) == []
    if isinstance(advertised, list):
        assert servers.learn(GIVEN, [*advertised, "n2.example:4333"]) == []
        assert known(servers) == {"n1.example:4222", "n2.example:4333"}


@pytest.mark.parametrize("advertised", [None, (), 17, True, {}, []])
def test_what_advertises_nothing(advertised):
    servers = Servers([GIVEN])
    assert servers.learn(GIVEN, advertised) == []
    assert known(servers) == {"n1.example:4222"}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.5", "10.0.0.5:4222"),
        ("10.0.0.5:1", "10.0.0.5:1"),
        ("[::1]:1", "[::1]:1"),
        ("n_2.example:1", "n_2.example:1"),
        ("n2.example.:1", "n2.example.:1"),
        ("münchen.example:1", "münchen.example:1"),
    ],
)
def test_an_address(address, expected):
    servers = Servers([GIVEN])
    assert servers.learn(GIVEN, [address]) == []
    assert known(servers) == {"n1.example:4222", expected}


def test_no_more_addresses_are_named_or_learnt_than_can_be_remembered():
    """Of a server that advertises new ones all the time."""
    servers = Servers([GIVEN])
    named = sum(len(servers.learn(GIVEN, [f"h:{70_000 + n}"])) for n in range(10 * MAX_LEARNT))
    assert named == MAX_LEARNT
    for n in range(10 * MAX_LEARNT):
        servers.learn(GIVEN, [f"h:{1 + n}"])
    assert len(servers) == 1 + MAX_LEARNT
    assert f"h:{10 * MAX_LEARNT}" in known(servers)


def test_the_order_in_which_servers_are_tried():
    """Those that were left come last, the latest at the end."""
    servers = Servers([GIVEN])
    servers.learn(GIVEN, ["a:1", "b:1", "c:1"])
    servers.was_left(Server("b", 1), 2.0)
    servers.was_left(GIVEN, 1.0)
    order = list(map(str, servers.in_random_order()))
    assert order[2:] == ["n1.example:4222", "b:1"]
    assert len({tuple(servers.in_random_order()) for _ in range(100)}) == 2


def test_servers_that_did_not_answer_are_forgotten():
    """Unless they were given, or are advertised again."""
    servers = Servers([GIVEN])
    servers.learn(GIVEN, ["a:1", "b:1", "c:1"])
    for server in (GIVEN, Server("a", 1), Server("b", 1)):
        servers.has_not_answered(server)
    assert len(servers) == 4
    servers.has_answered(Server("c", 1), ["b:1"])
    assert known(servers) == {"n1.example:4222", "b:1", "c:1"}


def test_the_name_of_a_certificate():
    """An address has to show the name of the server that has advertised it; a name its own."""
    servers = Servers([GIVEN])
    servers.learn(GIVEN, ["10.0.0.5:1", "n2.example:1"])
    names = {server.host: server.certified for server in servers.in_random_order()}
    assert names == {"n1.example": None, "10.0.0.5": "n1.example", "n2.example": None}
    second = next(server for server in servers.in_random_order() if server.host == "10.0.0.5")
    servers.learn(second, ["10.0.0.6:1"])
    names = {server.host: server.certified for server in servers.in_random_order()}
    assert names["10.0.0.6"] == "n1.example"


@pytest.mark.parametrize(
    "address",
    ["nats://u:hush@a..b:1", "nats://u:hush@" + "x" * 64, "nats://u:hush@a\0b", "nats://u:hush@h:99999"],
)
def test_a_given_address_that_cannot_be_parsed_is_named(address):
    """By its place in the list, since it may contain secrets."""
    with pytest.raises(ValueError, match="servers: number 2: the host") as caught:
        access(["h", address])
    assert "hush" not in str(caught.value)
