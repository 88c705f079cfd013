//! Events: what a client did, and on which service. They borrow from the line that reported them.

pub mod behaviour;
pub mod exim_kind;
pub mod headers;
pub mod path;
pub mod percent;

use std::borrow::Cow;

/// A guarded service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Squid: requests.
    Web,
    /// Exim: SMTP connections.
    Mail,
}

impl Service {
    pub const ALL: [Self; 2] = [Self::Web, Self::Mail];

    #[must_use]
    pub fn scope(self) -> Scope {
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

/// The services on which a ban refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Squid only.
    Web,
    /// Exim only.
    Mail,
    /// Both.
    #[default]
    All,
}

impl Scope {
    #[must_use]
    pub fn services(self) -> &'static [Service] {
        match self {
            Self::Web => &[Service::Web],
            Self::Mail => &[Service::Mail],
            Self::All => &Service::ALL,
        }
    }

    /// Whether it has every service of `other`.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self == Self::All || self == other
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

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Web, Self::Mail, Self::All].into_iter().find(|scope| scope.as_str() == name)
    }
}

/// One observation of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// An HTTP request, before it is served.
    Request(Request<'a>),
    /// A response on its way to the client. Its request was judged as an event of its own, so a response never counts as a request.
    Response {
        request: Request<'a>,
        /// The HTTP status code, 100 to 999.
        status: u16,
    },
    /// A query for the address alone. It is answered, and never counted.
    Lookup(Service),
    /// An SMTP connection that Exim has just accepted.
    Connection(Connection),
}

/// An HTTP request. A field that Squid's `external_acl_type` format leaves out is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request<'a> {
    /// The method as sent.
    pub method: &'a [u8],
    /// The URL as sent, with the query string: absolute, or starting with the path.
    pub url: &'a [u8],
    pub user_agent: Header<'a>,
    /// The Sec-Fetch-Site header (W3C Fetch Metadata), which browsers send.
    pub sec_fetch_site: &'a [u8],
    /// The Referer header.
    pub referer: Header<'a>,
    /// Whether the request carried a user's name and password (`Authorization: Basic` or `Digest`); none if the server does not say.
    pub credentials: Option<bool>,
    /// Further headers, where the server hands them over.
    pub headers: headers::Headers<'a>,
}

/// A header's value, either as the client sent it or escaped by Squid's `%#` modifier; or nothing, where the server does not say what the
/// client sent. A header that is missing is known to be empty.
///
/// It is decoded on demand: most User-Agents repeat, and the seen cache recognises the escaped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Header<'a> {
    bytes: &'a [u8],
    is_escaped: bool,
    is_known: bool,
}

impl<'a> Header<'a> {
    /// A value as the client sent it, empty for a missing header.
    #[must_use]
    pub const fn plain(value: &'a [u8]) -> Self {
        Self { bytes: value, is_escaped: false, is_known: true }
    }

    /// A value as Squid escaped it: every special byte, `%` included, as `%` and two hex digits (rfc1738.c).
    #[must_use]
    pub const fn escaped(value: &'a [u8]) -> Self {
        Self { bytes: value, is_escaped: !value.is_empty(), is_known: true }
    }

    /// Whether the server says what the client sent.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.is_known
    }

    /// Whether the header is missing, empty or unknown.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The value as the server wrote it: letters, digits and hyphens are the client's.
    #[must_use]
    pub const fn as_written(&self) -> &'a [u8] {
        self.bytes
    }

    /// The value as the client sent it.
    #[must_use]
    pub fn text(&self) -> Cow<'a, [u8]> {
        if self.is_escaped { percent::decode(self.bytes) } else { Cow::Borrowed(self.bytes) }
    }
}

impl<'a> Request<'a> {
    /// The headers that rules over `header` look at, as far as the server says: all but those that have a key of their own. Names are in lower
    /// case.
    pub fn header_lines(&self) -> impl Iterator<Item = (&'a str, Header<'a>)> + use<'a> {
        let referer = (!self.referer.is_empty()).then_some(("referer", self.referer));
        referer.into_iter().chain(self.headers.iter())
    }

    /// Whether the request names where it comes from, by a Referer or a Sec-Fetch-Site of its own. None if the server does not say.
    ///
    /// Where the server says what the Referer is but not the Sec-Fetch-Site, as in the combined log format, the Referer decides.
    #[must_use]
    pub fn names_its_source(&self) -> Option<bool> {
        if !self.sec_fetch_site.is_empty() || !self.referer.is_empty() {
            return Some(true);
        }
        self.referer.is_known().then_some(false)
    }

    /// Whether a page, of this or another site, may have made the browser send this request. The user is not to blame for it then.
    ///
    /// `none` means that the user typed the address or opened a bookmark (W3C Fetch Metadata). No page can make a browser use CONNECT, TRACE
    /// or TRACK (Fetch standard, "forbidden method"), so a client that sends one of them with this header is no browser.
    #[must_use]
    pub fn was_sent_by_a_page(&self) -> bool {
        let names_a_page = !self.sec_fetch_site.is_empty() && !self.sec_fetch_site.eq_ignore_ascii_case(b"none");
        names_a_page && ![&b"CONNECT"[..], b"TRACE", b"TRACK"].iter().any(|method| self.method.eq_ignore_ascii_case(method))
    }
}

/// An SMTP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection {
    /// The local port, if Exim reported it.
    pub port: Option<u16>,
    /// Number of the client's open connections, including this one; 0 if unknown.
    pub open: u32,
}

impl Connection {
    /// Whether the port is a submission port: 587 (RFC 6409) or 465 (RFC 8314). Its users have accounts and are not counted by rate.
    #[must_use]
    pub fn is_submission(&self) -> bool {
        matches!(self.port, Some(465 | 587))
    }
}
