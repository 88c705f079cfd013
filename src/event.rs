//! Events: what was seen of a client, and where. They borrow from the line that told of them.

use std::borrow::Cow;

use crate::percent;

/// Where a client is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    /// Squid: requests.
    Web,
    /// Exim: SMTP connections.
    Mail,
}

impl Surface {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Web, Self::Mail];

    /// The scope that is this surface alone.
    #[must_use]
    pub fn alone(self) -> Scope {
        match self {
            Self::Web => Scope::Web,
            Self::Mail => Scope::Mail,
        }
    }

    /// The name in configuration and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Mail => "mail",
        }
    }
}

/// Where a rule's bans refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// In Squid.
    Web,
    /// In Exim.
    Mail,
    /// Everywhere.
    #[default]
    All,
}

impl Scope {
    /// The surfaces that belong to it.
    #[must_use]
    pub fn surfaces(self) -> &'static [Surface] {
        match self {
            Self::Web => &[Surface::Web],
            Self::Mail => &[Surface::Mail],
            Self::All => &Surface::ALL,
        }
    }

    /// The name in configuration and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Mail => "mail",
            Self::All => "all",
        }
    }

    /// Reads the name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Web, Self::Mail, Self::All].into_iter().find(|scope| scope.as_str() == name)
    }
}

/// One thing seen of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// An HTTP request, before it is served.
    Request(Request<'a>),
    /// The status of a response that is on its way to the client. Never also a request.
    Response {
        /// The request that it answers.
        request: Request<'a>,
        /// The HTTP status code, 100 to 999.
        status: u16,
    },
    /// The address alone: it asks, it never counts.
    Lookup(Surface),
    /// An SMTP connection that Exim has just accepted.
    Connection(Connection),
}

/// What is known of an HTTP request. Empty where Squid was not asked to send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request<'a> {
    /// The method as sent.
    pub method: &'a [u8],
    /// The URL as sent, query included; absolute, or from its path on.
    pub url: &'a [u8],
    /// The User-Agent header.
    pub user_agent: Header<'a>,
    /// The Sec-Fetch-Site header: present when a browser sent the request.
    pub sec_fetch_site: &'a [u8],
}

/// The value of a header: as the client sent it, or as Squid's `%#` escaped it.
///
/// Most User-Agents come again and again and need not be looked at again, so they are not decoded before somebody asks for the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Header<'a> {
    bytes: &'a [u8],
    is_escaped: bool,
}

impl<'a> Header<'a> {
    /// A value as the client sent it; empty for a header that is missing.
    #[must_use]
    pub const fn plain(value: &'a [u8]) -> Self {
        Self { bytes: value, is_escaped: false }
    }

    /// A value as Squid escaped it: `%` and two hex digits for whatever is not plain, `%` itself included.
    #[must_use]
    pub const fn escaped(value: &'a [u8]) -> Self {
        Self { bytes: value, is_escaped: !value.is_empty() }
    }

    /// Whether there is no value.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The value as the client sent it.
    #[must_use]
    pub fn text(&self) -> Cow<'a, [u8]> {
        if self.is_escaped { percent::decode(self.bytes) } else { Cow::Borrowed(self.bytes) }
    }
}

impl Request<'_> {
    /// Whether a page of this or another site may have sent the browser here: then the person at the browser is no offender.
    #[must_use]
    pub fn was_sent_by_a_page(&self) -> bool {
        !self.sec_fetch_site.is_empty() && !self.sec_fetch_site.eq_ignore_ascii_case(b"none")
    }
}

/// What is known of an SMTP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection {
    /// The port that it came in on, where Exim told.
    pub port: Option<u16>,
    /// How many connections of this client are open, this one included; 0 where that cannot be known.
    pub open: u32,
}

impl Connection {
    /// Whether it came in on a submission port: people with an account, who are not counted by rate.
    #[must_use]
    pub fn is_submission(&self) -> bool {
        matches!(self.port, Some(465 | 587))
    }
}
