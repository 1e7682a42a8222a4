//! Durations as `krb5.conf` writes them: `36000`, `10h`, `1d 2h 3m 4s`, `12:30`, `12:30:15`.

use std::time::Duration;

/// The longest that is taken: a century.
const MAX_SECONDS: u64 = 100 * 366 * 86_400;

pub(super) fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let seconds = if text.contains(':') { clock(text)? } else { units(text)? };
    (seconds <= MAX_SECONDS).then(|| Duration::from_secs(seconds))
}

fn clock(text: &str) -> Option<u64> {
    let parts = text.split(':').map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>()?;
    let (hours, minutes, seconds) = match parts.as_slice() {
        [hours, minutes] => (hours, minutes, &0),
        [hours, minutes, seconds] => (hours, minutes, seconds),
        _ => return None,
    };
    if *minutes > 59 || *seconds > 59 {
        return None;
    }
    hours.checked_mul(3600)?.checked_add(minutes * 60 + seconds)
}

fn units(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        let after = after.trim_start();
        let (unit, after) = match after.chars().next() {
            None => (1, after),
            Some(letter @ ('d' | 'h' | 'm' | 's')) => {
                let unit = match letter {
                    'd' => 86_400,
                    'h' => 3600,
                    'm' => 60,
                    _ => 1,
                };
                (unit, after.get(1..)?)
            }
            Some(_) => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = after.trim_start();
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, seconds) in [
            ("36000", 36_000),
            ("10h", 36_000),
            ("1d 2h 3m 4s", 93_784),
            ("1d2h", 93_600),
            ("7 d", 604_800),
            ("12:30", 45_000),
            ("12:30:15", 45_015),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in
            ["", "h", "10x", "1:60", "1:2:3:4", "-5", "99999999999999999999", "999999999999d", "10hours"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
