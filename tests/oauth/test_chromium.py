"""The pages in a real browser: phone width, dark mode, keyboard alone."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.oauth.person import Browser, Client, Served, answer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

#: Set it to write the screenshots of the documentation.
SCREENSHOTS = "WRITE_SCREENSHOTS"
STATIC = Path(__file__).parents[2] / "docs" / "_static"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Chromium:
    """A browser without a window, spoken to over its debugging protocol."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}',
                "bash",
                str(CHROMIUM),
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-proxy-server",
                "--remote-debugging-pipe",
                f"--user-data-dir={self._folder.name}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out = os.fdopen(ours_out, "wb", buffering=0)
        self._in = os.fdopen(ours_in, "rb", buffering=0)
        self._unread = b""
        self._sent = 0
        self._session: dict[str, str] = {}

    def __enter__(self) -> Self:
        targets = self.do("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self.do("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()
        self._in.close()
        self._process.terminate()
        self._process.wait(30)
        self._folder.cleanup()

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._sent += 1
        command = {"id": self._sent, "method": method, "params": parameters, **self._session}
        self._out.write(json.dumps(command).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("id") == self._sent:
                assert "error" not in got, got
                result: dict[str, Any] = got["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._in], [], [], 60)[0]
            read = self._in.read(1 << 20)
            assert read
            self._unread += read
        text, _, self._unread = self._unread.partition(b"\0")
        got: dict[str, Any] = json.loads(text)
        return got

    def run(self, script: str) -> Any:
        """Return the value of an expression on the page."""
        return self.do("Runtime.evaluate", expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def open(self, url: str) -> None:
        """Load a page."""
        self.do("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def wait(self, script: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + 30
        while not self.run(script):
            assert time.monotonic() < deadline, script
            time.sleep(0.05)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.do(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def look(self, *, width: int, dark: bool) -> None:
        """Be a phone or a desk, in light or dark."""
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])

    def sign_in_as(self, browser: Browser, served: Served) -> None:
        """Take the cookies of another browser."""
        for name, value in browser.http.cookies.items():
            self.do("Network.setCookie", name=name, value=value, url=served.url, httpOnly=True)

    def screenshot(self, name: str, addresses: dict[str, str]) -> None:
        """Write a picture of the whole page, with other addresses, into the documentation."""
        replaced = f"""
            const all = {json.dumps(addresses)};
            const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            while (texts.nextNode())
                for (const [from, to] of Object.entries(all))
                    texts.currentNode.data = texts.currentNode.data.replaceAll(from, to);
        """
        self.run(f"(() => {{{replaced}}})()")
        width = self.run("document.documentElement.clientWidth")
        height = self.run("document.querySelector('main').getBoundingClientRect().bottom") + 16
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.do("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        (STATIC / name).write_bytes(base64.b64decode(shot["data"]))


@pytest.fixture
def chromium() -> Iterator[Chromium]:
    """The browser."""
    with Chromium() as found:
        yield found


@pytest.fixture
def home(served: Served, browser: Browser, client: Client, chromium: Chromium) -> Chromium:
    """The browser of a person who has connected a client and is signed in."""
    name = "A program with a name that is rather long, and longer-than-any-phone-is-wide"
    client.register(client_name=name)
    client.redeem(answer(browser.sign_in(client.url()))["code"])
    browser.sign_in_at_home()
    chromium.sign_in_as(browser, served)
    return chromium


def test_a_phone_breaks_lines_where_words_end(home: Chromium, served: Served) -> None:
    """The MCP address breaks before "/mcp", and a long label does not continue below its box."""
    home.look(width=390, dark=False)
    home.open(f"{served.url}/")
    # Whatever fits into the line.
    for length in range(20, 40):
        home.run(
            "document.querySelector('dd code').firstChild.data = "
            f"'https://mcp.example.com'.padEnd({length}, 'x')"
        )
        tops = (
            "(text => [0, text.length - 1].map(at => { const one = document.createRange();"
            "one.setStart(text, at); one.setEnd(text, at + 1);"
            "return one.getBoundingClientRect().top }))"
            "(document.querySelector('dd code').lastChild)"
        )
        first, last = home.run(tops)
        assert first == last, length
    begins = home.run(
        "[...document.querySelectorAll('label')].map(label => { const all = "
        "document.createRange(); all.selectNode(label.lastChild);"
        "return [...all.getClientRects()].map(line => line.left) })"
    )
    assert max(len(lines) for lines in begins) > 1
    assert all(len(set(lines)) == 1 for lines in begins)


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_sideways_scrolling(home: Chromium, served: Served, dark: bool) -> None:
    """At 320 pixels home fits, in light and dark, with enough contrast."""
    home.look(width=320, dark=dark)
    home.open(f"{served.url}/")
    assert home.run("document.title") == "Your Nextcloud for assistants"
    assert home.run("document.documentElement.scrollWidth") <= 320
    colours = home.run("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    text, back = (_luminance(colour) for colour in colours)
    assert (text < back) is not dark
    assert (max(text, back) + 0.05) / (min(text, back) + 0.05) >= 7


def _luminance(colour: str) -> float:
    """Return the relative luminance of WCAG."""
    values = [int(one) / 255 for one in re.findall(r"\d+", colour)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_control_has_a_name_and_a_visible_focus(home: Chromium, served: Served) -> None:
    """Headings go down step by step; each control is labelled, and shows its focus."""
    home.open(f"{served.url}/")
    levels = home.run("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    unnamed = (
        "[...document.querySelectorAll('input:not([type=hidden]),button,a')]"
        ".filter(e => !(e.labels?.[0] ?? e).textContent.trim()).length"
    )
    assert home.run(unnamed) == 0
    home.press("Tab", 9)
    assert home.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_keyboard_alone_widens_a_scope(home: Chromium, served: Served) -> None:
    """Tab, space and enter reach a check box, the button and the question."""
    home.look(width=800, dark=False)
    home.open(f"{served.url}/")
    for _ in range(50):
        home.press("Tab", 9)
        if home.run("document.activeElement.value") == "files:write":
            break
    home.press(" ", 32, " ")
    home.press("Enter", 13, "\r")
    home.wait("document.title === 'Allow more?'")
    for _ in range(10):
        home.press("Tab", 9)
        if home.run("document.activeElement.tagName") == "BUTTON":
            break
    home.press("Enter", 13, "\r")
    home.wait("document.title === 'Your Nextcloud for assistants'")
    assert home.run("document.querySelector('[value=\"files:write\"]').checked")


def test_no_page_breaks_its_own_policy(home: Chromium, served: Served, client: Client) -> None:
    """The browser applies the style and reports nothing; the page that waits runs its script."""
    home.do("Log.enable")
    home.look(width=400, dark=False)
    home.open(client.url())
    assert home.run("document.documentElement.scrollWidth") <= 400
    assert home.run("getComputedStyle(document.querySelector('main')).maxWidth") == "576px"
    home.run("document.querySelector('button.main').click()")
    home.wait("document.title === 'Grant access in Nextcloud'")
    link = home.run("document.querySelector('a.main').href")
    served.nextcloud.state.grant(link, "alice")
    home.wait("document.title.endsWith(' is connected') || location.port === '4711'")


@pytest.mark.skipif(SCREENSHOTS not in os.environ, reason=f"{SCREENSHOTS} is not set")
def test_pictures_of_the_documentation(
    served: Served, browser: Browser, client: Client, chromium: Chromium
) -> None:
    """Consent, home and widening, as a person at a desk sees them."""
    shown = {
        served.nextcloud.url: "https://cloud.example.com",
        served.nextcloud.url.partition("//")[2]: "cloud.example.com",
        served.url: "https://mcp.example.com",
    }
    chromium.look(width=560, dark=False)
    client.register(client_name="Claude Code")
    chromium.open(client.url())
    chromium.screenshot("consent.png", shown)
    client.redeem(answer(browser.sign_in(client.url()))["code"])
    browser.sign_in_at_home()
    chromium.sign_in_as(browser, served)
    chromium.open(f"{served.url}/")
    chromium.screenshot("home.png", shown)
    chromium.run("document.querySelector('[value=\"files:write\"]').click()")
    chromium.run("document.querySelector('fieldset button').click()")
    chromium.wait("document.title === 'Allow more?'")
    chromium.screenshot("allow-more.png", shown)
