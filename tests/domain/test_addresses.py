"""Private addresses by all their names."""

import pytest

from serve_app.domain.addresses import is_public


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_the_open_internet_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104
        "10.1.2.3",
        "100.64.0.1",  # carriers' own
        "127.0.0.1",
        "127.9.9.9",
        "169.254.169.254",  # a cloud's metadata
        "172.16.0.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2001:0:0:0:0:0:80ff:fffe",  # Teredo of 127.0.0.1
        "fc00::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_what_leads_into_a_house_is_not(address):
    assert not is_public(address)


def test_a_public_address_stays_so_behind_nat64():
    assert is_public("64:ff9b::101:101")
