"""The applications of tests/long/applications, their users and their attackers: a file for each."""

from . import dokuwiki, mediawiki, phpmyadmin, wordpress
from .application import SERVER, SITE_NAME

APPLICATIONS = [part.APPLICATION for part in (dokuwiki, wordpress, phpmyadmin, mediawiki)]
