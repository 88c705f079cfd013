//! Durations of bans, as configured and as applied, with the meaning of fail2ban's `bantime` and `bantime.*` options.

use serde::Deserialize;

use crate::time::Span;

/// How long a rule bans.
#[derive(Debug, Clone, PartialEq)]
pub struct Bantime {
    /// Duration of a client's first ban; `None` is permanent (`-1`).
    pub initial: Option<Span>,
    /// How the duration grows with each further ban, if it does.
    pub increment: Option<BantimeIncrement>,
}

/// How the duration grows with each ban of the same client: fail2ban's `bantime.increment`.
#[derive(Debug, Clone, PartialEq)]
pub struct BantimeIncrement {
    /// `bantime.factor`: multiplies every ban except the first.
    pub factor: f64,
    /// `bantime.multipliers`: multipliers by number of earlier bans, instead of powers of two. The last one applies to all further bans.
    pub multipliers: Vec<f64>,
    /// `bantime.maxtime`: maximum duration.
    pub maxtime: Option<Span>,
    /// The time without a ban after which earlier bans no longer count.
    pub forget: Span,
}

impl Bantime {
    /// The duration of a ban for a client with `earlier` bans; `None` is permanent.
    ///
    /// Calculated as in fail2ban's `ObserverThread.calcBanTime`: `initial * factor * 2^earlier` (the default formula, with an exponent of at most
    /// 20) or `initial * factor * multipliers[earlier]`, and at most `maxtime`.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "spans are far below 2^53 ms, and the cast saturates"
    )]
    pub fn of(&self, earlier: u32) -> Option<Span> {
        let initial = self.initial?;
        let Some(increment) = &self.increment else { return Some(initial) };
        let index = usize::try_from(earlier).unwrap_or(usize::MAX);
        let multiplier = match increment.multipliers.get(index).or(increment.multipliers.last()) {
            Some(multiplier) => *multiplier,
            None => 2_f64.powi(i32::try_from(earlier.min(20)).unwrap_or(20)),
        };
        let grown =
            if earlier == 0 { initial } else { Span::from_millis((initial.millis() as f64 * multiplier * increment.factor) as u64) };
        Some(increment.maxtime.map_or(grown, |maxtime| grown.min(maxtime)))
    }
}

/// The value of `bantime` in a configuration: a duration, `-1`, or a table of fail2ban's `bantime.*` options.
#[derive(Debug, Clone, PartialEq)]
pub struct BantimeSpec {
    initial: Option<Option<Span>>,
    increment: Option<bool>,
    factor: Option<f64>,
    multipliers: Option<Vec<f64>>,
    maxtime: Option<Span>,
    forget: Option<Span>,
}

impl BantimeSpec {
    /// A duration that does not grow; `None` is permanent.
    #[must_use]
    pub fn fixed(initial: Option<Span>) -> Self {
        Self { initial: Some(initial), increment: None, factor: None, multipliers: None, maxtime: None, forget: None }
    }

    /// Takes each option from `self`, else from `defaults`, else from the built-in defaults.
    pub(super) fn resolve(&self, defaults: &Self) -> Bantime {
        let increment = self.increment.or(defaults.increment).unwrap_or(false).then(|| BantimeIncrement {
            factor: self.factor.or(defaults.factor).unwrap_or(1.0),
            multipliers: self.multipliers.as_ref().or(defaults.multipliers.as_ref()).cloned().unwrap_or_default(),
            maxtime: self.maxtime.or(defaults.maxtime),
            // fail2ban counts the bans in its database, which drops them after `dbpurgeage`, one day by default.
            forget: self.forget.or(defaults.forget).unwrap_or(Span::from_secs(86_400)),
        });
        Bantime { initial: self.initial.or(defaults.initial).unwrap_or(Some(Span::from_secs(3600))), increment }
    }
}

