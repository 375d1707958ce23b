"""What a person sees of a real fleet: one device on a lossy link, one paused, one that dies.

Source: the devices' words are those of `tools.monitor.attention`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tools.soak import evidence
from tools.soak.fleet import AGGREGATOR, BROKER, Fleet, FleetSpec, NoMosquitto
from tools.soak.synthetic_trainer import Behaviour

pytestmark = [pytest.mark.browser, pytest.mark.broker, pytest.mark.processes]

LOSSY, PAUSED, DEAD = "device-3", "device-4", "device-5"
# [bytes] Of each connection so much arrives, and what comes within the next second is lost with it.
BREAKS_AFTER_BYTES = 22_000
# [bytes/s] So fast does it carry them.
LOSSY_BYTES_PER_S = 8_000.0
# So many segments were sent again that it is a fifth at least when the update is through.
RESENT = 30
# [bytes/s] So slowly goes what is left of the update that one can look at it.
HELD_BYTES_PER_S = 800.0
SPEC = FleetSpec(
    agents=5,
    rounds=1_000,
    coordinates=400_000,
    settings={
        "goal": 3,
        "quorum": 2,
        "min_devices": 2,
        "over_selection": 1.6,
        "deadline_s": 240.0,
        "stall_s": 10.0,
        "update_bytes": None,
        "bits_per_coordinate": 2.0,
        "min_bits_per_coordinate": 2.0,
        "segment_bytes": 1024,
    },
    agent_settings={"telemetry_interval_s": 5.0},
    behaviour=Behaviour(train_s=0.5),
    # So long that it dies at work.
    behaviours={DEAD: Behaviour(train_s=12.0)},
)


@dataclass
class Scene:
    """A fleet, its dashboard, and the link of the lossy device."""

    fleet: Fleet
    dashboard: Any
    link: Any

    def command(self, *words: str) -> None:
        config = str(self.fleet.folder / "viewer.yaml")
        run = [*self.dashboard.cli, "command", *words, "--config", config]
        subprocess.run(run, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory,
    chromium: object,
    wire: Callable[[int], Any],
    serve: Callable[[Path, int], Any],
) -> Iterator[Scene]:
    """Five devices take part in one round after the other; three of them are enough for it."""
    assert chromium is not None  # without it nothing here needs a fleet
    with Fleet(tmp_path_factory.mktemp("fleet"), SPEC) as fleet:
        link = wire(fleet.port)
        file = fleet.folder / "config" / LOSSY
        config = json.loads(file.read_text())
        config["broker"]["port"] = link.port
        file.write_text(json.dumps(config))
        try:
            fleet.start()
        except NoMosquitto as error:
            pytest.skip(str(error))
        version = partial(evidence.committed_version, fleet.state(AGGREGATOR))
        fleet.wait_for(lambda: version() > 0, "a round is committed", timeout_s=60)
        yield Scene(fleet, serve(fleet.folder, fleet.port), link)


def test_a_page_says_whose_link_is_lossy_who_is_paused_and_who_died_and_what_was_saved(
    scene: Scene, browser: Any
) -> None:
    browser.open(scene.dashboard.url)
    browser.wait(lambda: "%" in browser.text("saved"), "a round has closed")
    assert_the_savings_are_those_of_the_run(browser)
    scene.command(PAUSED, "pause", "--reason", "new fan")
    browser.wait(lambda: told(browser, PAUSED) == ("paused", "paused: operator: new fan"), "paused")
    browser.wait(lambda: browser.row(DEAD)["words"].startswith("training: step"), "it trains")
    scene.fleet.kill(DEAD, stays_dead=True)
    browser.wait(lambda: told(browser, DEAD)[0] == "lost", "it is lost")
    assert re.fullmatch(r"lost since \d\d:\d\d", told(browser, DEAD)[1])
    assert_a_lossy_link_is_told(scene, browser)
    assert_the_round_is_told(browser)
    browser.wait(lambda: "stalled" in browser.text("standing"), "the alert")
    assert DEAD in browser.text("standing")
    assert "New alert stalled: no progress" in browser.do(
        "document.getElementById('spoken').textContent"
    )
    assert_it_reads_everywhere(browser)
    assert_keys_lead_everywhere(browser)
    assert browser.complaints() == []
    assert_nothing_leaves_this_machine(scene, browser)
    # And it gets well again.
    scene.link.up_bytes_per_s = None
    scene.fleet.start_service(DEAD)
    scene.command(PAUSED, "resume")
    browser.wait(lambda: "No alert stands." in browser.text("standing"), "the alert is cleared")
    assert "cleared" in browser.text("alert-history")
    assert "no progress" in browser.text("alert-history")
    for device in (LOSSY, PAUSED, DEAD):
        browser.wait(lambda one=device: told(browser, one)[0] == "ok", f"{device} is well")


def test_a_page_that_nothing_reaches_says_so_until_it_is_reached_again(
    scene: Scene, browser: Any
) -> None:
    browser.open(scene.dashboard.url)
    browser.wait(lambda: browser.level == "live", "it is live")
    assert browser.banner == ""
    scene.fleet.kill(BROKER, stays_dead=True)
    browser.wait(lambda: browser.level == "stale", "it is stale")
    assert "The dashboard has no broker since" in browser.banner
    assert browser.text("live") == "broker lost"
    assert_it_tells_only_what_was(browser)
    assert browser.do("document.title").startswith("STALE")
    browser.shoot("dashboard-stale")
    for size in ((390, 844), (1440, 900)):
        browser.resize(size)
        browser.do("scrollTo(0, document.body.scrollHeight)")
        place = browser.do("document.getElementById('banner').getBoundingClientRect().toJSON()")
        assert place["top"] == 0  # wherever one reads, it is seen
        assert place["height"] > 20
        browser.do("scrollTo(0, 0)")
    scene.fleet.start_broker()
    browser.wait(lambda: browser.level == "live", "it is live again")
    assert browser.banner == ""
    browser.wait(lambda: "Last known" not in browser.shown(), "it tells what is")
    rounds = round_of(browser)
    browser.wait(lambda: round_of(browser) > rounds, "it goes on")
    assert browser.complaints() == []
    scene.dashboard.stop()
    browser.wait(lambda: "Not connected to the dashboard's server" in browser.banner, "it is gone")
    assert "may be wrong by now" in browser.banner
    assert_it_tells_only_what_was(browser)
    scene.dashboard.start(scene.dashboard.url.split("/")[2])
    browser.wait(lambda: browser.level == "live", "it is live once more")
    browser.wait(lambda: "Last known" not in browser.shown(), "it tells what is")


def assert_it_tells_only_what_was(browser: Any) -> None:
    """Nothing below the banner claims that anything is well now."""
    at = r"(\d\d:\d\d:\d\d)"
    words = browser.text("fleet")
    found = re.fullmatch(
        rf"Last known at {at}: (none|\d) of 5 devices.*\. Nothing is known since\.", words
    )
    assert found, words
    assert "all is well" not in browser.shown()
    assert "needs attention" not in words
    assert re.match(
        rf"No alert stood at {at}, when the last news came\.", browser.text("standing")
    ) or (browser.find("standing").find_elements("css selector", "[data-state=stands]"))
    assert re.fullmatch(rf"was \w+ at {at}|", browser.text("countdown"))


def assert_a_lossy_link_is_told(scene: Scene, browser: Any) -> None:
    """Segments are lost with the connections that carried them, and sent again on the next ones."""
    link = scene.link
    link.up_bytes_per_s, link.breaks_after_bytes = LOSSY_BYTES_PER_S, BREAKS_AFTER_BYTES
    browser.wait(lambda: sent_twice(browser) >= RESENT, "much is sent again", patience_s=180.0)
    # From here on the link only crawls, so that its device is not lost for moments.
    link.up_bytes_per_s, link.breaks_after_bytes = HELD_BYTES_PER_S, None
    assert link.broken >= 2
    browser.wait(lambda: told(browser, LOSSY)[0] == "slow", "it is slow")
    words = told(browser, LOSSY)[1]
    found = re.fullmatch(
        r"uploads( at [\d.]+ k?bit/s)?, (\d+) of (\d+) segments; (\d+) sent twice:"
        r" its link loses much: (\d+) % sent twice",
        words,
    )
    assert found, words
    assert int(found[4]) >= RESENT
    assert 20 <= int(found[5]) < 100
    assert "sent twice" in browser.text("segments")


def sent_twice(browser: Any) -> int:
    """Return how many segments of its update the lossy device has sent again, as the page says."""
    found = re.search(r"; (\d+) sent twice", told(browser, LOSSY)[1])
    return int(found[1]) if found else 0


def told(browser: Any, device: str) -> tuple[str, str]:
    row = browser.row(device)
    return row["attention"], row["words"]


def round_of(browser: Any) -> int:
    found = re.match(r"Round (\d+)", browser.text("round-name"))
    return int(found[1]) if found else 0


def assert_the_savings_are_those_of_the_run(browser: Any) -> None:
    # 2 of 32 bits per coordinate, and what framing costs; less where an update came in part.
    percent = float(browser.text("saved").removesuffix(" %"))
    assert 92.5 < percent < 97.0
    words = browser.text("saved-words")
    assert re.match(
        r"[1-3]\d\.\d times less than dense FedAvg: .+ [kM]B sent instead of .+ MB, in", words
    )


def assert_the_round_is_told(browser: Any) -> None:
    assert "of 1,000" in browser.text("round-name")
    assert re.match(r"\d of 3 \(quorum 2\)", browser.text("updates"))
    assert re.match(r"[\d,]+ of [\d,]+ accepted", browser.text("segments"))
    assert browser.text("countdown").startswith("open, closes in")
    cells = browser.do("document.getElementById('strip').children.length")
    assert cells == 5
    assert browser.text("fleet") == "3 of 5 devices: 1 lost, 1 paused, 1 slow."
    order = [line for line in browser.text("attention-list").splitlines() if "device-" in line]
    assert [line.strip() for line in order] == [DEAD, PAUSED, LOSSY]


def assert_it_reads_everywhere(browser: Any) -> None:
    grounds = {}
    for place, size in (("desktop", (1440, 900)), ("phone", (390, 844))):
        for scheme in ("light", "dark"):
            browser.resize(size)
            browser.prefer(scheme)
            assert browser.do("document.documentElement.scrollWidth") <= size[0]
            grounds[scheme] = browser.do("getComputedStyle(document.body).backgroundColor")
            for device, mark in ((LOSSY, "slow"), (PAUSED, "paused"), (DEAD, "lost")):
                assert browser.find(f"device-{device}").is_displayed()
                assert browser.row(device)["attention"] == mark
            assert browser.do(TOO_FAINT) == []
            browser.shoot(f"dashboard-{place}-{scheme}")
            browser.do("document.getElementById('devices').scrollIntoView()")
            browser.wait(lambda: "new fan" in browser.shown(), "rows are drawn where one looks")
            browser.shoot(f"dashboard-{place}-{scheme}-devices")
            browser.do("scrollTo(0, 0)")
    assert grounds["light"] != grounds["dark"]
    browser.resize((1440, 900))
    browser.prefer("light")


# Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3).
TOO_FAINT = """(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const [r, g, b, alpha = 1] = parts(getComputedStyle(one).backgroundColor);
      if (alpha > 0.99) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const node of document.querySelectorAll("body *:not(svg *)")) {
    const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!own || !node.checkVisibility() || node.closest(".hidden, .skip")) continue;
    const style = getComputedStyle(node);
    if (!style.color.startsWith("rgb")) continue;
    const [a, b] = [luminance(parts(style.color)), luminance(behind(node))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) faint.push(`${node.className} ${node.textContent} ${contrast.toFixed(2)}`);
  }
  return faint;
})()"""


def assert_keys_lead_everywhere(browser: Any) -> None:
    browser.press("/")
    assert browser.do("document.activeElement.id") == "filter"
    browser.press(PAUSED)
    assert browser.text("shown") == "1 of 5 devices"
    assert not browser.find(f"device-{LOSSY}").is_displayed()
    browser.press(Keys.ESCAPE)
    assert browser.text("shown") == "5 devices"
    browser.press(Keys.ARROW_DOWN)
    seen = [focused(browser)]
    for _ in range(2):
        browser.press(Keys.ARROW_DOWN)
        seen.append(focused(browser))
    assert seen == [DEAD, PAUSED, LOSSY]
    browser.press(Keys.ARROW_UP)
    assert focused(browser) == PAUSED
    outline = browser.do("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # one sees where one is
    browser.press(Keys.ENTER)
    browser.wait(lambda: browser.find("detail").is_displayed(), "the device's sheet")
    assert browser.text("detail").startswith(PAUSED)
    assert browser.text("detail-words") == "paused: operator: new fan"
    browser.shoot("dashboard-detail")
    browser.press(Keys.ESCAPE)
    browser.wait(lambda: not browser.find("detail").is_displayed(), "it is closed")
    assert focused(browser) == PAUSED


def focused(browser: Any) -> str:
    return str(browser.do("document.activeElement.dataset.id ?? ''"))


def assert_nothing_leaves_this_machine(scene: Scene, browser: Any) -> None:
    asked = browser.requests()
    assert f"{scene.dashboard.url}events" in asked
    assert {url for url in asked if not url.startswith(scene.dashboard.url)} == set()
