//! What is checked of Squid and Exim alike.

use super::facts::{FileFacts, ServerFacts, SocketFacts};
use super::report::Finding;

/// The start of a process is known to a second or two: /proc counts from a boot time in whole seconds.
const UNCERTAINTY: i64 = 2;

/// Whether the server that runs now may open the daemon's socket.
pub fn group(server: &ServerFacts, socket: &SocketFacts, name: &str, unit: &str) -> Option<Finding> {
    let check = format!("{name}-group");
    let (user, group, path) = (&server.user, &socket.group, socket.path.display());
    let access = socket.access.as_ref()?;
    if server.credentials.may_open(access) {
        return Some(Finding::ok(&check, format!("{user}, as which it runs now, may ask on {path}")));
    }
    let restart = format!("systemctl restart {unit}");
    Some(if server.is_user_in_group {
        Finding::fault(
            &check,
            format!("{user} is in the group {group}, but not the process that was started before: it may not ask on {path}"),
            restart,
        )
    } else {
        Finding::fault(
            &check,
            format!("{user}, as which it runs, is not in the group {group}: it may not ask on {path}"),
            format!("adduser {user} {group} && {restart}"),
        )
    })
}

/// Whether the server runs with the configuration that is on disk.
///
/// None if it is not known when it read its configuration.
pub fn is_current(server: &ServerFacts, newest: Option<&FileFacts>, name: &str, command: &str) -> Option<Finding> {
    let (check, newest) = (format!("{name}-reload"), newest?);
    Some(if newest.changed > server.read_config?.saturating_add(UNCERTAINTY) {
        Finding::warning(&check, format!("{} was changed after it was read", newest.path.display()), command)
    } else {
        Finding::ok(&check, "it runs with the configuration that is on disk")
    })
}

/// When a server asked last, in words.
pub fn last_asked(name: &str, seconds_ago: Option<u64>) -> String {
    match seconds_ago {
        Some(ago) => format!("{name} asked last {ago} s ago"),
        None => format!("{name} has not asked since the daemon was started"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Access, Credentials};
    use super::*;

    #[test]
    fn a_process_from_before_its_user_joined_the_group_needs_a_restart_only() {
        let access = [(0, 0, 0o755), (900, 901, 0o750), (900, 901, 0o660)].map(|(user, group, mode)| Access {
            user,
            group,
            mode,
            is_directory: mode != 0o660,
        });
        let socket = SocketFacts { path: "/run/s".into(), access: Some(access.into()), group: "strikeout".into(), is_guessed: false };
        let finding = |groups: &[u32], is_user_in_group| {
            let credentials = Credentials { user: 13, groups: groups.into() };
            let server = ServerFacts { user: "proxy".into(), credentials, is_user_in_group, ..ServerFacts::default() };
            group(&server, &socket, "squid", "squid").unwrap().remedy
        };
        assert_eq!(finding(&[13, 901], true), None);
        assert_eq!(finding(&[13], true).as_deref(), Some("systemctl restart squid"));
        assert_eq!(finding(&[13], false).as_deref(), Some("adduser proxy strikeout && systemctl restart squid"));
    }
}