impl<'de> Deserialize<'de> for BantimeSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct BantimeTable {
            initial: Option<Initial>,
            increment: Option<bool>,
            factor: Option<f64>,
            multipliers: Option<Vec<f64>>,
            maxtime: Option<Span>,
            forget: Option<Span>,
        }
        struct Initial(Option<Span>);
        impl<'de> Deserialize<'de> for Initial {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(BantimeVisitor).map(|spec| Self(spec.initial.flatten()))
            }
        }
        struct BantimeVisitor;
        impl<'de> serde::de::Visitor<'de> for BantimeVisitor {
            type Value = BantimeSpec;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration such as \"1h\", -1 forever, or { initial, increment, factor, multipliers, maxtime, forget }")
            }

            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<BantimeSpec, E> {
                self.visit_str(&seconds.to_string())
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<BantimeSpec, E> {
                if text.trim() == "-1" {
                    return Ok(BantimeSpec::fixed(None));
                }
                Span::parse(text).map(|span| BantimeSpec::fixed(Some(span))).map_err(|error| E::custom(format!("{error}, or -1 forever")))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<BantimeSpec, A::Error> {
                let table = BantimeTable::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(BantimeSpec {
                    initial: table.initial.map(|initial| initial.0),
                    increment: table.increment,
                    factor: table.factor,
                    multipliers: table.multipliers,
                    maxtime: table.maxtime,
                    forget: table.forget,
                })
            }
        }
        deserializer.deserialize_any(BantimeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_increment_every_ban_has_the_same_duration() {
        let bantime = Bantime { initial: Some(Span::from_secs(600)), increment: None };
        assert_eq!((bantime.of(0), bantime.of(9)), (Some(Span::from_secs(600)), Some(Span::from_secs(600))));
        assert_eq!(Bantime { initial: None, increment: None }.of(3), None);
    }

    #[test]
    fn bans_double_up_to_maxtime() {
        let increment = BantimeIncrement {
            factor: 1.0,
            multipliers: Vec::new(),
            maxtime: Some(Span::from_secs(5000)),
            forget: Span::from_secs(86_400),
        };
        let bantime = Bantime { initial: Some(Span::from_secs(600)), increment: Some(increment) };
        let seconds: Vec<u64> = (0..5).filter_map(|earlier| bantime.of(earlier)).map(Span::secs).collect();
        assert_eq!(seconds, [600, 1200, 2400, 4800, 5000]);
    }

    #[test]
    fn the_last_multiplier_applies_to_all_further_bans() {
        let increment = BantimeIncrement { factor: 1.0, multipliers: vec![1.0, 5.0, 30.0], maxtime: None, forget: Span::from_secs(1) };
        let bantime = Bantime { initial: Some(Span::from_secs(10)), increment: Some(increment) };
        let seconds: Vec<u64> = (0..5).filter_map(|earlier| bantime.of(earlier)).map(Span::secs).collect();
        assert_eq!(seconds, [10, 50, 300, 300, 300]);
    }

    #[test]
    fn the_factor_multiplies_every_ban_except_the_first() {
        let increment = BantimeIncrement { factor: 1.5, multipliers: Vec::new(), maxtime: None, forget: Span::from_secs(1) };
        let bantime = Bantime { initial: Some(Span::from_secs(100)), increment: Some(increment) };
        assert_eq!([0, 1, 2].map(|earlier| bantime.of(earlier).map(Span::secs)), [Some(100), Some(300), Some(600)]);
    }

    #[test]
    fn a_bantime_is_a_duration_or_minus_one_or_a_table() {
        #[derive(Debug, Deserialize)]
        struct Text {
            bantime: BantimeSpec,
        }
        let parse = |value: &str| toml::from_str(&format!("bantime = {value}")).map(|text: Text| text.bantime);
        let hour = BantimeSpec::fixed(Some(Span::from_secs(3600)));
        for (value, expected) in
            [("'1h'", hour.clone()), ("3600", hour.clone()), ("-1", BantimeSpec::fixed(None)), ("' -1 '", BantimeSpec::fixed(None))]
        {
            assert_eq!(parse(value).unwrap(), expected, "{value}");
        }
        let table = BantimeSpec { increment: Some(true), factor: Some(2.0), ..hour };
        assert_eq!(parse("{ initial = '1h', increment = true, factor = 2 }").unwrap(), table);
        for (value, message) in
            [("true", "expected a duration such as"), ("'-2'", "or -1 forever"), ("{ initial = '1h', grow = 1 }", "unknown field")]
        {
            let error = parse(value).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
