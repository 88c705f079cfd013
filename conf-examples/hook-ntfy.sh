#!/bin/sh
# A hook for Strikeout: sends a group of bans and unbans to a web hook that takes a text, such as ntfy.
#
#   install -m 755 conf-examples/hook-ntfy.sh /usr/local/bin/strikeout-ntfy
#
#   [hook]
#   command = ["/usr/local/bin/strikeout-ntfy", "https://ntfy.example.org/my-topic"]
#   group = "30s"
#
# Called as `strikeout-ntfy URL` with a JSON object for each ban and unban on its standard input, one a line. The unit must allow IP to the
# other side: strikeout-network.conf, with its addresses in IPAddressAllow=. An address of a client is personal data: send it only
# where you may.
url=$1

text=$(sed -n \
    -e 's/^{"event":"ban","client":"\([^"]*\)".*"rule":"\([^"]*\)".*/ban \1 by \2/p' \
    -e 's/^{"event":"unban","client":"\([^"]*\)".*/unban \1/p' \
    -e 's/^{"event":"dropped","number":\([0-9]*\)}$/and \1 more that were not told/p')
count=$(printf '%s\n' "$text" | grep -c '^\(ban\|unban\) ')
host=$(uname -n)

# A message is short: the first twenty lines.
{
    printf '%s\n' "$text" | head -n 20
    [ "$count" -le 20 ] || echo "and $((count - 20)) more"
} | curl --silent --show-error --fail --max-time 8 --header "Title: $count bans and unbans on $host" --data-binary @- "$url"
