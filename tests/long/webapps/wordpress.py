"""WordPress: its owner installs it, writes, uploads, comments and administers; a telephone's app writes by XML-RPC, a program reads the REST API."""

import json
import subprocess
import xmlrpc.client

from .application import PASSWORD, SITE_NAME, USER, WRONG, Application, Scanner, ask, database, guesses
from .dokuwiki import PICTURE

CONFIG = """<?php
define('DB_NAME', 'wordpress'); define('DB_USER', 'wordpress'); define('DB_PASSWORD', 'wordpress'); define('DB_HOST', 'localhost');
define('WP_HOME', (($_SERVER['HTTPS'] ?? '') == 'on' ? 'https' : 'http') . '://{site}');
define('WP_SITEURL', WP_HOME);
define('WP_HTTP_BLOCK_EXTERNAL', true);
foreach (['AUTH_KEY', 'SECURE_AUTH_KEY', 'LOGGED_IN_KEY', 'NONCE_KEY', 'AUTH_SALT', 'SECURE_AUTH_SALT', 'LOGGED_IN_SALT', 'NONCE_SALT'] as $key)
    define($key, "$key of the test");
"""
# A blog at the root of its site. Everything that is no file is WordPress's to answer.
APACHE = """DocumentRoot /usr/share/wordpress
DirectoryIndex index.php
Alias /wp-content /var/lib/wordpress/wp-content
<Directory /usr/share/wordpress>
  RewriteEngine On
  RewriteCond %{REQUEST_FILENAME} !-f
  RewriteCond %{REQUEST_FILENAME} !-d
  RewriteRule . /index.php [L]
</Directory>
<Directory /var/lib/wordpress/wp-content>
  Require all granted
</Directory>
"""
# What WPScan looks for, which says in each request that the site's front page links there. Directories of plugins come by the thousand.
FILES = """robots.txt readme.html xmlrpc.php wp-content/debug.log wp-content/mu-plugins/ wp-signup.php wp-cron.php wp-content/uploads/
wp-content/backup-db/ installer-log.txt emergency.php fantastico_fileslist.txt searchreplacedb2.php wp-includes/rss-functions.php""".split()


def prepare():
    database("wordpress")
    with open(f"/etc/wordpress/config-{SITE_NAME}.php", "w", encoding="utf-8") as file:
        file.write(CONFIG.format(site=SITE_NAME))


def use(site):
    from .browser import browser

    with browser(site) as person:
        person.open("/wp-admin/install.php")
        if "Already Installed" not in person.text():
            install(person)
        person.open("/wp-login.php")
        log_in(person, WRONG)
        person.expect("is incorrect")
        log_in(person, PASSWORD)
        person.expect("Dashboard")
        person.open("/wp-admin/options-permalink.php")
        person.press("input[value='/%postname%/']")
        person.click("#submit")
        person.expect(".htaccess")
        title = f"How I read /etc/passwd over {site.split(':')[0]}"
        write(person, title)
        upload(person)
        comment(person, title)
        person.open("/?s=select+*+from+users+where+id%3D1")
        person.expect("nothing matched your search terms")
        person.open("/?s=passwd")
        person.expect(title)
        administer(person, site)
    write_by_telephone(site)
    read_by_program(site)


def install(person):
    if person.driver.find_elements("id", "language-continue"):
        person.click("#language-continue")
    person.fill("#weblog_title", "Example blog")
    person.fill("#user_login", USER)
    person.fill("#pass1", PASSWORD)
    person.fill("#admin_email", "anna@example.test")
    person.click("#submit")
    person.expect("Success!")


def log_in(person, password):
    # The page puts the cursor into the field shortly after it is there, and empties it.
    person.until("the cursor is in the form", lambda: person.driver.switch_to.active_element.get_attribute("id") in ("user_login", "user_pass"))
    person.fill("#user_login", USER)
    person.fill("#user_pass", password)
    person.click("#wp-submit")


def write(person, title):
    person.open("/wp-admin/post-new.php")
    person.find(".editor-post-title__input")
    close = person.driver.find_elements("css selector", ".components-modal__header button")
    if close:
        close[0].click()
    person.click(".editor-post-title__input")
    person.driver.switch_to.active_element.send_keys(title + "\nFirst $(id), then <?php system('id'); ?> and {{7*7}}.")
    person.click(".editor-post-save-draft")
    person.expect("Saved")
    person.click(".editor-post-publish-panel__toggle")
    person.click(".editor-post-publish-button")
    person.expect("is now live")


def upload(person):
    person.open("/wp-admin/media-new.php?browser-uploader")
    person.choose("#async-upload", "picture.png", PICTURE)
    person.click("#html-upload")
    person.expect("Media Library")
    person.open("/wp-admin/media-new.php")
    person.choose("input[type=file][id^=html5_]", "second.png", PICTURE)
    person.expect("Copy URL")


def comment(person, title):
    person.open("/")
    person.follow(title)
    for number in range(3):
        person.fill("#comment", f"Comment {number}: ' or 1=1 -- and ../../etc/passwd")
        person.click("#submit")
        person.expect(f"Comment {number}:")


def administer(person, site):
    for page, text in (
        ("users.php", "anna@example.test"),
        ("plugins.php", "Plugins"),
        ("themes.php", "Themes"),
        ("edit-comments.php", "Comment 2"),
        ("upload.php?mode=list", "picture"),
        ("site-health.php", "Site Health"),
        ("tools.php", "Tools"),
        ("options-general.php", "General Settings"),
        ("profile.php", "Profile"),
        ("export.php", "Export"),
    ):
        person.open(f"/wp-admin/{page}")
        person.expect(text)
    member = "bert" + site.split(":")[0]
    person.open("/wp-admin/user-new.php")
    person.fill("#user_login", member)
    person.fill("#email", f"{member}@example.test")
    person.click("#createusersub")
    person.expect(member)
    person.open("/wp-admin/options-general.php")
    person.fill("#blogdescription", "A blog about /etc/passwd")
    person.click("#submit")
    person.expect("Settings saved")


def write_by_telephone(site):
    blog = xmlrpc.client.ServerProxy(f"{site}/xmlrpc.php")
    number = blog.wp.getUsersBlogs(USER, PASSWORD)[0]["blogid"]
    for call in range(4):
        post = blog.wp.newPost(number, USER, PASSWORD, {"post_title": f"From the telephone {call}", "post_content": "Hello", "post_status": "publish"})
        assert blog.wp.getPost(number, USER, PASSWORD, post)["post_content"] == "Hello"
        blog.wp.getComments(number, USER, PASSWORD, {})


def read_by_program(site):
    for path in ("posts", "posts?search=passwd", "pages", "users", "media", "comments", "categories", "types", "tags?per_page=100"):
        answer = subprocess.run(["curl", "-sf", f"{site}/wp-json/wp/v2/{path}"], check=True, capture_output=True).stdout
        assert isinstance(json.loads(answer), (list, dict))


def wpscan(site):
    plugins = [f"wp-content/plugins/plugin-{number}/" for number in range(300)]
    for path in FILES + plugins:
        ask(f"{site}/{path}", method="HEAD", headers={"Referer": f"{site}/"})


APPLICATION = Application(
    "wordpress",
    "WordPress",
    prepare,
    use,
    apache=APACHE,
    scanners=(
        Scanner("wpscan", "what WPScan asks for, browser's name and Referer", wpscan, 40),
        guesses("/wp-login.php", "log=^USER^&pwd=^PASS^&wp-submit=Log+In"),
    ),
)
