"""phpMyAdmin: its user makes a database and tables, asks in SQL, searches, imports and exports. Its pages send no Referer over HTTP."""

from .application import PASSWORD, USER, WRONG, Application, Scanner, ask, guesses, sql

STATEMENTS = (
    "CREATE TABLE people (id INT PRIMARY KEY, name VARCHAR(80))",
    "INSERT INTO people VALUES (1, '<script>alert(1)</script>'), (2, '../../etc/passwd')",
    "SELECT * FROM people WHERE id = 1 OR 1 = 1 UNION SELECT 3, version()",
    "SELECT table_name, SLEEP(0) FROM information_schema.tables WHERE table_schema = DATABASE()",
    "UPDATE people SET name = CONCAT(name, CHAR(33)) WHERE id = 2",
    "SELECT name FROM people ORDER BY 1",
)


def prepare():
    sql(f"grant all on *.* to {USER}@localhost identified by '{PASSWORD}' with grant option")


def use(site):
    from .browser import browser

    with browser(site) as person:
        person.open("/phpmyadmin/")
        log_in(person, WRONG)
        person.expect("Access denied for user")
        log_in(person, PASSWORD)
        person.expect("Database server")
        name = "shop" + site.split(":")[0]
        make_database(person, name)
        for statement in STATEMENTS:
            ask_in_sql(person, name, statement)
        person.expect("etc/passwd!")
        browse(person, name)
        for route, text in (
            ("/server/databases", "Databases"),
            ("/server/status", "Network traffic"),
            ("/server/privileges", "User accounts overview"),
            ("/server/variables", "Server variables"),
            (f"/database/structure&db={name}", "people"),
            (f"/database/export&db={name}", "Export method"),
            (f"/database/search&db={name}", "Search in database"),
            (f"/table/search&db={name}&table=people", "Do a"),
            (f"/table/structure&db={name}&table=people", "Indexes"),
            (f"/database/import&db={name}", "File to import"),
        ):
            person.open(f"/phpmyadmin/index.php?route={route}")
            person.expect(text)
        person.choose("#input_import_file", "import.sql", b"INSERT INTO people VALUES (7, 'imported');\n")
        person.press("#buttonGo")
        person.expect("Import has been successfully finished")


def log_in(person, password):
    person.fill("#input_username", USER)
    person.fill("#input_password", password)
    person.click("#input_go")


def make_database(person, name):
    person.open("/phpmyadmin/index.php?route=/server/databases")
    person.fill("#text_create_db", name)
    person.click("#buttonGo")
    person.expect("Create new table")


def ask_in_sql(person, name, statement):
    person.open(f"/phpmyadmin/index.php?route=/database/sql&db={name}")
    person.find("#queryfieldscontainer .CodeMirror")
    person.driver.execute_script("document.querySelector('#queryfieldscontainer .CodeMirror').CodeMirror.setValue(arguments[0])", statement)
    person.press("#button_submit_query")
    person.find("#sqlqueryresultsouter .alert-success, .result_query .alert-success")


def browse(person, name):
    """Clicks through the tables as a person does: each page comes by a script."""
    person.open(f"/phpmyadmin/index.php?route=/database/structure&db={name}")
    for _ in range(6):
        person.follow("Browse")
        person.expect("Showing rows")
        person.follow("Structure")
        person.expect("Indexes")
        person.follow("Search")
        person.expect("Do a")
        person.follow("Browse")
        person.expect("Showing rows")
        person.follow("Structure")
        person.expect("Indexes")


def other_places(site):
    """Looks for phpMyAdmin at the places and under the versions that scanners ask for."""
    names = "phpMyAdmin pma PMA myadmin mysql mysqladmin dbadmin sqlmanager websql phpmyadmin1 phpmyadmin2 phpMyAdmin3 admin/pma mysql/admin db".split()
    names += [f"phpMyAdmin-{major}.{minor}.0" for major in (2, 3, 4, 5) for minor in range(10)]
    for name in names:
        ask(f"{site}/{name}/index.php?lang=en")


APPLICATION = Application(
    "phpmyadmin",
    "phpMyAdmin",
    prepare,
    use,
    apache="Include /etc/phpmyadmin/apache.conf\n",
    scanners=(
        Scanner("places", "its places and versions, browser's name", other_places, 40),
        guesses("/phpmyadmin/index.php?route=/", "pma_username=^USER^&pma_password=^PASS^&server=1&route=/"),
    ),
)
