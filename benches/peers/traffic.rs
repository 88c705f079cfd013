//! Generates queries as Squid writes them, from clients of a chosen kind. The generator has a fixed seed: every run gets the same queries.

use std::net::Ipv4Addr;

/// Banned clients are in 32.0.0.0/6, tracked clients in 16.0.0.0/6 and strangers in 64.0.0.0/6.
const REGION: u32 = 1 << 26;
const TRACKED: u32 = 16 << 24;
const BANNED: u32 = 32 << 24;
const STRANGERS: u32 = 64 << 24;

/// The banned client with this number.
pub fn banned(index: u32) -> Ipv4Addr {
    scattered(BANNED, index)
}

/// The tracked client with this number.
pub fn tracked(index: u32) -> Ipv4Addr {
    scattered(TRACKED, index)
}

/// The stranger with this number.
pub fn stranger(index: u32) -> Ipv4Addr {
    scattered(STRANGERS, index)
}

/// Scatters numbers below 2^26 over a region without collision: multiplying by an odd factor is a bijection.
fn scattered(region: u32, index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(region | (index.wrapping_mul(0x9e37_79b1) & (REGION - 1)))
}

/// The clients of the queries.
#[derive(Clone, Copy)]
pub enum Clients {
    /// A random client for each query, neither banned nor tracked.
    Strangers,
    /// Tracked clients one after the other, from the first, so that the helper tracks them.
    Each,
    /// Tracked clients of this population, all equally likely.
    Uniform(u32),
    /// Tracked clients of this population, number n with probability proportional to 1/n (Zipf with exponent 1).
    Zipf(u32),
}

/// What follows the client's address in every query with a URL.
const BEFORE_PATH: &str = " GET http://www.example.org";

/// An endless sequence of queries.
pub struct Traffic {
    clients: Clients,
    tails: Vec<Vec<u8>>,
    ids: bool,
    distinct: bool,
    id: u64,
    number: u64,
    random: Random,
}

impl Traffic {
    /// Ordinary requests: many paths of 20 to 100 bytes, 64 browsers.
    pub fn browsing(clients: Clients) -> Self {
        let mut random = Random(7);
        let tails = (0..4096)
            .map(|_| {
                let url = url(&mut random);
                let agent = agent(random.below(64));
                let site = ["-", "none", "same-origin", "same-site"][random.below(4) as usize];
                format!(" GET {url} {agent} {site} -\n").into_bytes()
            })
            .collect();
        Self::with_tails(clients, tails)
    }

    /// Ordinary requests with a Referer field. Of a hundred, `bare` say neither by it nor by Sec-Fetch-Site where they come from.
    pub fn with_referers(clients: Clients, bare: u32) -> Self {
        let mut random = Random(11);
        let tails = (0..4096)
            .map(|_| {
                let url = url(&mut random);
                let agent = agent(random.below(64));
                let source = if random.below(100) < bare { "- -" } else { "same-origin http://www.example.org/news/index.html" };
                format!(" GET {url} {agent} {source} -\n").into_bytes()
            })
            .collect();
        Self::with_tails(clients, tails)
    }

    /// Queries that continue after the address with one of `tails`, newline included.
    pub fn with_tails(clients: Clients, tails: Vec<Vec<u8>>) -> Self {
        Self { clients, tails, ids: true, distinct: false, id: 0, number: 0, random: Random(42) }
    }

    /// Requests whose URL has `length` bytes.
    pub fn of_url_length(clients: Clients, length: usize) -> Self {
        let mut random = Random(9);
        let tails = (0..256)
            .map(|_| {
                let mut url = "http://www.example.org/".to_owned();
                while url.len() < length {
                    url.push_str(WORDS[random.below(WORDS.len() as u32) as usize]);
                    url.push(if random.below(4) == 0 { '/' } else { '-' });
                }
                url.truncate(length);
                format!(" GET {url} {} - -\n", agent(random.below(64))).into_bytes()
            })
            .collect();
        Self::with_tails(clients, tails)
    }

    /// The same queries without channel IDs.
    pub fn without_ids(mut self) -> Self {
        self.ids = false;
        self
    }

    /// The same queries, each with a different URL: its path begins with the number of the query.
    pub fn for_distinct_urls(mut self) -> Self {
        self.distinct = true;
        self
    }

    /// Appends the next query.
    pub fn line(&mut self, out: &mut Vec<u8>) {
        if self.ids {
            self.id += 1;
            decimal(self.id, out);
            out.push(b' ');
        }
        let client = match self.clients {
            Clients::Strangers => scattered(STRANGERS, self.random.below(REGION)),
            Clients::Each => scattered(TRACKED, self.number as u32),
            Clients::Uniform(population) => scattered(TRACKED, self.random.below(population)),
            Clients::Zipf(population) => {
                let number = (f64::from(population)).powf(self.random.unit()) as u32;
                scattered(TRACKED, number.min(population - 1))
            }
        };
        self.number += 1;
        let [a, b, c, d] = client.octets();
        decimal(u64::from(a), out);
        for octet in [b, c, d] {
            out.push(b'.');
            decimal(u64::from(octet), out);
        }
        let tail = self.random.below(self.tails.len() as u32) as usize;
        let (host, rest) = match &self.tails[tail] {
            tail if self.distinct => tail.split_at(BEFORE_PATH.len()),
            tail => (&[][..], &tail[..]),
        };
        out.extend_from_slice(host);
        if self.distinct {
            out.push(b'/');
            decimal(self.number, out);
        }
        out.extend_from_slice(rest);
    }
}

/// `std::fmt` would cost the driver more than the helper's whole work.
fn decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

pub const WORDS: [&str; 24] = [
    "index", "assets", "images", "news", "2026", "products", "list", "view", "user", "static", "css", "main", "article", "category",
    "photo", "thumb", "js", "vendor", "blog", "archive", "about", "team", "download", "help",
];

fn url(random: &mut Random) -> String {
    let mut url = "http://www.example.org".to_owned();
    for _ in 0..=random.below(5) {
        url.push('/');
        url.push_str(WORDS[random.below(WORDS.len() as u32) as usize]);
    }
    match random.below(10) {
        0..4 => url.push_str([".html", ".css", ".js", ".png"][random.below(4) as usize]),
        4 => url.push_str(&format!("/{}%2520{}", WORDS[random.below(24) as usize], WORDS[random.below(24) as usize])),
        5 | 6 => url.push_str(&format!("?id={}&page={}", random.below(100_000), random.below(50))),
        _ => {}
    }
    url
}

/// A User-Agent as `%#{User-Agent}>h` writes it.
fn agent(number: u32) -> String {
    let system = ["X11;%20Linux%20x86_64", "Windows%20NT%2010.0;%20Win64;%20x64", "Macintosh;%20Intel%20Mac%20OS%20X%2010_15_7"]
        [number as usize % 3];
    format!("Mozilla/5.0%20({system})%20AppleWebKit/537.36%20(KHTML,%20like%20Gecko)%20Chrome/{}.0.0.0%20Safari/537.36", 90 + number)
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `limit` - 1.
    pub fn below(&mut self, limit: u32) -> u32 {
        (((self.next() >> 32) * u64::from(limit)) >> 32) as u32
    }

    /// From 0 up to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
