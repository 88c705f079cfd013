"""A headless Chromium that does what a person does: opens pages, types, clicks, and looks for text."""

import contextlib
import time

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

SECONDS = 40


@contextlib.contextmanager
def browser(site):
    options = webdriver.ChromeOptions()
    options.accept_insecure_certs = True
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
    driver.set_page_load_timeout(120)
    try:
        yield Browser(driver, site)
    except Exception:
        # What the page says tells why.
        with contextlib.suppress(WebDriverException):
            print(driver.current_url, driver.find_element(By.TAG_NAME, "body").text[:1500], sep="\n")
        raise
    finally:
        driver.quit()


class Browser:
    def __init__(self, driver, site):
        self.driver = driver
        self.site = site

    def open(self, path):
        self.driver.get(self.site + path)

    def until(self, what, condition):
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(StaleElementReferenceException):
                found = condition()
                if found:
                    return found
            assert time.monotonic() < deadline, f"not within {SECONDS} seconds: {what}"
            time.sleep(0.1)

    def find(self, css):
        """The first visible element."""
        visible = lambda: next((element for element in self.driver.find_elements(By.CSS_SELECTOR, css) if element.is_displayed()), None)
        return self.until(f"shows {css}", visible)

    def hidden(self, css):
        """An element that may be invisible, such as the field of a file."""
        return self.until(f"has {css}", lambda: next(iter(self.driver.find_elements(By.CSS_SELECTOR, css)), None))

    def fill(self, css, text):
        def type_it():
            field = self.find(css)
            field.clear()
            field.send_keys(text)
            return True

        self.until(f"takes text in {css}", type_it)

    def click(self, css):
        def click_it():
            # Something may lie above it until the page has come to rest.
            with contextlib.suppress(WebDriverException):
                self.find(css).click()
                return True

        self.until(f"can be clicked: {css}", click_it)

    def press(self, css):
        """Clicks by script, what cannot be reached with the mouse."""
        self.driver.execute_script("arguments[0].click()", self.hidden(css))

    def follow(self, text):
        """Clicks the link with this text."""

        def click_it():
            links = [link for link in self.driver.find_elements(By.PARTIAL_LINK_TEXT, text) if link.is_displayed()]
            with contextlib.suppress(WebDriverException):
                if links:
                    links[0].click()
                    return True

        self.until(f"has a link {text!r}", click_it)

    def choose(self, css, file, content):
        """Chooses a new file of this name for upload."""
        path = f"/tmp/{file}"
        with open(path, "wb") as out:
            out.write(content)
        self.hidden(css).send_keys(path)

    def text(self):
        return self.driver.find_element(By.TAG_NAME, "body").text

    def expect(self, text):
        self.until(f"says {text!r}", lambda: text in self.text())

    def expect_source(self, text):
        self.until(f"contains {text!r}", lambda: text in self.driver.page_source)
