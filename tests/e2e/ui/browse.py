"""Drives Debian's chromium through the web UI of two registries that seed.py has filled.

    browse.py BASE LOGIN [--axe axe.min.js] [--screenshots DIR]

In the second one people log in. Speaks WebDriver over plain HTTP with the standard library. Each flow runs with
JavaScript on and off; axe-core looks at every page in light, dark and 320 px; no page may report a violation of its
Content-Security-Policy. Prints a line for each flow, and exits with 1 if one failed.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
DRIVER_SECONDS_MAX = 20


class Browser:
    """A session of chromium-driver."""

    def __init__(self, driver, javascript=True, dark=False, size=(1280, 900)):
        self.driver = driver
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                     "--disable-dev-shm-usage", f"--window-size={size[0]},{size[1]}"]
        if dark:
            arguments.append("--blink-settings=preferredColorScheme=0")
        preferences = {} if javascript else {"profile.managed_default_content_settings.javascript": 2}
        options = {"args": arguments, "prefs": preferences}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options,
                        "goog:loggingPrefs": {"browser": "ALL"}}
        opened = self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.session = f"/session/{opened['sessionId']}"
        if size[0] < 500:
            # A window has a least width.
            self.cdp("Emulation.setDeviceMetricsOverride",
                     {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": True})

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.driver + path, data=data, method=method,
                                         headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"].split("\n")[0]) from None

    def of(self, method, path, body=None):
        return self.call(method, self.session + path, body)

    def cdp(self, command, parameters):
        return self.of("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url):
        self.of("POST", "/url", {"url": url})

    def find(self, selector):
        return self.of("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def link(self, text):
        return self.of("POST", "/element", {"using": "link text", "value": text})[ELEMENT]

    def all(self, selector):
        found = self.of("POST", "/elements", {"using": "css selector", "value": selector})
        return [element[ELEMENT] for element in found]

    def click(self, element):
        self.of("POST", f"/element/{element}/click", {})

    def type(self, element, text):
        self.of("POST", f"/element/{element}/value", {"text": text})

    def text(self, selector="main"):
        return self.of("GET", f"/element/{self.find(selector)}/text")

    def attribute(self, element, name):
        return self.of("GET", f"/element/{element}/attribute/{name}")

    def url(self):
        return self.of("GET", "/url")

    def title(self):
        return self.of("GET", "/title")

    def run(self, script, *arguments):
        return self.of("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def run_later(self, script, *arguments):
        return self.of("POST", "/execute/async", {"script": script, "args": list(arguments)})

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.of("GET", "/screenshot")))

    def console(self):
        """What the browser complained about since the last call."""
        return [entry["message"] for entry in self.of("POST", "/se/log", {"type": "browser"})]

    def close(self):
        self.of("DELETE", "")


def expect(found, wanted):
    assert wanted in found, f"{wanted!r} is not in {found[:600]!r}"


def until(what, seconds=5):
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while True:
        try:
            if what():
                return
        except AssertionError:
            pass
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def find_and_look(browser, base):
    """A person who has never seen it finds an image, and sees what is in it and how it is pulled."""
    browser.open(base + "/")
    assert browser.url() == base + "/ui/", browser.url()
    browser.type(browser.find("#q"), "ngnix\n")
    until(lambda: "Did you mean" in browser.text())
    browser.click(browser.link("library/nginx"))
    until(lambda: "Filter tags" in browser.text())
    browser.click(browser.link("1.27.2"))
    until(lambda: "Platforms" in browser.text())
    text = browser.text()
    host = base.split("://")[1]
    for wanted in (f"docker pull {host}/library/nginx:1.27.2", "linux/arm64", "Tags that point here", "Configuration",
                   "/docker-entrypoint.sh", "apt-get install"):
        expect(text, wanted)
    browser.click(browser.link("linux/arm64"))
    until(lambda: "platform=" in browser.url())
    expect(browser.text(), "linux/arm64")


def see_why_and_what_before(browser, base):
    """Why it is kept, and what the tag pointed to before."""
    browser.open(base + "/ui/library/nginx:latest")
    browser.click(browser.link("Why it is kept"))
    until(lambda: "The tag" in browser.text())
    expect(browser.text(), "points to it")
    browser.click(browser.link("History"))
    until(lambda: "What the tag pointed to" in browser.text())
    assert len(browser.all(".timeline li")) >= 5


def look_at_what_is_attached(browser, base):
    browser.open(base + "/ui/library/nginx:1.27.2")
    browser.click(browser.link("Attached"))
    until(lambda: "verifies no" in browser.text())
    browser.click(browser.link("SBOM"))
    until(lambda: "Packages" in browser.text())
    expect(browser.text(), "openssl")
    browser.type(browser.find("#package"), "zlib\n")
    until(lambda: "package=zlib" in browser.url())
    assert "openssl" not in browser.text()
    browser.open(base + "/ui/library/nginx:1.27.2")
    browser.click(browser.link("Attached"))
    until(lambda: "verifies no" in browser.text())
    browser.click(browser.link("scan report"))
    until(lambda: "Findings" in browser.text())
    for wanted in ("1 critical", "CVE-2026-21417", "3.0.16-1", "not verified"):
        expect(browser.text(), wanted)
    browser.type(browser.find("#find"), "zlib\n")
    until(lambda: "find=zlib" in browser.url())
    assert "CVE-2026-21417" not in browser.text() and "CVE-2026-19004" in browser.text()
    browser.open(base + "/ui/library/nginx:1.27.2")
    browser.click(browser.link("Attached"))
    until(lambda: "verifies no" in browser.text())
    browser.click(browser.link("VEX document"))
    until(lambda: "Statements" in browser.text())
    expect(browser.text(), "not affected")


def order_and_filter(browser, base):
    browser.open(base + "/ui/library/nginx")
    browser.type(browser.find("#filter"), "alpine\n")
    until(lambda: "q=alpine" in browser.url())
    expect(browser.text(), "3 tags")
    browser.open(base + "/ui/library/nginx?order=version")
    first = browser.text("tbody tr:first-child th")
    expect(first, "1.27.2")


def restore_a_tag(browser, base):
    browser.open(base + "/ui/library/nginx/-/history/stable")
    before = browser.attribute(browser.find(".timeline form input[name=digest]"), "value")
    browser.click(browser.find(".timeline form button"))
    until(lambda: "The tag was restored." in browser.text())
    now = browser.attribute(browser.find(".timeline li.now .digest a"), "href")
    assert now.endswith(before), (now, before)


def delete_and_restore(browser, base):
    """Several tags are deleted, with the question in between; a deleted manifest comes back."""
    browser.open(base + "/ui/library/nginx?q=alpine")
    tags = []
    for box in browser.all("tbody input[type=checkbox]")[:2]:
        tags.append(browser.attribute(box, "value"))
        browser.click(box)
    browser.click(browser.find("form[data-select] button.danger"))
    until(lambda: "Delete 2 tags?" in browser.text())
    browser.click(browser.find("main form button.danger"))
    until(lambda: "The tags were deleted." in browser.text())
    browser.click(browser.link("Deleted"))
    until(lambda: "Pointed to" in browser.text())
    for tag in tags:
        expect(browser.text("tbody"), tag)
    browser.click(browser.find("tbody form button"))
    until(lambda: "The tag was restored." in browser.text())
    # The address of the other one leads to its history.
    browser.open(f"{base}/ui/library/nginx:{tags[1]}")
    expect(browser.text(".timeline li:first-child"), "Deleted")
    browser.click(browser.find(".timeline form button"))
    until(lambda: "The tag was restored." in browser.text())
    browser.open(base + "/ui/team/api/-/deleted")
    browser.click(browser.find("tbody form button"))
    until(lambda: "The manifest was restored." in browser.text())
    browser.open(base + "/ui/team/api:rc")
    expect(browser.text(), "Pull")
    browser.click(browser.link("Delete…"))
    until(lambda: "Delete tag rc?" in browser.text())
    browser.click(browser.link("Cancel"))
    # For the next run of this flow.
    browser.open(base + "/ui/team/api:rc")
    digest = browser.attribute(browser.find("main .facts .digest a"), "href").split("@")[1]
    browser.open(f"{base}/ui/team/api/-/delete?digest={digest}")
    browser.click(browser.find("main form button.danger"))
    until(lambda: "was deleted" in browser.text())


def hostile_content(browser, base):
    for page in ("zz/hostile", "zz/hostile:image", "zz/hostile:file", "zz/hostile/-/manifests", "-/search?q=<script>alert(1)</script>"):
        browser.open(f"{base}/ui/{page}")
        assert browser.title().endswith("· jreg"), browser.title()
    browser.open(base + "/ui/zz/hostile:image")
    expect(browser.text(), "U+202E")
    expect(browser.text(), "<script>")


FLOWS = [find_and_look, see_why_and_what_before, look_at_what_is_attached, order_and_filter, restore_a_tag,
         delete_and_restore, hostile_content]


def copy_and_select(browser, base):
    """What the script adds: buttons that copy, and that select all rows."""
    browser.cdp("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": base})
    browser.open(base + "/ui/library/nginx:1.27.2")
    browser.click(browser.find(".command button.copy"))
    host = base.split("://")[1]
    until(lambda: browser.run_later("navigator.clipboard.readText().then(arguments[0], arguments[0])")
          == f"docker pull {host}/library/nginx:1.27.2")
    browser.open(base + "/ui/library/nginx")
    browser.click(browser.find("input[data-all]"))
    count = len(browser.all("tbody input[type=checkbox]"))
    expect(browser.text("form[data-select] button.danger"), f"({count})")


PASSWORD = "correct horse"


def log_in(browser, base, user, path="/ui/-/login"):
    browser.open(base + path)
    browser.type(browser.find("#user"), user)
    browser.type(browser.find("#password"), PASSWORD)
    browser.click(browser.find("main form button[type=submit]"))
    until(lambda: browser.text(".identity").startswith(user))


def log_out(browser):
    browser.click(browser.find(".identity form button"))
    until(lambda: browser.text(".identity") == "Log in")


def see_more_after_a_login(browser, base):
    """What may not be seen is not there; a login with a password leads back to the page, and a logout ends it."""
    browser.open(base + "/ui/library/nginx")
    expect(browser.text(), "v1")
    browser.open(base + "/ui/")
    assert "secret" not in browser.text(), browser.text()
    browser.open(base + "/ui/team/secret")
    expect(browser.text("h1"), "Log in to continue")
    browser.click(browser.find("main a.button"))
    until(lambda: browser.all("#password"))
    browser.type(browser.find("#user"), "writer")
    browser.type(browser.find("#password"), "wrong")
    browser.click(browser.find("main form button[type=submit]"))
    until(lambda: "user name or the password is wrong" in browser.text())
    assert browser.attribute(browser.find("#user"), "value") == "writer"
    browser.type(browser.find("#password"), PASSWORD)
    browser.click(browser.find("main form button[type=submit]"))
    until(lambda: browser.url() == base + "/ui/team/secret")
    expect(browser.text(), "v1")
    log_out(browser)
    browser.open(base + "/ui/team/secret")
    expect(browser.text("h1"), "Log in to continue")


def log_in_at_a_provider(browser, base):
    """The provider knows the person already: there and back by links alone."""
    browser.open(base + "/ui/-/login?next=/ui/team/secret:v1")
    browser.click(browser.link("Log in with Company account"))
    until(lambda: browser.url() == base + "/ui/team/secret:v1")
    expect(browser.text(".identity"), "company:carol")
    expect(browser.text(), "Pull")
    browser.open(base + "/ui/-/account")
    expect(browser.text(), "company:developers")
    log_out(browser)


def expect_status(base, password, wanted):
    """What the API answers to a client with this password."""
    request = urllib.request.Request(base + "/v2/team/secret/manifests/v1", headers={
        "Authorization": "Basic " + base64.b64encode(f"login:{password}".encode()).decode()})
    try:
        with urllib.request.urlopen(request) as response:
            found, body = response.status, ""
    except urllib.error.HTTPError as error:
        found, body = error.code, error.read()[:300]
    assert found == wanted, f"{found}, not {wanted}: {body}"


def make_a_token(browser, base):
    """A token for docker login acts as the person until the logout."""
    log_in(browser, base, "writer")
    browser.open(base + "/ui/-/account")
    browser.click(browser.find("main form.form button"))
    until(lambda: "It is shown once" in browser.text())
    token = browser.text(".command code")
    expect_status(base, token, 200)
    expect_status(base, token + "x", 401)
    log_out(browser)
    expect_status(base, token, 401)


def administer(browser, base):
    """Access tokens are made and revoked, and the policy is tested; the pages are for administrators alone."""
    log_in(browser, base, "writer")
    browser.open(base + "/ui/-/admin")
    expect(browser.text("h1"), "Not allowed")
    log_out(browser)
    log_in(browser, base, "root")
    browser.click(browser.link("Admin"))
    until(lambda: browser.all("#allow"))
    browser.type(browser.find("#name"), "build")
    browser.type(browser.find("#allow"), "pull:team/**")
    browser.click(browser.find("main form.form button"))
    until(lambda: "It is shown once" in browser.text())
    token = browser.text(".command code")
    expect_status(base, token, 200)
    browser.click(browser.find("tbody summary"))
    browser.click(browser.find("tbody details[open] button.danger"))
    until(lambda: not browser.all("tbody summary"))
    expect(browser.text("tbody"), "revoked")
    expect_status(base, token, 401)
    browser.click(browser.link("Policy test"))
    until(lambda: browser.all("#identity"))
    browser.type(browser.find("#identity"), "writer")
    browser.type(browser.find("#repository"), "team/secret")
    browser.click(browser.find("main form.form button"))
    until(lambda: "writers and developers" in browser.text())
    expect(browser.text("tbody"), "allowed")
    log_out(browser)


LOGIN_FLOWS = [see_more_after_a_login, log_in_at_a_provider, make_a_token, administer]


def pages_after_a_login():
    """Pages of people who log in, for whom, by name."""
    return [
        ("login", None, "/ui/-/login"), ("not-allowed", None, "/ui/team/secret"), ("account", "root", "/ui/-/account"),
        ("access-tokens", "root", "/ui/-/admin"), ("policy-test", "root", "/ui/-/admin/policy?test=1&identity=writer&repository=team/secret"),
        ("admin-usage", "root", "/ui/-/usage?count=yes"), ("mirrors", "root", "/ui/-/mirrors?count=yes"), ("admin-activity", "root", "/ui/-/activity"),
        ("refused", "writer", "/ui/-/admin"),
    ]


def pages_of(base):
    """Every page, by name."""
    with urllib.request.urlopen(base + "/ui/library/nginx:1.27.2") as response:
        digest = response.read().decode().split("referrers/")[1].split("?")[0].split('"')[0]
    with urllib.request.urlopen(f"{base}/ui/library/nginx/-/referrers/{digest}") as response:
        attached = response.read().decode()
    sbom, report, vex = (attached.split(f'">{kind}</a>')[0].split('href="')[-1] for kind in ("SBOM", "scan report", "VEX document"))
    with urllib.request.urlopen(f"{base}/ui/library/nginx@{digest}") as response:
        links = [part.split('"')[0] for part in response.read().decode().split('href="')]
        platforms = [link for link in links if link.startswith("/ui/library/nginx@")]
    return {
        "sbom": sbom, "scan-report": report, "vex": vex, "attestation": platforms[2], "last-pulls": "/ui/library/nginx?pulls=yes&order=newest",
        "versions": "/ui/library/nginx?order=version",
        "repositories": "/ui/", "folder": "/ui/?in=team", "search": "/ui/-/search?q=ngnix", "usage": "/ui/-/usage?count=yes",
        "activity": "/ui/-/activity", "tags": "/ui/library/nginx", "image": "/ui/library/nginx:1.27.2",
        "chart": "/ui/charts/shop:2.4.1", "files": "/ui/data/models:v3", "manifests": "/ui/library/nginx/-/manifests",
        "deleted": "/ui/team/api/-/deleted", "lifecycle": "/ui/library/nginx/-/lifecycle",
        "repository-usage": "/ui/library/nginx/-/usage?count=yes", "history": "/ui/library/nginx/-/history/latest",
        "attached": f"/ui/library/nginx/-/referrers/{digest}?tag=latest", "kept": f"/ui/library/nginx/-/kept/{digest}?tag=latest",
        "delete": "/ui/library/nginx/-/delete?tag=1.25", "not-found": "/ui/none", "hostile": "/ui/zz/hostile:image",
        "hostile-file": "/ui/zz/hostile:file", "no-tag-found": "/ui/library/nginx?q=nothing",
    }


def look_for_violations(browser, source):
    """What axe-core finds on the page, whether it is wider than the screen, and violations of its policy."""
    # Closed details are part of the page.
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true;")
    browser.run(source)
    found = browser.run_later("axe.run().then((found) => arguments[0](found.violations.map((one) => one.id + ': ' + "
                              "one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(' | '))))")
    wide = browser.run("return document.documentElement.scrollWidth - innerWidth")
    if wide > 0:
        found.append(f"the page is {wide} px wider than the screen")
    return found + [line for line in browser.console() if "Content Security Policy" in line and "axe" not in line]


def check_accessibility(driver, base, login, axe):
    """axe-core finds nothing on any page: light, dark, and on a narrow screen; nothing is wider than the screen."""
    with open(axe, encoding="utf-8") as file:
        source = file.read()
    failed = 0
    for look, options in (("light", {}), ("dark", {"dark": True}), ("320px", {"size": (320, 700)})):
        browser = Browser(driver, **options)
        browser.of("POST", "/timeouts", {"script": 60_000})
        for name, path in pages_of(base).items():
            browser.open(base + path)
            is_dark, width = browser.run("return [matchMedia('(prefers-color-scheme: dark)').matches, innerWidth]")
            assert is_dark == (look == "dark") and (width == 320) == (look == "320px"), (look, is_dark, width)
            for line in look_for_violations(browser, source):
                print(f"FAILED  {look} {name}: {line}")
                failed += 1
        person = None
        for name, who, path in pages_after_a_login():
            if who != person:
                if person:
                    log_out(browser)
                if who:
                    log_in(browser, login, who)
                person = who
            browser.open(login + path)
            for line in look_for_violations(browser, source):
                print(f"FAILED  {look} {name}: {line}")
                failed += 1
        browser.close()
    return failed


TALL = {"size": (1280, 1500)}
SCREENSHOTS = [("repositories", "ui-repositories", {}), ("tags", "ui-tags", {}), ("image", "ui-image", TALL),
               ("history", "ui-history-dark", {"dark": True}), ("attached", "ui-attached", {}), ("kept", "ui-kept", {}),
               ("sbom", "ui-sbom", {}), ("scan-report", "ui-scan-report", {}), ("activity", "ui-activity", {}), ("usage", "ui-usage", {}),
               ("image", "ui-image-phone", {"size": (360, 780)}), ("chart", "ui-chart-dark", {"dark": True, "size": (1280, 1500)})]
LOGIN_SCREENSHOTS = [("login", "ui-login", {}), ("mirrors", "ui-mirrors", {}), ("policy-test", "ui-policy-test", {})]


def take_screenshots(driver, base, login, folder):
    os.makedirs(folder, exist_ok=True)
    urllib.request.urlopen(base + "/ui/-/usage?count=yes").close()
    pages = pages_of(base)
    for page, name, options in SCREENSHOTS:
        browser = Browser(driver, **options)
        browser.open(base + pages[page])
        browser.screenshot(os.path.join(folder, f"{name}.png"))
        browser.close()
    people = {name: (who, path) for name, who, path in pages_after_a_login()}
    for page, name, options in LOGIN_SCREENSHOTS:
        who, path = people[page]
        browser = Browser(driver, **options)
        if who:
            log_in(browser, login, who)
        browser.open(login + path)
        browser.screenshot(os.path.join(folder, f"{name}.png"))
        browser.close()


def run_flows(driver, base, login):
    failed = 0
    for javascript in (True, False):
        browser = Browser(driver, javascript=javascript)
        flows = [(flow, base) for flow in FLOWS + ([copy_and_select] if javascript else [])]
        for flow, base_of_flow in flows + [(flow, login) for flow in LOGIN_FLOWS]:
            name = f"{flow.__name__.replace('_', ' ')}, JavaScript {'on' if javascript else 'off'}"
            try:
                flow(browser, base_of_flow)
                reports = [line for line in browser.console() if "Content Security Policy" in line]
                assert not reports, reports
                print(f"ok      {name}")
            except AssertionError as error:
                print(f"FAILED  {name}: {error}")
                failed += 1
        browser.close()
    return failed


def start_driver(port):
    driver = subprocess.Popen(["chromedriver", f"--port={port}", "--log-level=SEVERE"], stdout=subprocess.DEVNULL)
    end = time.monotonic() + DRIVER_SECONDS_MAX
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=1)
            return driver
        except OSError:
            time.sleep(0.1)
    driver.kill()
    raise SystemExit("chromedriver does not start")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("login")
    parser.add_argument("--axe")
    parser.add_argument("--screenshots")
    parser.add_argument("--port", type=int, default=9515)
    arguments = parser.parse_args()
    base, login = arguments.base.rstrip("/"), arguments.login.rstrip("/")
    process = start_driver(arguments.port)
    driver = f"http://127.0.0.1:{arguments.port}"
    failed = 0
    try:
        if arguments.screenshots:
            take_screenshots(driver, base, login, arguments.screenshots)
        else:
            if arguments.axe:
                failed += check_accessibility(driver, base, login, arguments.axe)
            failed += run_flows(driver, base, login)
    finally:
        process.terminate()
        process.wait()
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
