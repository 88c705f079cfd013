#!/bin/sh
# A hook for Strikeout: tells the journal and a mailbox of each ban and unban.
#
#   install -m 755 conf-examples/hook-mail.sh /usr/local/bin/strikeout-hook
#
#   [hook]
#   command = ["/usr/local/bin/strikeout-hook", "root@localhost"]
#
# Called as `strikeout-hook MAILBOX ban ADDRESS RULE UNTIL` or `strikeout-hook MAILBOX unban ADDRESS`. The mail goes by SMTP to this
# machine's own server, and needs curl: in the package's unit no program may become another user, as sendmail does.
# The unit must be allowed IP: strikeout-network.conf.
mailbox=$1 what=$2 address=$3 rule=${4-} until=${5-}

case $until in
'') told="$what $address" ;;
-1) told="$what $address by $rule for ever" ;;
*) told="$what $address by $rule until $(date -d "@$until" '+%F %T')" ;;
esac
logger -t strikeout-hook -- "$told"

curl --silent --show-error --max-time 8 --upload-file - \
    --mail-from "strikeout@localhost" --mail-rcpt "$mailbox" smtp://127.0.0.1 <<END
From: Strikeout <strikeout@localhost>
To: $mailbox
Date: $(date -R)
Subject: $told

$told

strikeout why $address
END
