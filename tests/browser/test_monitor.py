"""The monitor in the top bar: off until it is wanted, and nothing is asked while it is."""

from __future__ import annotations

import pytest
from browser import Browser, start_browser
from comfyui_server import Server

SHOW = "CUDAspeed.Monitor.Show"
MONITOR = ".cudaspeed-monitor"
_ASKED = "() => performance.getEntriesByType('resource').filter((e) => e.name.includes('/cudaspeed/monitor')).length"
_IS_SHOWN = "(selector) => /CPU \\d+%\\s+RAM \\d+%/.test(document.querySelector(selector)?.innerText)"
_A_WHILE = "() => new Promise((go) => setTimeout(go, 2500))"


def asked_in_a_while(page: Browser) -> int:
    page.evaluate("() => performance.clearResourceTimings()")  # it is full once a page is open: what comes is not kept
    page.evaluate(_A_WHILE)
    return page.evaluate(_ASKED)


def test_it_is_off_at_first_and_asks_nothing(page: Browser) -> None:
    assert page.texts(MONITOR) == []
    assert asked_in_a_while(page) == 0


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_it_is_shown_and_hidden_by_its_setting(server: Server, browser: Browser, vue: bool) -> None:
    browser.open(server, {"Comfy.Locale": "en", "Comfy.VueNodes.Enabled": vue})
    browser.set(SHOW, True)
    # a processor's load is known from the second look on
    browser.wait(_IS_SHOWN, MONITOR)
    assert asked_in_a_while(browser) > 1
    browser.set(SHOW, False)
    browser.wait("(selector) => !document.querySelector(selector)", MONITOR)
    browser.evaluate(_A_WHILE)  # an answer may have been on its way
    assert asked_in_a_while(browser) == 0
    assert browser.our_errors() == []


def test_with_no_items_nothing_is_asked(server: Server, browser: Browser) -> None:
    browser.open(server, {"Comfy.Locale": "en", SHOW: True, "CUDAspeed.Monitor.Items": ""})
    browser.evaluate(_A_WHILE)
    assert asked_in_a_while(browser) == 0


def test_its_settings_are_found_under_our_name(page: Browser) -> None:
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    page.click("[data-testid=settings-dialog] >> text=CUDAspeed")
    page.wait("() => /Compiled models/.test(document.querySelector('[data-testid=settings-dialog]').innerText)")


def test_two_pages_have_it_each_for_itself(server: Server, browser: Browser) -> None:
    wanted = {"Comfy.Locale": "en", SHOW: True}
    browser.open(server, wanted)
    with start_browser() as other:
        other.open(server, wanted)
        for page in (browser, other):
            page.wait(_IS_SHOWN, MONITOR)
        assert asked_in_a_while(browser) > 1 and asked_in_a_while(other) > 1
        other.set(SHOW, False)
        other.wait("(selector) => !document.querySelector(selector)", MONITOR)
        assert asked_in_a_while(browser) > 1
        assert other.our_errors() == []
    assert asked_in_a_while(browser) > 1, "when the other one is gone"
    assert browser.texts(MONITOR)
    assert browser.our_errors() == []
