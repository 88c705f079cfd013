#!/bin/sh
# A hook for Strikeout: mails a group of bans and unbans in one letter.
#
#   install -m 755 conf-examples/hook-mail-digest.sh /usr/local/bin/strikeout-digest
#
#   [hook]
#   command = ["/usr/local/bin/strikeout-digest", "root@localhost"]
#   group = "30s"
#
# Called as `strikeout-digest MAILBOX` with a JSON object for each ban and unban on its standard input, one a line. It hands the mail to this
# machine's own server by SMTP, with curl: the package's unit lets no program change its user, as sendmail does. The unit must allow
# IP: strikeout-network.conf.
mailbox=$1

# "ban 192.0.2.1 by w00tw00t", "unban 192.0.2.1", "dropped 17": what was not told because too much waited.
text=$(sed -n \
    -e 's/^{"event":"ban","client":"\([^"]*\)".*"rule":"\([^"]*\)".*/ban \1 by \2/p' \
    -e 's/^{"event":"unban","client":"\([^"]*\)".*/unban \1/p' \
    -e 's/^{"event":"dropped","number":\([0-9]*\)}$/and \1 more that were not told/p')
count=$(printf '%s\n' "$text" | grep -c '^\(ban\|unban\) ')
first=$(printf '%s\n' "$text" | grep -m 1 '^\(ban\|unban\) ')

curl --silent --show-error --max-time 8 --upload-file - \
    --mail-from "strikeout@localhost" --mail-rcpt "$mailbox" smtp://127.0.0.1 <<END
From: Strikeout <strikeout@localhost>
To: $mailbox
Date: $(date -R)
Subject: $count bans and unbans: $first

$text

strikeout list --sort since --evidence
END
