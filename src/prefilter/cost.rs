//! Estimates what an expression costs Squid: the time to try it, and the requests that it lets through to the helper in vain.
//!
//! A wrong estimate makes Squid ask too often, never too seldom.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::bytes::Regex;

use super::seen::Field;

/// Microseconds that Squid and helper take to ask about a request, which a request that is not asked about saves.
pub(super) const OF_ASKING: f64 = 13.0;

/// Microseconds that a byte of an expression takes for each request: 0.6 for a full expression and a URL of 100 bytes.
const OF_BYTE: f64 = 0.000_35;

/// Bytes of a usual URL behind the scheme, and of a usual User-Agent.
const URL_LENGTH: f64 = 60.0;
const AGENT_LENGTH: f64 = 110.0;

/// Words of ordinary URLs and User-Agents, and the share of requests that hold one of them. What they hold is no mark of an attack.
const ORDINARY: &str = " /index.html /index.php /admin/ /login /images/ /img/ /static/ /assets/ /js/ /css/ /fonts/ /media/ /uploads/ /files/ /api/v1/ \
    /wp-content/plugins/ /wp-content/themes/ /wp-content/uploads/ /wp-includes/ /wp-admin/ /user/ /users/ /account/ /search /page/ /pages/ \
    /tags/ /news/ /blog/ /download/ /public/ /config /content/ /system/ /portal/ /services/ /resources/ /favicon.ico /robots.txt \
    /file/ /src/ /lib/ /include/ /themes/ /modules/ /plugins/ /packages/ /archive/ /logs /log/ /home /data/ /docs/ /help /info /test/ /service/ \
    /services /settings /profile /summary.json /common.js /main.js /bundle.js /app.js /style.css /logo.png /photo-1024x768.jpg /fetch.php /index.php/page /rest.php/v1/ /check /load.php?lang=en \
    &modules=startup &only=scripts /view.php?id=3 /discuss.php?d=12 /index.php?page=2 /default.aspx /setup.exe /package.json /config.xml /errors/ \
    /group/ /mail/ /root /local /default /create /media= /photos /image= /include= /templates/ /tools/ /products/ /category/ /2024/01/ \
    .html .php .css .js .jpg .jpeg .png .svg .gif .webp .xml .json .aspx .asp .jsp .cgi .txt .pdf .zip www. .com/ .org/ .net/ \
    ?id= &id= ?page= &page= ?q= &q= action= =true =false name= file= path= url= &url= type= =post option=com_ \
    mozilla/5.0 (windows nt 10.0; win64; x64) (macintosh; intel mac os x (x11; linux x86_64; rv: (iphone; cpu os like (linux; android k) \
    applewebkit/537.36 (khtml, like gecko) chrome/ .0.0.0 safari/537.36 mobile/15e148 version/ firefox/ gecko/20100101 edg/ opr/ \
    (compatible; googlebot/2.1; +http://www.google.com/bot.html) bingbot crawler spider curl/ python-requests/ go-http-client/ java/ wget/ ";
const ORDINARY_SHARE: f64 = 0.03;
/// All parts of these words that may be looked for.
static ORDINARY_PARTS: LazyLock<HashSet<&'static [u8]>> = LazyLock::new(|| {
    let parts = |word: &'static str| (1..=LONGEST).flat_map(move |length| word.as_bytes().windows(length));
    ORDINARY.split_ascii_whitespace().flat_map(parts).collect()
});
/// Maximum length of a text that is looked for. Longer ones are hardly rarer, and make expressions longer.
pub(super) const LONGEST: usize = 7;

/// How often a byte stands in a URL or a User-Agent, as a share of all bytes. Upper case counts as lower.
fn frequency(byte: u8, field: Field) -> f64 {
    let is_agent = field == Field::Agent;
    match byte {
        b'a' | b'e' | b'i' | b'o' | b's' | b't' | b'n' | b'r' => 0.06,
        b'j' | b'q' | b'x' | b'z' => 0.006,
        b'a'..=b'z' => 0.025,
        b'0'..=b'9' => 0.03,
        b'/' | b'.' => 0.05,
        b'-' => 0.03,
        b' ' | b';' | b'(' | b')' | b',' | b':' | b'+' if is_agent => 0.03,
        b'=' | b'&' | b'?' | b'_' => 0.012,
        b'+' | b',' | b':' | b' ' => 0.003,
        b'(' | b')' | b'@' | b'~' | b'*' | b'!' => 0.000_5,
        _ => 0.000_1,
    }
}

/// How probable it is that at a given place there is one of `bytes`.
pub(super) fn of_set(bytes: impl Iterator<Item = u8>, field: Field) -> f64 {
    bytes.map(|byte| frequency(byte, field)).sum::<f64>().min(1.0)
}

/// Microseconds for each request that an expression costs which matches at a given place with `probability`.
pub(super) fn of_expression(length: usize, probability: f64, field: Field) -> f64 {
    let places = if field == Field::Agent { AGENT_LENGTH } else { URL_LENGTH };
    OF_ASKING * (places * probability).min(1.0) + length_cost(length)
}

/// The same for the ordinary words that the expression matches.
pub(super) fn of_ordinary(expression: &str) -> f64 {
    // An expression that the other engine does not take is no worse for that.
    let Ok(regex) = Regex::new(&format!("(?is){expression}")) else { return 0.0 };
    ORDINARY.split_ascii_whitespace().filter(|word| regex.is_match(word.as_bytes())).map(|_| OF_ASKING * ORDINARY_SHARE).sum()
}

/// Microseconds for each request that a text costs.
pub(super) fn of_text(text: &[u8], field: Field) -> f64 {
    let probability = text.iter().map(|byte| frequency(byte.to_ascii_lowercase(), field)).product();
    let ordinary = if ORDINARY_PARTS.contains(text.trim_ascii()) { OF_ASKING * ORDINARY_SHARE } else { 0.0 };
    // Most texts in a URL begin with a slash, which they share.
    let length = text.len() - usize::from(text.starts_with(b"/"));
    of_expression(length, probability, field) + ordinary
}

#[expect(clippy::cast_precision_loss, reason = "an expression is short")]
fn length_cost(length: usize) -> f64 {
    OF_BYTE * length as f64
}
