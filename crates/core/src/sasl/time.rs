//! Wall-clock times as text, without a time zone database.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Year, month, day, hour, minute, second in UTC; times before 1970 are 1970.
fn civil(time: SystemTime) -> (u64, u64, u64, u64, u64, u64) {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years (the proleptic Gregorian calendar).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day, rest / 3600, rest / 60 % 60, rest % 60)
}

/// `2026-11-27T09:30:00Z`.
pub(super) fn readable(time: SystemTime) -> String {
    let (year, month, day, hour, minute, second) = civil(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `20261127T093000Z`.
pub(super) fn compact(time: SystemTime) -> String {
    readable(time).replace(['-', ':'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(readable(at(0)), "1970-01-01T00:00:00Z");
        assert_eq!(readable(at(951_827_696)), "2000-02-29T12:34:56Z");
        assert_eq!(readable(at(1_709_251_199)), "2024-02-29T23:59:59Z");
        assert_eq!(readable(at(4_102_444_800)), "2100-01-01T00:00:00Z");
        assert_eq!(compact(at(1_369_353_600)), "20130524T000000Z");
    }
}
