//! From when to when a certificate is valid: all that its owner has to be told about it, so there is no
//! reader of certificates here but for the way to that place (RFC 5280 §4.1).

use std::time::Duration;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// First and last moment, since the Unix epoch.
pub(super) fn of(certificate: &[u8]) -> Option<(Duration, Duration)> {
    let mut certificate = of_kind(&mut { certificate }, SEQUENCE)?;
    let mut fields = of_kind(&mut certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        of_kind(&mut fields, VERSION)?;
    }
    of_kind(&mut fields, INTEGER)?;
    let _signature = of_kind(&mut fields, SEQUENCE)?;
    let _issuer = of_kind(&mut fields, SEQUENCE)?;
    let mut validity = of_kind(&mut fields, SEQUENCE)?;
    Some((time(element(&mut validity)?)?, time(element(&mut validity)?)?))
}

/// The contents of the next element, if it is of that kind.
fn of_kind<'a>(input: &mut &'a [u8], kind: u8) -> Option<&'a [u8]> {
    element(input).filter(|(tag, _)| *tag == kind).map(|(_, contents)| contents)
}

/// Takes the next element: its tag and its contents.
fn element<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut len = usize::from(first);
    if first & 0x80 != 0 {
        let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 3 {
            return None;
        }
        len = digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit));
        rest = after;
    }
    let (contents, rest) = rest.split_at_checked(len)?;
    *input = rest;
    Some((tag, contents))
}

/// `YYMMDDHHMMSSZ` until 2049, then `YYYYMMDDHHMMSSZ`.
fn time((kind, text): (u8, &[u8])) -> Option<Duration> {
    let digits = text.strip_suffix(b"Z")?;
    let (year, rest) = match kind {
        UTC_TIME => {
            let (year, rest) = number(digits, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => number(digits, 4)?,
        _ => return None,
    };
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = number(rest, 2)?;
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day) && rest.is_empty();
    if !fits || hour > 23 || minute > 59 || second > 59 || year < 1970 {
        return None;
    }
    // Years that begin in March have their odd day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(DAYS_TO_1970)?;
    Some(Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

/// Days from 1 March of the year 0 to 1 January 1970.
const DAYS_TO_1970: u64 = 719_468;

fn number(text: &[u8], len: usize) -> Option<(u64, &[u8])> {
    let (digits, rest) = text.split_at_checked(len)?;
    let mut value = 0;
    for digit in digits {
        value = value * 10 + u64::from(digit.checked_sub(b'0').filter(|d| *d < 10)?);
    }
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::edge::identity::Identity;

    #[test]
    fn times_are_those_that_openssl_tells() {
        let ec = Identity::from_pem(
            include_bytes!("testdata/ec.pem"),
            include_bytes!("testdata/ec.key"),
        );
        let (first, last) = ec.expect("an identity").validity().expect("times");
        assert_eq!((first.as_secs(), last.as_secs()), (1_795_656_604, 4_949_256_604));
    }

    #[test]
    fn days_are_counted_as_the_calendar_has_them() {
        let secs = |kind, text: &str| Some(time((kind, text.as_bytes()))?.as_secs());
        assert_eq!(secs(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(secs(UTC_TIME, "000229235959Z"), Some(951_868_799));
        assert_eq!(secs(UTC_TIME, "000301000000Z"), Some(951_868_800));
        assert_eq!(secs(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(secs(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(secs(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for odd in [
            "",
            "Z",
            "700101000000",
            "701301000000Z",
            "700100000000Z",
            "7001010000000Z",
            "70010100000xZ",
        ] {
            assert_eq!(secs(UTC_TIME, odd), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            at in 0usize..600,
            byte: u8,
        ) {
            let _ = of(&bytes);
            let (chain, key) = (include_bytes!("testdata/ec.pem"), include_bytes!("testdata/ec.key"));
            let mut real = Identity::from_pem(chain, key).expect("an identity").certificate().to_vec();
            if let Some(place) = real.get_mut(at) {
                *place = byte;
            }
            let _ = of(&real);
            let _ = of(real.get(..at).unwrap_or_default());
        }
    }
}
