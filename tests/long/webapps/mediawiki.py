"""MediaWiki: a member edits, previews, uploads, searches and administers; a bot writes pages through the programming interface."""

import http.cookiejar
import json
import os
import shutil
import urllib.parse
import urllib.request

from .application import PASSWORD, SITE_NAME, USER, WRONG, Application, database, guesses, run, word_list
from .dokuwiki import PICTURE

INDEX = "/mediawiki/index.php"
TEXT = "== About {page} ==\nRun <code>cat /etc/passwd; id</code>, or <nowiki>select * from users where id='1' or 1=1 and {{{{7*7}}}}</nowiki>.\n"


def prepare():
    database("mediawiki")
    install = "php /usr/share/mediawiki/maintenance/install.php --dbtype mysql --dbserver localhost --dbname mediawiki --dbuser mediawiki"
    more = ["--dbpass", "mediawiki", "--scriptpath", "/mediawiki", "--server", f"//{SITE_NAME}", "--pass", PASSWORD, "Example wiki", USER]
    run(*install.split(), "--confpath", "/etc/mediawiki", *more)
    shutil.move("/etc/mediawiki/LocalSettings.php", "/var/lib/mediawiki/LocalSettings.php")
    with open("/var/lib/mediawiki/LocalSettings.php", "a", encoding="utf-8") as file:
        file.write("$wgEnableUploads = true; $wgStrictFileExtensions = false; $wgCacheDirectory = '/tmp';\n")
    run("chown", "-R", "www-data", os.path.realpath("/var/lib/mediawiki/images"))


def use(site):
    from .browser import browser

    with browser(site) as person:
        person.open("/mediawiki/")
        person.expect("MediaWiki has been installed")
        person.follow("Log in")
        log_in(person, WRONG)
        person.expect("Incorrect username or password")
        log_in(person, PASSWORD)
        person.until("is logged in", lambda: person.driver.find_elements("css selector", "#pt-logout"))
        scheme = site.split(":")[0]
        pages = [f"{name} {scheme}" for name in ("Shell", "User:Admin/.env", "Wp-login.php")]
        for page in pages:
            write(person, page)
        upload(person, f"Picture-{scheme}.png")
        person.fill("#searchInput", "passwd")
        person.press("#searchform [type=submit]:not([name=go]), #searchButton")
        person.expect("passwd")
        for special in ("RecentChanges", "Version", "AllPages", "Preferences", "Watchlist", "Statistics", "UserRights/Admin", "Log", "Block"):
            person.open(f"{INDEX}?title=Special:{special}")
            person.until("is logged in", lambda: person.driver.find_elements("css selector", "#pt-logout"))
        for action in ("history", "info", "raw", "protect"):
            person.open(f"{INDEX}?title={urllib.parse.quote(pages[0])}&action={action}")
        person.click("#mw-Protect-submit")
        person.expect("Shell")
    write_by_bot(site)


def log_in(person, password):
    person.fill("#wpName1", USER)
    person.fill("#wpPassword1", password)
    person.click("#wpLoginAttempt")


def write(person, page):
    person.open(f"{INDEX}?title={urllib.parse.quote(page)}&action=edit")
    person.fill("#wpTextbox1", TEXT.format(page=page))
    person.click("#wpPreview")
    person.expect("this is only a preview")
    person.click("#wpSave")
    person.expect("select * from users where id='1' or 1=1")


def upload(person, name):
    person.open(f"{INDEX}?title=Special:Upload")
    # A file that is there already is refused.
    person.choose("#wpUploadFile", name, PICTURE + name.encode())
    person.click("[name=wpUpload]")
    person.expect(f"File:{name}")


def write_by_bot(site):
    jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    opener = urllib.request.build_opener(jar)

    def call(**parameters):
        data = urllib.parse.urlencode({"format": "json", **parameters}).encode()
        return json.load(opener.open(f"{site}/mediawiki/api.php", data))

    token = lambda kind: call(action="query", meta="tokens", type=kind)["query"]["tokens"][f"{kind}token"]
    for password, result in ((WRONG, "FAIL"), (PASSWORD, "PASS")):
        login = call(action="clientlogin", username=USER, password=password, logintoken=token("login"), loginreturnurl=site)
        assert login["clientlogin"]["status"] == result, login
    edit = token("csrf")
    for number in range(40):
        answer = call(action="edit", title=f"Bot {number}", text=f"Page {number} of {site}", token=edit)
        assert answer["edit"]["result"] == "Success", answer
    found = call(action="query", list="allpages", apprefix="Bot ", aplimit="100")["query"]["allpages"]
    assert len(found) == 40, found


APPLICATION = Application(
    "mediawiki",
    "MediaWiki",
    prepare,
    use,
    apache="Include /etc/apache2/conf-available/mediawiki.conf\n",
    scanners=(
        word_list("/mediawiki/"),
        guesses(f"{INDEX}?title=Special\\:UserLogin", "wpName=^USER^&wpPassword=^PASS^&wploginattempt=Log+in&authAction=login"),
    ),
)
