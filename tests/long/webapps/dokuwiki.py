"""DokuWiki: a member writes and uploads, searches, and administers; a program writes by XML-RPC."""

import subprocess
import xmlrpc.client

from .application import PASSWORD, USER, WRONG, Application, guesses, word_list

PAGE = "/dokuwiki/doku.php"
# The smallest picture there is.
PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


def prepare():
    code = "echo password_hash($argv[1], PASSWORD_BCRYPT);"
    hashed = subprocess.run(["php", "-r", code, PASSWORD], check=True, capture_output=True, text=True).stdout
    with open("/var/lib/dokuwiki/acl/users.auth.php", "w", encoding="utf-8") as file:
        file.write(f"{USER}:{hashed}:Anna Example:anna@example.test:admin,user\n")
    with open("/var/lib/dokuwiki/acl/acl.auth.php", "w", encoding="utf-8") as file:
        file.write("* @ALL 1\n* @user 8\n")
    with open("/etc/dokuwiki/local.php", "w", encoding="utf-8") as file:
        file.write("<?php\n$conf['title']='Example wiki';$conf['useacl']=1;$conf['superuser']='@admin';$conf['remote']=1;$conf['remoteuser']='@user';\n")


def use(site):
    from .browser import browser

    with browser(site) as person:
        person.open("/dokuwiki/")
        person.expect("Example wiki")
        person.follow("Log In")
        log_in(person, WRONG)
        person.expect("Sorry, username or password was wrong")
        log_in(person, PASSWORD)
        person.expect("Logged in as: Anna Example")
        for page in ("start", "notes:shell", "notes:sql"):
            write(person, page, f"====== About {page} ======\nRead /etc/passwd with cat, or select * from users where id='1' or 1=1.\n")
        upload(person)
        person.fill("#qsearch__in", "passwd")
        person.click("#dw__search button[type=submit]")
        person.expect("notes:shell")
        for do in ("recent", "index", "revisions", "backlink"):
            person.open(f"{PAGE}?id=notes:shell&do={do}")
            person.expect("Logged in as")
        administer(person, "bert" + site.split(":")[0])
    write_by_program(site)


def log_in(person, password):
    person.fill("#dw__login input[name=u]", USER)
    person.fill("#dw__login input[name=p]", password)
    person.click("#dw__login button[type=submit]")


def write(person, page, text):
    person.open(f"{PAGE}?id={page}&do=edit")
    person.fill("#wiki__text", text)
    person.click("#edbtn__preview")
    person.expect("This is a preview")
    person.click("#edbtn__save")
    person.expect(f"About {page}")
    person.expect("Read /etc/passwd")


def upload(person):
    person.open(f"{PAGE}?id=start&do=media&ns=notes&tab_files=upload")
    person.choose("#mediamanager__uploader input[type=file]", "picture.png", PICTURE)
    person.click("#mediamanager__upload_button")
    person.expect("picture.png")
    person.open("/dokuwiki/lib/exe/fetch.php?media=notes:picture.png")
    person.open(f"{PAGE}?id=start&do=media&ns=notes")
    person.expect("picture.png")


def administer(person, member):
    person.open(f"{PAGE}?id=start&do=admin")
    person.follow("User Manager")
    person.fill("#add_userid", member)
    person.fill("#add_userpass", PASSWORD)
    person.fill("#add_userpass2", PASSWORD)
    person.fill("#add_username", "Bert")
    person.fill("#add_usermail", "bert@example.test")
    person.click("button[name='fn[add]']")
    person.expect("User added successfully")
    for page, text in (("acl", "Access Control List Management"), ("config", "Configuration Manager"), ("extension", "Extension Manager")):
        person.open(f"{PAGE}?id=start&do=admin&page={page}")
        person.expect(text)


def write_by_program(site):
    wiki = xmlrpc.client.ServerProxy(f"{site.replace('://', f'://{USER}:{PASSWORD}@')}/dokuwiki/lib/exe/xmlrpc.php")
    for number in range(25):
        assert wiki.wiki.putPage(f"program:page{number}", f"Page {number}", {"sum": "by program"})
    assert wiki.wiki.getPage("program:page7") == "Page 7"


APPLICATION = Application(
    "dokuwiki",
    "DokuWiki",
    prepare,
    use,
    apache="Include /etc/dokuwiki/apache.conf\n",
    scanners=(
        word_list("/dokuwiki/"),
        guesses(f"{PAGE}?id=start&do=login", "sectok=&id=start&do=login&u=^USER^&p=^PASS^"),
    ),
)
