"""Clients as limits tell them apart."""

import pytest

from pocket_diffusion.server.clients import client_at, client_of


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.168.1.7", "192.168.1.7"),
        ("::ffff:192.168.1.7", "192.168.1.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("testclient", "testclient"),
    ],
)
def test_an_address_is_a_client_and_with_ipv6_a_network(host: str, client: str) -> None:
    assert client_at(host) == client_of({"client": (host, 1234)}) == client


def test_a_socket_without_addresses_has_one_client() -> None:
    assert client_of({}) == client_of({"client": None}) == ""
