"""A user at a real browser: Chromium without a window, driven as a person would."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import presence_of_element_located
from selenium.webdriver.support.wait import WebDriverWait

from tests.clients.drivers import unavailable

SECONDS = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome")


class User:
    """Somebody with a name and a password, whose browser keeps its cookies from page to page.

    Args:
        pictures: where a picture of each page that was seen is put.
    """

    def __init__(self, browser: Chrome, name: str, password: str, pictures: Path) -> None:
        self.browser = browser
        self.name = name
        self.password = password
        self.pictures = pictures
        self.logins = 0
        self.seen: list[str] = []
        """The texts of the consent pages, in the order in which they came."""

    def allow(self, url: str) -> None:
        """Open an authorization URL, log in where that is asked for, read the page and press Allow."""
        self.browser.get(url)
        if (form := self.find("#consent, input[name=password]")).tag_name == "input":
            self.picture("login")
            self.browser.find_element(By.NAME, "username").send_keys(self.name)
            form.send_keys(self.password)
            self.browser.find_element(By.CSS_SELECTOR, "button.main").click()
            self.logins += 1
            self.find("#consent")
        self.picture("consent")
        self.seen.append(self.browser.find_element(By.TAG_NAME, "main").text)
        self.browser.find_element(By.NAME, "allow").click()
        self.find("#arrived")

    def find(self, selector: str) -> WebElement:
        """The first element like that, once it is there."""
        wanted = presence_of_element_located((By.CSS_SELECTOR, selector))
        return WebDriverWait(self.browser, SECONDS).until(wanted, f"{selector} on {self.browser.current_url}")

    def picture(self, page: str) -> None:
        self.browser.save_screenshot(str(self.pictures / f"{page}.png"))


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """A browser of its own, with nothing remembered; skips where there is none."""
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        unavailable("chromium and chromedriver are not on PATH (on Debian: apt install chromium chromium-driver)")
    options = ChromeOptions()
    options.binary_location = binary
    for argument in (
        "headless=new",
        "no-sandbox",  # It is run as root in containers, and sees pages of our own only.
        "disable-dev-shm-usage",
        "window-size=900,900",
        "no-proxy-server",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{argument}")
    browser = Chrome(options, ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()
