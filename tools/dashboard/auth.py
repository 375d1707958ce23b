"""Who may open the dashboard, and where it may listen. Pure.

    listens on    token     who gets in
    loopback      none      whoever asks for a loopback name: a page elsewhere that points its own
                            name at 127.0.0.1 (DNS rebinding) asks for another
    loopback      given     who has shown it
    elsewhere     given     who has shown it; only with TLS, since it would be read on its way
    elsewhere     none      nobody: it does not start

A token is shown once, as `/?token=…`; from then on a cookie says so, which is derived from the
token and does not tell it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import stat
from dataclasses import dataclass
from typing import Final, TypeAlias

# [characters] A token that cannot be guessed, and one that is no file by mistake.
SHORTEST_TOKEN: Final = 16
LONGEST_TOKEN: Final = 512
_PURPOSE: Final = b"fedfstq dashboard cookie"
_LARGEST_PORT: Final = 65_535
# What a browser says of who asks; others than browsers say nothing.
_OWN_PAGES: Final = frozenset({"", "same-origin", "none"})


class AuthError(ValueError):
    """What the command line asks for is not safe, or no address; the text says how to mend it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the dashboard listens.

    Attributes:
        host: An IP address.
        port: 0 for any that is free.
    """

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def netloc(self) -> str:
        """The address as it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address that `HOST:PORT` names.

    Raises:
        AuthError: It is none.
    """
    host, colon, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > _LARGEST_PORT:
        raise AuthError(f"--listen {text}: say ADDRESS:PORT, as 127.0.0.1:8765 or [::1]:8765")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise AuthError(
            f"--listen {text}: {host!r} is no IP address; 127.0.0.1 is this machine alone,"
            " 0.0.0.0 all its addresses"
        ) from None
    return Address(host, int(port))


def check_exposure(
    address: Address, *, has_token: bool, has_certificate: bool, has_key: bool
) -> None:
    """Let a dashboard listen where that is safe.

    Raises:
        AuthError: Others could read it, or its token.
    """
    if has_certificate is not has_key:
        raise AuthError("--tls-cert and --tls-key go together")
    if address.is_loopback:
        return
    missing = [
        *([] if has_token else ["--token FILE"]),
        *([] if has_key else ["--tls-cert and --tls-key"]),
    ]
    if missing:
        raise AuthError(
            f"on {address.host} others reach it: give {' and '.join(missing)}, or listen on"
            " 127.0.0.1 and go there through ssh -L"
        )


def check_token(text: str, *, mode: int) -> str:
    """Return a token from what its file holds.

    Args:
        text: All of it.
        mode: The file's permission bits.

    Raises:
        AuthError: Everybody may read it, it is too short or too long, or not one word of ASCII.
    """
    if mode & stat.S_IROTH:
        raise AuthError("everybody on this machine can read it: chmod 600")
    token = text.strip()
    if len(token) < SHORTEST_TOKEN:
        raise AuthError(f"it holds fewer than {SHORTEST_TOKEN} characters: that can be guessed")
    if len(token) > LONGEST_TOKEN or not token.isascii() or not token.isprintable():
        raise AuthError("it is no token: one line of ASCII letters and digits is expected")
    if " " in token:
        raise AuthError("it holds spaces: a token is one word")
    return token


@dataclass(frozen=True, slots=True)
class Visit:
    """What a request says of itself.

    Attributes:
        host: Its Host header.
        token: That of its query, "" for none.
        cookies: By name.
        fetch_site: Its Sec-Fetch-Site header, "" where it has none.
        is_page: It asks for the page itself, which links elsewhere may lead to.
    """

    host: str
    token: str = ""
    cookies: tuple[tuple[str, str], ...] = ()
    fetch_site: str = ""
    is_page: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """It may have what it asks for."""


@dataclass(frozen=True, slots=True)
class Welcomed:
    """It has shown the token: it gets a cookie, and is sent to the page without it."""

    cookie: str
    value: str


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """It gets nothing.

    Attributes:
        status: 401 where a token would help, 403 where nothing does.
        words: Why, for people.
    """

    status: int
    words: str


Verdict: TypeAlias = Admitted | Welcomed | TurnedAway


class Door:
    """Judges visits.

    Args:
        token: What visitors must have shown; None on loopback, where nobody else can come.
    """

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        key = self._token or b""
        self._value = hmac.new(key, _PURPOSE, hashlib.sha256).hexdigest()
        # Cookies know no ports: two dashboards on one machine need two names.
        self._cookie = f"fedfstq-{hashlib.sha256(self._value.encode()).hexdigest()[:12]}"

    @property
    def wants_token(self) -> bool:
        """Whether a token is asked for."""
        return self._token is not None

    def judge(self, visit: Visit) -> Verdict:
        """Return what becomes of a visit."""
        if not visit.is_page and visit.fetch_site not in _OWN_PAGES:
            return TurnedAway(403, "another site's page has no business here")
        if self._token is None:
            if not _is_loopback_name(visit.host):
                return TurnedAway(
                    403, "without a token it is only shown as localhost, 127.0.0.1 or [::1]"
                )
            return Admitted()
        if visit.token and visit.is_page:
            if _same(visit.token, self._token):
                return Welcomed(self._cookie, self._value)
            return TurnedAway(401, "that is not its token")
        shown = [value for name, value in visit.cookies if name == self._cookie]
        if any(_same(value, self._value.encode()) for value in shown):
            return Admitted()
        return TurnedAway(401, "it wants its token")


def _same(shown: str, kept: bytes) -> bool:
    """Compare in a time that does not tell how much of it was right."""
    return hmac.compare_digest(hashlib.sha256(shown.encode()).digest(), _digest(kept))


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _is_loopback_name(host: str) -> bool:
    """Say whether a Host header names this machine: the port does not matter (ssh -L)."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name.partition("]")[0].removeprefix("[")
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
