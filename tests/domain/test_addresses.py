"""Private addresses in all their notations."""

import pytest

from serve_app.domain.addresses import PrivateAddress, UnknownHost, connectable, is_public


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "93.184.216.34",
        "168.63.129.15",
        "192.0.1.1",
        "2001:4860:4860::8888",
        "2606:4700::1111",
        "2a00:1450:4001::1",
    ],
)
def test_the_open_internet_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104
        "10.1.2.3",
        "100.64.0.1",  # carrier-grade NAT
        "127.0.0.1",
        "127.9.9.9",
        "169.254.169.254",  # a cloud's metadata service
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
        "2001:0:0:0:0:0:80ff:fffe",  # Teredo address of 127.0.0.1
        "fc00::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "168.63.129.16",  # Azure's host
        "192.0.0.192",  # Oracle Cloud's metadata
        "192.0.0.9",
        "192.0.0.10",
        "192.0.0.170",
        "192.88.99.1",
        "::1.1.1.1",  # compatible
        "::ffff:1.1.1.1",  # mapped
        "::ffff:0:7f00:1",  # translated
        "::ffff:0:101:101",
        "64:ff9b::a83f:8110",  # NAT64 of 168.63.129.16
        "64:ff9b::c000:c0",  # NAT64 of 192.0.0.192
        "64:ff9b:1::101:101",
        "100::1",
        "100:0:0:1::1",
        "2001:0:101:101::1",  # Teredo, by its server
        "2001:20::1",
        "2001:db8::1",
        "2002:101:101::1",  # 6to4 of a public address
        "3fff::1",
        "3fff:fff::1",
        "4000::1",
        "5f00::1",
        "8000::1",
    ],
)
def test_what_leads_into_a_house_is_not(address):
    assert not is_public(address)


def test_a_public_address_stays_so_behind_nat64():
    assert is_public("64:ff9b::101:101")


async def names(host: str, port: int):
    known = {"public.example": ["93.184.215.14"], "mixed.example": ["93.184.215.14", "10.0.0.1"]}
    if host == "broken.example":
        raise OSError("no resolver")
    if len(host) > 63:
        raise UnicodeError("label too long")
    return known.get(host, [])


async def test_a_host_may_be_connected_to_at_all_its_public_addresses():
    assert await connectable("public.example", 443, names) == ["93.184.215.14"]


async def test_one_private_address_refuses_a_host_unless_they_are_allowed():
    with pytest.raises(PrivateAddress) as refused:
        await connectable("mixed.example", 443, names)
    assert refused.value.host == "mixed.example"
    assert len(await connectable("mixed.example", 443, names, allow_private=True)) == 2


@pytest.mark.parametrize("host", ["unknown.example", "broken.example", "x" * 64])
@pytest.mark.parametrize("allow_private", [False, True])
async def test_a_host_without_an_address_is_unknown(host: str, allow_private: bool):
    with pytest.raises(UnknownHost, match="is not known"):
        await connectable(host, 443, names, allow_private=allow_private)
