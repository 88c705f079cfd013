# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_strikeout_global_optspecs
    string join \n h/help V/version
end

function __fish_strikeout_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_strikeout_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_strikeout_using_subcommand
    set -l cmd (__fish_strikeout_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c strikeout -n "__fish_strikeout_needs_command" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_needs_command" -s V -l version -d 'Print version'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "serve" -d 'Run the daemon: hold the table and answer Exim, Squid\'s helpers and operators until SIGTERM. SIGHUP reloads the configuration'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "check" -d 'Check the configuration and its logs. Exit code 2 if the configuration has an error, 1 if a log has a fault'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "doctor" -d 'Look at every link from a client to the verdict on this machine, and name what is broken and the command that mends it. Changes nothing. Exit code 1 if there is a fault'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "status" -d 'Show the daemon\'s status'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "list" -d 'Show the bans'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "why" -d 'Show why an address is refused, or why it is not; of a network also what is banned inside. Exit code 0 if it is served, 3 if it is refused'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "ban" -d 'Ban an address, a network, a system or a country, or everybody in a file'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "unban" -d 'Unban addresses, networks, systems and countries, and forget their earlier bans. Exit code 0 if they are served then, 3 if something still refuses one'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "pause" -d 'Serve everybody for a while: stop refusing at once, on the web and in mail. Counting goes on, and the pause ends by itself'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "resume" -d 'End the pause: refuse banned clients again'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "forget" -d 'Drop every ban that another machine of the fleet published'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "prefilter" -d 'Write the expressions by which Squid knows requests that no rule can match, and need not ask about them'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "reload" -d 'Make the daemon reload its configuration'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "metrics" -d 'Show the daemon\'s metrics in Prometheus\' text format'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "test" -d 'Test a URL or a log line against the rules, or a fail2ban filter against a log. Exit code 0 if something matches, 1 if nothing does'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "replay" -d 'Run the rules over old logs and report what they would have done'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "import" -d 'Translate another program\'s configuration and print the result'
complete -c strikeout -n "__fish_strikeout_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c strikeout -n "__fish_strikeout_using_subcommand serve" -l config -d 'The configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand serve" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand check" -l config -d 'The configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand check" -l rules -d 'Show all rules, not only those that the file names'
complete -c strikeout -n "__fish_strikeout_using_subcommand check" -l no-logs -d 'Do not look at the logs, which may be faulty or on another machine'
complete -c strikeout -n "__fish_strikeout_using_subcommand check" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand doctor" -l config -d 'Read the daemon\'s socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand doctor" -l table -d 'The daemon\'s socket. [default: from the configuration]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand doctor" -l squid -d 'Look at the Squid that runs with this configuration alone. [default: every Squid that runs]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand doctor" -l exim -d 'Look at the Exim that runs with this configuration alone. [default: every Exim that runs]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand doctor" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand status" -l config -d 'Read the daemon\'s socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand status" -l table -d 'The daemon\'s socket. [default: from the configuration]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand status" -l watch -d 'Refresh the view each second, until Ctrl-C'
complete -c strikeout -n "__fish_strikeout_using_subcommand status" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand status" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -l rule -d 'Only bans by this rule; "manual" for those made by hand' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -l network -d 'Only clients and networks in this network, such as 192.0.2.0/24' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -l scope -d 'Only bans that refuse on this service: web, mail, or all for those that refuse everywhere' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -l sort -d 'What to sort by' -r -f -a "until\t'The ban that ends soonest comes first'
client\t'By address, networks among the clients'
rule\t'By the rule\'s name'
since\t'The oldest ban comes first, bans of unknown age last'"
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -l format -d 'Print a form for other programs' -r -f -a "plain\t'An address, a network, a system or a country on each line, as lists are written'
nft\t'Commands for `nft -f -`, which fill the sets of a table of their own'"
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -l config -d 'Read the daemon\'s socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -l table -d 'The daemon\'s socket. [default: from the configuration]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -l evidence -d 'Show the evidence of each ban: the last offence, or the operator\'s reason'
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -l shadow -d 'Show the bans that rules in shadow mode would have made, instead of those in force'
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -l count -d 'Print only the number of bans'
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c strikeout -n "__fish_strikeout_using_subcommand why" -l config -d 'Read the daemon\'s socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand why" -l table -d 'The daemon\'s socket. [default: from the configuration]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand why" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand why" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand ban" -l from -d 'Ban everybody in this file, - for the standard input: what `strikeout list --json` has printed, or an address or network on each line' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand ban" -l scope -d 'Where the ban refuses: web, mail or all. A network is always banned everywhere' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand ban" -l reason -d 'The reason, shown by `strikeout why`' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand ban" -l origin -d 'For other programs: whose ban this is, such as fail2ban/sshd. `list` and `why` show it, and `unban` takes back bans of this origin only' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand ban" -l since -d 'When the ban began, in seconds since 1970: its duration counts from then' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand ban" -l wait -d 'Wait so long for a daemon that is away, as while it restarts' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand ban" -l config -d 'Read the daemon\'s socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand ban" -l table -d 'The daemon\'s socket. [default: from the configuration]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand ban" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand ban" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -l rule -d 'Unban all clients and networks that this rule banned; "manual" for those banned by hand' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -l scope -d 'Where to unban: web, mail or all' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -l lasting -d 'With --since: how long the ban lasts that is taken back. One that ends later is another, and stays' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -l origin -d 'For other programs: whose ban this is, such as fail2ban/sshd. `list` and `why` show it, and `unban` takes back bans of this origin only' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -l since -d 'When the ban began, in seconds since 1970: its duration counts from then' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -l wait -d 'Wait so long for a daemon that is away, as while it restarts' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -l config -d 'Read the daemon\'s socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -l table -d 'The daemon\'s socket. [default: from the configuration]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -l inside -d 'Also unban all clients and networks inside the named networks'
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -l all -d 'Unban all clients and networks. Those on a deny list stay refused'
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand unban" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand pause" -l config -d 'Read the daemon\'s socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand pause" -l table -d 'The daemon\'s socket. [default: from the configuration]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand pause" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand pause" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand resume" -l config -d 'Read the daemon\'s socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand resume" -l table -d 'The daemon\'s socket. [default: from the configuration]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand resume" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand resume" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand forget" -l config -d 'Read the daemon\'s socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand forget" -l table -d 'The daemon\'s socket. [default: from the configuration]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand forget" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand forget" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand prefilter" -l config -d 'The configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand prefilter" -l output -d 'The directory, which must exist. Squid reads acls.conf, path.regex and agent.regex there' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand prefilter" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand reload" -l config -d 'Read the daemon\'s socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand reload" -l table -d 'The daemon\'s socket. [default: from the configuration]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand reload" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand reload" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand metrics" -l config -d 'Read the daemon\'s socket from this configuration. [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand metrics" -l table -d 'The daemon\'s socket. [default: from the configuration]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand metrics" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand metrics" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand test" -l filter -d 'Test this fail2ban filter against a log, such as /etc/fail2ban/filter.d/sshd.conf' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand test" -s o -l option -d 'An option of the filter, such as mode=aggressive; may be given several times' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand test" -l now -d 'Complete dates without a year or a day as of this moment (seconds since 1970) instead of now' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand test" -l zone -d 'The time zone of times without an offset, such as Europe/Berlin or +05:30 [default: this machine\'s]' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand test" -l config -d 'The configuration whose rules are tested [default: /etc/strikeout/strikeout.toml, if it is there]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand test" -l method -d 'The method of the request, if the text is a URL' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand test" -l user-agent -d 'The User-Agent of the request, "" for none; no rule over it matches if this is not given' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand test" -l header -d 'Another header of the request, such as \'Cookie: a=b\'; may be given several times' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand test" -l json -d 'Print JSON'
complete -c strikeout -n "__fish_strikeout_using_subcommand test" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand replay" -l config -d 'The configuration to try. [default: /etc/strikeout/strikeout.toml, if it exists]' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand replay" -l html -d 'Write the report to FILE as a self-contained HTML page with plots' -r -F
complete -c strikeout -n "__fish_strikeout_using_subcommand replay" -l zone -d 'The time zone of times without an offset in all logs, such as Europe/Berlin or +05:30. [default: that of the [[log]] with this path, of which a rotated log has the name, else this machine\'s; it must be given for a copy that may belong to logs of different zones]' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand replay" -l json -d 'Write the report as JSON to standard output'
complete -c strikeout -n "__fish_strikeout_using_subcommand replay" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand import; and not __fish_seen_subcommand_from fail2ban help" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand import; and not __fish_seen_subcommand_from fail2ban help" -f -a "fail2ban" -d 'Translate fail2ban\'s jails; the configuration is written to standard output'
complete -c strikeout -n "__fish_strikeout_using_subcommand import; and not __fish_seen_subcommand_from fail2ban help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c strikeout -n "__fish_strikeout_using_subcommand import; and __fish_seen_subcommand_from fail2ban" -l jail -d 'Translate only this jail, enabled or not; may be repeated' -r
complete -c strikeout -n "__fish_strikeout_using_subcommand import; and __fish_seen_subcommand_from fail2ban" -l shadow -d 'Put all rules into shadow mode: they count and refuse nobody'
complete -c strikeout -n "__fish_strikeout_using_subcommand import; and __fish_seen_subcommand_from fail2ban" -l bans -d 'Print the bans in fail2ban\'s database instead, as `strikeout ban --from -` takes them'
complete -c strikeout -n "__fish_strikeout_using_subcommand import; and __fish_seen_subcommand_from fail2ban" -s h -l help -d 'Print help'
complete -c strikeout -n "__fish_strikeout_using_subcommand import; and __fish_seen_subcommand_from help" -f -a "fail2ban" -d 'Translate fail2ban\'s jails; the configuration is written to standard output'
complete -c strikeout -n "__fish_strikeout_using_subcommand import; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "serve" -d 'Run the daemon: hold the table and answer Exim, Squid\'s helpers and operators until SIGTERM. SIGHUP reloads the configuration'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "check" -d 'Check the configuration and its logs. Exit code 2 if the configuration has an error, 1 if a log has a fault'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "doctor" -d 'Look at every link from a client to the verdict on this machine, and name what is broken and the command that mends it. Changes nothing. Exit code 1 if there is a fault'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "status" -d 'Show the daemon\'s status'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "list" -d 'Show the bans'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "why" -d 'Show why an address is refused, or why it is not; of a network also what is banned inside. Exit code 0 if it is served, 3 if it is refused'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "ban" -d 'Ban an address, a network, a system or a country, or everybody in a file'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "unban" -d 'Unban addresses, networks, systems and countries, and forget their earlier bans. Exit code 0 if they are served then, 3 if something still refuses one'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "pause" -d 'Serve everybody for a while: stop refusing at once, on the web and in mail. Counting goes on, and the pause ends by itself'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "resume" -d 'End the pause: refuse banned clients again'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "forget" -d 'Drop every ban that another machine of the fleet published'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "prefilter" -d 'Write the expressions by which Squid knows requests that no rule can match, and need not ask about them'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "reload" -d 'Make the daemon reload its configuration'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "metrics" -d 'Show the daemon\'s metrics in Prometheus\' text format'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "test" -d 'Test a URL or a log line against the rules, or a fail2ban filter against a log. Exit code 0 if something matches, 1 if nothing does'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "replay" -d 'Run the rules over old logs and report what they would have done'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "import" -d 'Translate another program\'s configuration and print the result'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and not __fish_seen_subcommand_from serve check doctor status list why ban unban pause resume forget prefilter reload metrics test replay import help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c strikeout -n "__fish_strikeout_using_subcommand help; and __fish_seen_subcommand_from import" -f -a "fail2ban" -d 'Translate fail2ban\'s jails; the configuration is written to standard output'
