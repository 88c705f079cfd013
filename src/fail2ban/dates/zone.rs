//! Offsets of time zones by abbreviation. They are fixed: an abbreviation tells summer time from standard time.

/// Offsets in minutes and their abbreviations, as fail2ban reads them (`TZ_STR` in `strptime.py`).
const NAMES: [(i32, &str); 37] = [
    (-720, "Y"),
    (-660, "X NUT SST"),
    (-600, "W CKT HAST HST TAHT TKT"),
    (-540, "V AKST GAMT GIT HADT HNY"),
    (-480, "U AKDT CIST HAY HNP PST PT"),
    (-420, "T HAP HNR MST PDT"),
    (-360, "S CST EAST GALT HAR HNC MDT"),
    (-300, "R CDT COT EASST ECT EST ET HAC HNE PET"),
    (-240, "Q AST BOT CLT COST EDT FKT GYT HAE HNA PYT"),
    (-180, "P ADT ART BRT CLST FKST GFT HAA PMST PYST SRT UYT WGT"),
    (-120, "O BRST FNT PMDT UYST WGST"),
    (-60, "N AZOT CVT EGT"),
    (0, "Z EGST GMT UTC WET WT"),
    (60, "A CET DFT WAT WEDT WEST"),
    (120, "B CAT CEDT CEST EET SAST WAST"),
    (180, "C EAT EEDT EEST IDT MSK"),
    (240, "D AMT AZT GET GST KUYT MSD MUT RET SAMT SCT"),
    (300, "E AMST AQTT AZST HMT MAWT MVT PKT TFT TJT TMT UZT YEKT"),
    (360, "F ALMT BIOT BTT IOT KGT NOVT OMST YEKST"),
    (420, "G CXT DAVT HOVT ICT KRAT NOVST OMSST THA WIB"),
    (480, "H ACT AWST BDT BNT CAST HKT IRKT KRAST MYT PHT SGT ULAT WITA WST"),
    (540, "I AWDT IRKST JST KST PWT TLT WDT WIT YAKT"),
    (600, "K AEST ChST PGT VLAT YAKST YAPT"),
    (660, "L AEDT LHDT MAGT NCT PONT SBT VLAST VUT"),
    (720, "M ANAST ANAT FJT GILT MAGST MHT NZST PETST PETT TVT WFT"),
    (780, "FJST NZDT"),
    (690, "NFT"),
    (630, "ACDT LHST"),
    (570, "ACST"),
    (390, "CCT MMT"),
    (345, "NPT"),
    (330, "SLT"),
    (270, "AFT IRDT"),
    (210, "IRST"),
    (-150, "HAT NDT"),
    (-210, "HNT NST NT"),
    (-270, "HLV VET"),
];

/// The offset in minutes of `UTC`, `CET`, `+0100`, `-01`, `+01:30` or `CET+0100`; none for any other text.
#[must_use]
pub fn offset_minutes(zone: &str) -> Option<i32> {
    let split = zone.find(['+', '-']).unwrap_or(zone.len());
    let (name, offset) = zone.split_at(split);
    let base = if name.is_empty() { 0 } else { offset_of_name(name)? };
    if offset.is_empty() {
        return (!name.is_empty()).then_some(base);
    }
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let digits: String = offset.chars().skip(1).filter(|c| *c != ':').collect();
    if !digits.bytes().all(|b| b.is_ascii_digit()) || !(digits.len() == 2 || digits.len() == 4) || !digits.starts_with(['0', '1']) {
        return None;
    }
    let (hours, minutes) = digits.split_at(2);
    let hours: i32 = hours.parse().ok()?;
    let minutes: i32 = if minutes.is_empty() { 0 } else { minutes.parse().ok()? };
    Some(base + sign * (hours * 60 + minutes))
}

fn offset_of_name(name: &str) -> Option<i32> {
    if matches!(name, "MART" | "MIT") {
        return Some(-570);
    }
    NAMES.iter().find(|(_, names)| names.split(' ').any(|known| known == name)).map(|(minutes, _)| *minutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_a_name_an_offset_or_both() {
        for (zone, expected) in [
            ("UTC", Some(0)),
            ("Z", Some(0)),
            ("CET", Some(60)),
            ("PDT", Some(-420)),
            ("+0530", Some(330)),
            ("-01", Some(-60)),
            ("+01:30", Some(90)),
            ("CET+0100", Some(120)),
            ("MIT", Some(-570)),
            ("pdt", None),
            ("XYZ", None),
            ("", None),
            ("+9", None),
        ] {
            assert_eq!(offset_minutes(zone), expected, "{zone}");
        }
    }
}
