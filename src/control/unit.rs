//! What is said when the daemon's unit keeps it from the network. The package's unit allows no IP until a drop-in does.

/// The reason. `strikeout doctor` looks for it in what `status` tells.
pub const FORBIDS_IP: &str = "the daemon's unit does not allow it to go there, see strikeout-network.conf";

/// The error of a connection, with the reason if the unit forbids it: `RestrictAddressFamilies=` gives the first of these errors,
/// `IPAddressDeny=` the other.
#[must_use]
pub fn explained(error: String) -> String {
    let is_forbidden = ["(os error 97)", "(os error 1)"].iter().any(|code| error.contains(code));
    if is_forbidden { format!("{error}: {FORBIDS_IP}") } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_the_unit_makes_is_explained_and_no_other() {
        let text = |code| explained(std::io::Error::from_raw_os_error(code).to_string());
        assert_eq!(text(97), format!("Address family not supported by protocol (os error 97): {FORBIDS_IP}"));
        assert!(text(1).ends_with(FORBIDS_IP) && !text(111).contains(FORBIDS_IP) && !text(13).contains(FORBIDS_IP));
    }
}
