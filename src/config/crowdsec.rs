//! `[crowdsec]`: the local API whose decisions are taken as bans, and which of them.

use std::path::PathBuf;

use serde::Deserialize;
use ureq::http::Uri;

use super::Bounded;
use crate::geo::GeoKind;
use crate::time::Span;

/// The `[crowdsec]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrowdsecConfig {
    /// URL of the local API, such as `http://127.0.0.1:8080`.
    pub url: LapiUrl,
    /// File whose first line is the key that `cscli bouncers add` printed. Only the daemon reads it.
    pub key_file: PathBuf,
    /// Texts of which a decision's scenario must contain one, such as `ssh-bf`. Without any, every scenario is taken.
    #[serde(default)]
    pub scenarios: Vec<String>,
    /// The kinds of targets that are taken.
    #[serde(default = "scopes")]
    pub scopes: Vec<TargetKind>,
    /// Whether a decision that asks for a captcha is a ban as well: there is nobody here who could show one.
    #[serde(default)]
    pub captcha: bool,
    /// Time between two questions.
    #[serde(default)]
    pub interval: PollInterval,
    /// Maximum number of decisions that are taken, and at most half of `bans` in `[table]`.
    #[serde(default = "decisions")]
    pub decisions: Bounded<10_000_000>,
}

/// What a decision is about, as far as it can be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    Ip,
    Range,
    As,
    Country,
}

impl TargetKind {
    const ALL: [Self; 4] = [Self::Ip, Self::Range, Self::As, Self::Country];

    /// Its name in the configuration, and in CrowdSec's decisions in letters of any case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Range => "range",
            Self::As => "as",
            Self::Country => "country",
        }
    }

    /// The kind that a decision calls `scope`.
    #[must_use]
    pub fn of_scope(scope: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(scope))
    }

    /// The database that says which addresses such a target has, if its decisions do not.
    #[must_use]
    pub fn database(self) -> Option<GeoKind> {
        match self {
            Self::Ip | Self::Range => None,
            Self::As => Some(GeoKind::Asn),
            Self::Country => Some(GeoKind::Country),
        }
    }
}

fn scopes() -> Vec<TargetKind> {
    vec![TargetKind::Ip, TargetKind::Range]
}

fn decisions() -> Bounded<10_000_000> {
    Bounded(500_000)
}

/// The URL of a local API, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LapiUrl(String);

impl LapiUrl {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for LapiUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_usable = |uri: &Uri| {
            uri.scheme_str() == Some("http")
                && uri.query().is_none()
                && uri.authority().is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'))
        };
        if text.parse::<Uri>().ok().filter(is_usable).is_none() {
            return Err(serde::de::Error::custom(format!("found url = {text:?}, expected one such as \"http://127.0.0.1:8080\"")));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

/// Time between two questions, 1 second to 1 hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollInterval(pub Span);

impl Default for PollInterval {
    fn default() -> Self {
        Self(Span::from_secs(10))
    }
}

impl<'de> Deserialize<'de> for PollInterval {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::hook::up_to_an_hour(deserializer, "interval").map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_api_that_can_be_asked_is_taken() {
        let url = |text: &str| toml::from_str::<CrowdsecConfig>(&format!("url = '{text}'\nkey_file = '/k'")).map(|config| config.url.0);
        for (text, expected) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://lapi.example/", "http://lapi.example"),
            ("http://[::1]:8080/crowdsec/", "http://[::1]:8080/crowdsec"),
        ] {
            assert_eq!(url(text).as_deref(), Ok(expected));
        }
        for text in ["127.0.0.1:8080", "/var/run/x.sock", "ftp://a", "http://", "http://key@a", "http://a/?b=c", ""] {
            assert!(url(text).unwrap_err().to_string().contains("expected one such as"), "{text}");
        }
    }
}
