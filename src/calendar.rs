//! The calendar of JavaScript dates.

/// Returns the year, month and day of a day, counted from 1970-01-01.
///
/// The algorithm begins a year with March, so that a leap day is its last day. An era is the 400
/// years after which the calendar repeats. See [how it is derived].
///
/// [how it is derived]: https://howardhinnant.github.io/date_algorithms.html#civil_from_days
pub(crate) const fn civil(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    const TO_MARCH_0000: i64 = 719_468;

    let days = days + TO_MARCH_0000;
    let day_of_era = days.rem_euclid(ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = year_of_era + days.div_euclid(ERA) * 400;
    if month < 10 {
        return (year, month + 3, day);
    }
    (year + 1, month - 9, day)
}
