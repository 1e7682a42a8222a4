//! Points in time as Kerberos counts them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::der::{self, Reader, tag};
use super::error::{KerberosError, Result};

/// A point in time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    micros: i64,
}

const MICROS: i64 = 1_000_000;

/// 9999-12-31T23:59:59Z, the last second that a GeneralizedTime can say.
const LAST_SECOND: i64 = 253_402_300_799;

impl Timestamp {
    /// From the wall clock. A clock before 1970 counts as 1970.
    #[must_use]
    pub fn from_system(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { micros: i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX) }
    }

    /// From seconds since 1970 and microseconds.
    #[cfg(test)]
    pub(crate) const fn at(seconds: i64, micros: i64) -> Self {
        Self { micros: seconds * MICROS + micros }
    }

    /// From whole seconds since 1970.
    #[must_use]
    pub fn from_seconds(seconds: i64) -> Self {
        Self { micros: seconds.saturating_mul(MICROS) }
    }

    /// Whole seconds since 1970, rounded down.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.micros.div_euclid(MICROS)
    }

    /// The microseconds within the second.
    #[must_use]
    pub fn subsec_micros(self) -> i64 {
        self.micros.rem_euclid(MICROS)
    }

    /// This point moved by a number of seconds.
    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self { micros: self.micros.saturating_add(seconds.saturating_mul(MICROS)) }
    }

    /// This point moved by a number of microseconds.
    #[must_use]
    pub fn plus_micros(self, micros: i64) -> Self {
        Self { micros: self.micros.saturating_add(micros) }
    }

    /// How much later this is than `earlier`; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.micros.saturating_sub(earlier.micros);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// A KerberosTime: a GeneralizedTime of whole seconds, in UTC (RFC 4120, 5.2.3).
    pub(crate) fn to_der(self) -> Zeroizing<Vec<u8>> {
        let seconds = self.seconds().clamp(0, LAST_SECOND);
        let (year, month, day) = civil(seconds.div_euclid(86_400));
        let rest = seconds.rem_euclid(86_400);
        let text =
            format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60);
        der::element(tag::GENERALIZED_TIME, &[text.as_bytes()])
    }

    pub(crate) fn from_der(reader: &mut Reader<'_>) -> Result<Self> {
        let wrong = || KerberosError::peer("a Kerberos message has a time that is none");
        let bytes = reader.read(tag::GENERALIZED_TIME)?;
        let [digits @ .., b'Z'] = bytes else { return Err(wrong()) };
        if digits.len() != 14 || !digits.iter().all(u8::is_ascii_digit) {
            return Err(wrong());
        }
        let mut rest = digits;
        let mut number = |length: usize| -> Result<i64> {
            let (head, tail) = rest.split_at_checked(length).ok_or_else(wrong)?;
            rest = tail;
            Ok(head.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
        };
        let (year, month, day) = (number(4)?, number(2)?, number(2)?);
        let (hour, minute, second) = (number(2)?, number(2)?, number(2)?);
        let sane =
            (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
        if !sane {
            return Err(wrong());
        }
        Ok(Self::from_seconds(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.seconds().clamp(0, LAST_SECOND).div_euclid(86_400));
        let rest = self.seconds().rem_euclid(86_400);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
    }
}

/// The days from 1970-01-01 to a date of the proleptic Gregorian calendar. Years begin in March here, so that the day
/// which leap years add is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a day counted from 1970-01-01: year, month, day.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, date)
}

/// An amount of seconds as a person says it: "5 h 3 min", "12 s".
pub(crate) fn spell(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min {} s", seconds / 60, seconds % 60),
        7200..=172_799 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (LAST_SECOND, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Timestamp::from_seconds(seconds).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "Z",
            "20240229123456",
            "20241329123456Z",
            "2024022912345zZ",
            "20240229243456Z",
            "20240229123456.5Z",
        ] {
            let bytes = der::element(tag::GENERALIZED_TIME, &[text.as_bytes()]);
            assert!(Timestamp::from_der(&mut Reader::new(&bytes)).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_second_comes_back(seconds in 0..=LAST_SECOND) {
            let time = Timestamp::from_seconds(seconds);
            let bytes = time.to_der();
            prop_assert_eq!(Timestamp::from_der(&mut Reader::new(&bytes)).unwrap(), time);
        }
    }
}
