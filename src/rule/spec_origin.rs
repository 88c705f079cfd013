//! Checks the conditions of a rule on where clients belong.

use std::collections::BTreeSet;

use toml::Spanned;

use super::spec::{OneOrMany, RuleSpec, SpecError};
use crate::geo::{Asn, OriginCondition};

impl RuleSpec {
    /// Checks which clients the rule concerns, by where they belong.
    pub(super) fn check_origin(&self) -> Result<OriginCondition, SpecError> {
        const ASN: &str = "the number of an autonomous system, 1 to 4294967295";
        const COUNTRY: &str = "the two letters of a country, such as \"DE\"";
        let asn = |number: &u32| Asn::new(*number);
        let country = |text: &String| text.parse().ok();
        Ok(OriginCondition {
            asn: values(self.asn.as_ref(), "asn", asn, ASN)?,
            not_asn: values(self.not_asn.as_ref(), "not_asn", asn, ASN)?,
            country: values(self.country.as_ref(), "country", country, COUNTRY)?,
            not_country: values(self.not_country.as_ref(), "not_country", country, COUNTRY)?,
        })
    }

    /// Where the rule says that it needs a database of `[geo]`, and which key says so: of autonomous systems, and of countries.
    pub(crate) fn needs_geo(&self) -> [Option<(usize, &'static str)>; 2] {
        let asn = [start(self.asn.as_ref(), "asn"), start(self.not_asn.as_ref(), "not_asn")];
        let country = [start(self.country.as_ref(), "country"), start(self.not_country.as_ref(), "not_country")];
        [asn.into_iter().flatten().next(), country.into_iter().flatten().next()]
    }
}

fn start<T>(value: Option<&Spanned<T>>, key: &'static str) -> Option<(usize, &'static str)> {
    value.map(|value| (value.span().start, key))
}

fn values<T: std::fmt::Debug + Clone, V: Ord>(
    given: Option<&Spanned<OneOrMany<T>>>,
    key: &str,
    parse: impl Fn(&T) -> Option<V>,
    expected: &str,
) -> Result<BTreeSet<V>, SpecError> {
    let Some(given) = given else { return Ok(BTreeSet::new()) };
    let error = |found: String| SpecError::at(&given.span(), format!("found {key} = {found}, expected {expected}"));
    let values = given.get_ref().clone().into_vec();
    if values.is_empty() {
        return Err(error("[]".into()));
    }
    values.iter().map(|value| parse(value).ok_or_else(|| error(format!("{value:?}")))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::spec::RuleDefaults;
    use crate::rule_id::RuleNames;

    fn check(text: &str) -> Result<OriginCondition, String> {
        let spec: RuleSpec = toml::from_str(&format!("name = 'x'\npath = '/x'\n{text}")).map_err(|error| error.message().to_owned())?;
        spec.check(&RuleNames::default(), &RuleDefaults::default()).map(|rule| rule.origin).map_err(|error| error.message)
    }

    #[test]
    fn a_rule_concerns_everybody_unless_it_says_otherwise() {
        assert!(check("").unwrap().is_empty());
        let condition = check("asn = [64496, 64497]\nnot_country = 'de'").unwrap();
        assert_eq!(condition.asn, [64496, 64497].map(|number| Asn::new(number).unwrap()).into());
        assert_eq!(condition.not_country, ["DE".parse().unwrap()].into());
        assert!(condition.not_asn.is_empty() && condition.country.is_empty());
    }

    #[test]
    fn a_value_that_no_client_can_have_is_an_error() {
        for (text, expected) in [
            ("asn = 0", "found asn = 0, expected the number of an autonomous system"),
            ("not_asn = []", "found not_asn = [], expected the number"),
            ("country = ['D']", "found country = \"D\", expected the two letters of a country"),
            ("not_country = ['DE', 'Germany']", "found not_country = \"Germany\", expected the two letters"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(check("asn = ['AS64496']").is_err());
    }
}
