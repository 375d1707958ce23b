"""What is answered to whom, with which headers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tools.dashboard.site import STATIC, static_files

Serve = Callable[..., Any]
TOKEN = "correct-horse-battery"
FILES = sorted(one.name for one in STATIC.iterdir())


def test_the_page_and_all_its_files_are_served(serve: Serve) -> None:
    dashboard = serve()
    status, headers, body = dashboard.get("/")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', body.decode()):
        status, headers, _ = dashboard.get(path)
        assert status == 200, path
        assert headers["cache-control"] == "no-cache"
    status, headers, _ = dashboard.get("/static/main.js")
    assert headers["content-type"].startswith("text/javascript")
    assert dashboard.get("/static/main.js", if_none_match=headers["etag"])[0] == 304
    for path in ("/static/nothing.js", "/static/..%2fauth.py", "/static/%2e%2e/auth.py", "/x"):
        assert dashboard.get(path)[0] == 404


def test_every_answer_has_a_strict_policy(serve: Serve) -> None:
    dashboard = serve()
    for path in ("/", "/static/style.css", "/about", "/nothing"):
        headers = dashboard.get(path)[1]
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in headers
        assert "strict-transport-security" not in headers


def test_only_its_own_pages_may_ask(serve: Serve) -> None:
    dashboard = serve()
    assert dashboard.get("/", host="evil.example")[0] == 403
    assert dashboard.get("/about", sec_fetch_site="cross-site")[0] == 403
    assert dashboard.get("/events", sec_fetch_site="cross-site")[0] == 403
    assert dashboard.get("/about", sec_fetch_site="same-origin")[0] == 200
    assert dashboard.get("/about", host=f"localhost:{dashboard.address.port}")[0] == 200


def test_a_token_is_asked_for_taken_once_and_kept_as_a_cookie(serve: Serve) -> None:
    dashboard = serve(token=TOKEN)
    status, headers, body = dashboard.get("/")
    assert status == 401
    assert b"wants its token" in body
    assert dashboard.get("/static/style.css")[0] == 200  # the form needs it, and it tells nothing
    for path in ("/about", "/events", "/history/nano-01", f"/about?token={TOKEN}"):
        assert dashboard.get(path)[0] == 401, path
    assert dashboard.get("/?token=wrong-token-of-16")[0] == 401
    status, headers, body = dashboard.get(f"/?token={TOKEN}", host="fleet.example")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie  # this one speaks no TLS
    assert TOKEN not in cookie
    dashboard.headers["cookie"] = cookie.partition(";")[0]
    assert dashboard.get("/", host="fleet.example")[0] == 200
    assert dashboard.get("/about")[0] == 200


def test_a_devices_figures_over_time_are_served(serve: Serve) -> None:
    dashboard = serve()
    status, headers, body = dashboard.get("/history/nano-01")
    assert (status, json.loads(body)) == (200, {"power_w": [[1.0, 9.5]]})
    assert headers["cache-control"] == "no-store"
    assert dashboard.get("/history/nano-99")[0] == 404


def test_files_are_kept_in_memory_with_their_kind() -> None:
    files = static_files()
    assert sorted(files) == FILES
    assert len({one.etag for one in files.values()}) == len(files)


@pytest.mark.parametrize("name", FILES)
def test_no_file_asks_anybody_else_or_makes_markup_of_strings(name: str) -> None:
    text = (STATIC / name).read_text(encoding="utf-8")
    addresses = [one for one in re.findall(r"\w+://[^\s\"')]*", text) if "www.w3.org" not in one]
    assert addresses == []
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    if name.endswith(".html"):
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*src=)", text)


def test_scripts_name_only_files_and_elements_that_are_there() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for path in STATIC.glob("*.js"):
        script = path.read_text(encoding="utf-8")
        for module in re.findall(r'from "\./([^"]+)"', script):
            assert (STATIC / module).is_file(), (path.name, module)
        for wanted in re.findall(r'\$\("([^"]+)"\)', script):
            assert wanted in ids, (path.name, wanted)
