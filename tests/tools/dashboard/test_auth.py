"""Every way in, and every way that is none."""

from __future__ import annotations

import pytest

from tools.dashboard.auth import (
    LONGEST_TOKEN,
    Address,
    Admitted,
    AuthError,
    Door,
    TurnedAway,
    Visit,
    Welcomed,
    check_exposure,
    check_token,
    parse_address,
)

TOKEN = "correct-horse-battery"


def shown(door: Door) -> tuple[str, str]:
    verdict = door.judge(Visit(host="fleet.example", token=TOKEN, is_page=True))
    assert isinstance(verdict, Welcomed)
    return verdict.cookie, verdict.value


@pytest.mark.parametrize(
    ("text", "address", "netloc"),
    [
        ("127.0.0.1:8765", Address("127.0.0.1", 8765), "127.0.0.1:8765"),
        ("localhost:0", Address("127.0.0.1", 0), "127.0.0.1:0"),
        ("[::1]:8765", Address("::1", 8765), "[::1]:8765"),
        ("0.0.0.0:443", Address("0.0.0.0", 443), "0.0.0.0:443"),
    ],
)
def test_an_address_is_read(text: str, address: Address, netloc: str) -> None:
    assert parse_address(text) == address
    assert address.netloc == netloc


@pytest.mark.parametrize(
    "text", ["", "8765", ":8765", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "pi:1", "1:²"]
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(AuthError, match=r"127\.0\.0\.1"):
        parse_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_needs_neither_token_nor_certificate(host: str) -> None:
    check_exposure(Address(host, 1), has_token=False, has_certificate=False, has_key=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "8.8.8.8"])
@pytest.mark.parametrize(("has_token", "has_tls"), [(False, False), (True, False), (False, True)])
def test_elsewhere_it_needs_both(host: str, has_token: bool, has_tls: bool) -> None:  # noqa: FBT001  # parameters
    with pytest.raises(AuthError, match="others reach it") as caught:
        check_exposure(
            Address(host, 1), has_token=has_token, has_certificate=has_tls, has_key=has_tls
        )
    assert ("--token" in str(caught.value)) is not has_token
    assert ("--tls-cert" in str(caught.value)) is not has_tls
    check_exposure(Address(host, 1), has_token=True, has_certificate=True, has_key=True)


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(AuthError, match="go together"):
        check_exposure(Address("::1", 1), has_token=True, has_certificate=True, has_key=False)


def test_a_token_is_one_long_word_that_others_cannot_read() -> None:
    assert check_token(f" {TOKEN}\n", mode=0o100640) == TOKEN
    for text, why in [
        ("short", "guessed"),
        ("x" * (LONGEST_TOKEN + 1), "no token"),
        ("a token of many words", "spaces"),
        ("ein-schlüssel-von-hier", "no token"),
        ("two-lines-are-not\na-token-either", "no token"),
    ]:
        with pytest.raises(AuthError, match=why):
            check_token(text, mode=0o600)
    with pytest.raises(AuthError, match="chmod 600"):
        check_token(TOKEN, mode=0o644)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9000", "127.0.0.1:8765", "[::1]:8765", "[::1]", "127.0.0.2"]
)
def test_without_a_token_loopback_names_are_admitted(host: str) -> None:
    assert Door(None).judge(Visit(host=host)) == Admitted()


@pytest.mark.parametrize(
    "host", ["", "evil.example:8765", "localhost.evil.example", "10.0.0.4", "[x]"]
)
def test_without_a_token_other_names_are_turned_away(host: str) -> None:
    """A page elsewhere may point its own name at 127.0.0.1."""
    assert isinstance(Door(None).judge(Visit(host=host, is_page=True)), TurnedAway)


def test_the_token_opens_once_and_its_cookie_from_then_on() -> None:
    door = Door(TOKEN)
    assert door.wants_token
    assert not Door(None).wants_token
    cookie, value = shown(door)
    assert TOKEN not in value
    visit = Visit(host="fleet.example", cookies=(("other", "x"), (cookie, value)))
    assert door.judge(visit) == Admitted()


def test_a_wrong_token_or_cookie_opens_nothing() -> None:
    door = Door(TOKEN)
    cookie, value = shown(door)
    for visit in (
        Visit(host="localhost"),
        Visit(host="localhost", token=TOKEN[:-1], is_page=True),
        Visit(host="localhost", token=TOKEN.upper(), is_page=True),
        Visit(host="localhost", token="schlüssel", is_page=True),
        Visit(host="localhost", token=TOKEN),  # the page alone takes it
        Visit(host="localhost", cookies=((cookie, value[:-1]),)),
        Visit(host="localhost", cookies=((cookie, TOKEN),)),
        Visit(host="localhost", cookies=(("fedfstq", value),)),
    ):
        verdict = door.judge(visit)
        assert isinstance(verdict, TurnedAway)
        assert verdict.status == 401


def test_another_token_has_another_cookie() -> None:
    """Cookies know no ports: two dashboards on one machine must not drive each other out."""
    other = Door("another-token-of-16").judge(
        Visit(host="a", token="another-token-of-16", is_page=True)
    )
    assert isinstance(other, Welcomed)
    assert other.cookie != shown(Door(TOKEN))[0]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_pages_get_nothing_but_may_lead_here(site: str) -> None:
    door = Door(None)
    verdict = door.judge(Visit(host="localhost", fetch_site=site))
    assert isinstance(verdict, TurnedAway)
    assert verdict.status == 403
    assert door.judge(Visit(host="localhost", fetch_site=site, is_page=True)) == Admitted()
    assert door.judge(Visit(host="localhost", fetch_site="same-origin")) == Admitted()
