#!/bin/sh
# A hook for Strikeout: writes each ban and unban to the journal and mails it.
#
#   install -m 755 conf-examples/hook-mail.sh /usr/local/bin/strikeout-hook
#
#   [hook]
#   command = ["/usr/local/bin/strikeout-hook", "root@localhost"]
#
# Called as `strikeout-hook MAILBOX ban ADDRESS RULE UNTIL` or `strikeout-hook MAILBOX unban ADDRESS`. It hands the mail to this
# machine's own server by SMTP, with curl: the package's unit lets no program change its user, as sendmail does. The unit must allow
# IP: strikeout-network.conf.
mailbox=$1 what=$2 address=$3 rule=${4-} until=${5-}

case $until in
'') text="$what $address" ;;
-1) text="$what $address by $rule forever" ;;
*) text="$what $address by $rule until $(date -d "@$until" '+%F %T')" ;;
esac
logger -t strikeout-hook -- "$text"

curl --silent --show-error --max-time 8 --upload-file - \
    --mail-from "strikeout@localhost" --mail-rcpt "$mailbox" smtp://127.0.0.1 <<END
From: Strikeout <strikeout@localhost>
To: $mailbox
Date: $(date -R)
Subject: $text

$text

strikeout why $address
END
