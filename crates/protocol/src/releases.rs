//! What each release of Kafka speaks, for brokers that cannot say it (before 0.10) or are not to be asked.
//!
//! The tables were read from brokers of those releases, except three: 0.8.2 and 0.9 cannot be asked, their tables are what they
//! were seen to answer; that of 0.10.1 was not checked on a broker. Between two releases of the list the
//! older one counts: versions were only added up to 3.9, and what 4.0 dropped are old ones, which nobody chooses who has newer ones in
//! common.

use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::messages::api_versions_response::ApiVersion;

use crate::versions::BrokerVersions;

/// API key, lowest and highest version. APIs between brokers are left out.
type Range = (i16, i16, i16);

/// A release: its first three numbers, and what it speaks.
type Release = ([u16; 3], &'static [Range]);

/// All of them, oldest first.
const RELEASES: &[Release] = &[
    ([0, 8, 2], R0_8_2),
    ([0, 9, 0], R0_9),
    ([0, 10, 0], R0_10_0),
    ([0, 10, 1], R0_10_1),
    ([0, 10, 2], R0_10_2),
    ([0, 11, 0], R0_11),
    ([1, 0, 0], R1_0),
    ([1, 1, 0], R1_1),
    ([2, 0, 0], R2_0),
    ([2, 4, 0], R2_4),
    ([2, 8, 0], R2_8),
    ([3, 9, 0], R3_9),
];

/// 0.8.2: no ApiVersions, no groups.
const R0_8_2: &[Range] = &[(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (8, 0, 1), (9, 0, 1), (10, 0, 0)];

/// 0.9: no ApiVersions.
const R0_9: &[Range] = &[
    (0, 0, 1),
    (1, 0, 1),
    (2, 0, 0),
    (3, 0, 0),
    (8, 0, 2),
    (9, 0, 1),
    (10, 0, 0),
    (11, 0, 0),
    (12, 0, 0),
    (13, 0, 0),
    (14, 0, 0),
    (15, 0, 0),
    (16, 0, 0),
];

/// 0.10.0.
const R0_10_0: &[Range] = &[
    (0, 0, 2),
    (1, 0, 2),
    (2, 0, 0),
    (3, 0, 1),
    (8, 0, 2),
    (9, 0, 1),
    (10, 0, 0),
    (11, 0, 0),
    (12, 0, 0),
    (13, 0, 0),
    (14, 0, 0),
    (15, 0, 0),
    (16, 0, 0),
    (17, 0, 0),
    (18, 0, 0),
];

/// 0.10.1.
const R0_10_1: &[Range] = &[
    (0, 0, 2),
    (1, 0, 3),
    (2, 0, 1),
    (3, 0, 2),
    (8, 0, 2),
    (9, 0, 1),
    (10, 0, 0),
    (11, 0, 1),
    (12, 0, 0),
    (13, 0, 0),
    (14, 0, 0),
    (15, 0, 0),
    (16, 0, 0),
    (17, 0, 0),
    (18, 0, 0),
    (19, 0, 0),
    (20, 0, 0),
];

/// 0.10.2.
const R0_10_2: &[Range] = &[
    (0, 0, 2),
    (1, 0, 3),
    (2, 0, 1),
    (3, 0, 2),
    (8, 0, 2),
    (9, 0, 2),
    (10, 0, 0),
    (11, 0, 1),
    (12, 0, 0),
    (13, 0, 0),
    (14, 0, 0),
    (15, 0, 0),
    (16, 0, 0),
    (17, 0, 0),
    (18, 0, 0),
    (19, 0, 1),
    (20, 0, 0),
];

/// 0.11.
const R0_11: &[Range] = &[
    (0, 0, 3),
    (1, 0, 5),
    (2, 0, 2),
    (3, 0, 4),
    (8, 0, 3),
    (9, 0, 3),
    (10, 0, 1),
    (11, 0, 2),
    (12, 0, 1),
    (13, 0, 1),
    (14, 0, 1),
    (15, 0, 1),
    (16, 0, 1),
    (17, 0, 0),
    (18, 0, 1),
    (19, 0, 2),
    (20, 0, 1),
    (21, 0, 0),
    (22, 0, 0),
    (23, 0, 0),
    (24, 0, 0),
    (25, 0, 0),
    (26, 0, 0),
    (27, 0, 0),
    (28, 0, 0),
    (29, 0, 0),
    (30, 0, 0),
    (31, 0, 0),
    (32, 0, 0),
    (33, 0, 0),
];

/// 1.0.
const R1_0: &[Range] = &[
    (0, 0, 5),
    (1, 0, 6),
    (2, 0, 2),
    (3, 0, 5),
    (8, 0, 3),
    (9, 0, 3),
    (10, 0, 1),
    (11, 0, 2),
    (12, 0, 1),
    (13, 0, 1),
    (14, 0, 1),
    (15, 0, 1),
    (16, 0, 1),
    (17, 0, 1),
    (18, 0, 1),
    (19, 0, 2),
    (20, 0, 1),
    (21, 0, 0),
    (22, 0, 0),
    (23, 0, 0),
    (24, 0, 0),
    (25, 0, 0),
    (26, 0, 0),
    (27, 0, 0),
    (28, 0, 0),
    (29, 0, 0),
    (30, 0, 0),
    (31, 0, 0),
    (32, 0, 0),
    (33, 0, 0),
    (34, 0, 0),
    (35, 0, 0),
    (36, 0, 0),
    (37, 0, 0),
];

/// 1.1.
const R1_1: &[Range] = &[
    (0, 0, 5),
    (1, 0, 7),
    (2, 0, 2),
    (3, 0, 5),
    (8, 0, 3),
    (9, 0, 3),
    (10, 0, 1),
    (11, 0, 2),
    (12, 0, 1),
    (13, 0, 1),
    (14, 0, 1),
    (15, 0, 1),
    (16, 0, 1),
    (17, 0, 1),
    (18, 0, 1),
    (19, 0, 2),
    (20, 0, 1),
    (21, 0, 0),
    (22, 0, 0),
    (23, 0, 0),
    (24, 0, 0),
    (25, 0, 0),
    (26, 0, 0),
    (27, 0, 0),
    (28, 0, 0),
    (29, 0, 0),
    (30, 0, 0),
    (31, 0, 0),
    (32, 0, 1),
    (33, 0, 0),
    (34, 0, 0),
    (35, 0, 0),
    (36, 0, 0),
    (37, 0, 0),
    (38, 0, 0),
    (39, 0, 0),
    (40, 0, 0),
    (41, 0, 0),
    (42, 0, 0),
];

/// 2.0.
const R2_0: &[Range] = &[
    (0, 0, 6),
    (1, 0, 8),
    (2, 0, 3),
    (3, 0, 6),
    (8, 0, 4),
    (9, 0, 4),
    (10, 0, 2),
    (11, 0, 3),
    (12, 0, 2),
    (13, 0, 2),
    (14, 0, 2),
    (15, 0, 2),
    (16, 0, 2),
    (17, 0, 1),
    (18, 0, 2),
    (19, 0, 3),
    (20, 0, 2),
    (21, 0, 1),
    (22, 0, 1),
    (23, 0, 1),
    (24, 0, 1),
    (25, 0, 1),
    (26, 0, 1),
    (27, 0, 0),
    (28, 0, 1),
    (29, 0, 1),
    (30, 0, 1),
    (31, 0, 1),
    (32, 0, 2),
    (33, 0, 1),
    (34, 0, 1),
    (35, 0, 1),
    (36, 0, 0),
    (37, 0, 1),
    (38, 0, 1),
    (39, 0, 1),
    (40, 0, 1),
    (41, 0, 1),
    (42, 0, 1),
];

/// 2.4.
const R2_4: &[Range] = &[
    (0, 0, 8),
    (1, 0, 11),
    (2, 0, 5),
    (3, 0, 9),
    (8, 0, 8),
    (9, 0, 6),
    (10, 0, 3),
    (11, 0, 6),
    (12, 0, 4),
    (13, 0, 4),
    (14, 0, 4),
    (15, 0, 5),
    (16, 0, 3),
    (17, 0, 1),
    (18, 0, 3),
    (19, 0, 5),
    (20, 0, 4),
    (21, 0, 1),
    (22, 0, 2),
    (23, 0, 3),
    (24, 0, 1),
    (25, 0, 1),
    (26, 0, 1),
    (27, 0, 0),
    (28, 0, 2),
    (29, 0, 1),
    (30, 0, 1),
    (31, 0, 1),
    (32, 0, 2),
    (33, 0, 1),
    (34, 0, 1),
    (35, 0, 1),
    (36, 0, 1),
    (37, 0, 1),
    (38, 0, 2),
    (39, 0, 1),
    (40, 0, 1),
    (41, 0, 1),
    (42, 0, 2),
    (43, 0, 2),
    (44, 0, 1),
    (45, 0, 0),
    (46, 0, 0),
    (47, 0, 0),
];

/// 2.8 with ZooKeeper.
const R2_8: &[Range] = &[
    (0, 0, 9),
    (1, 0, 12),
    (2, 0, 6),
    (3, 0, 11),
    (8, 0, 8),
    (9, 0, 7),
    (10, 0, 3),
    (11, 0, 7),
    (12, 0, 4),
    (13, 0, 4),
    (14, 0, 5),
    (15, 0, 5),
    (16, 0, 4),
    (17, 0, 1),
    (18, 0, 3),
    (19, 0, 7),
    (20, 0, 6),
    (21, 0, 2),
    (22, 0, 4),
    (23, 0, 4),
    (24, 0, 3),
    (25, 0, 3),
    (26, 0, 3),
    (27, 0, 1),
    (28, 0, 3),
    (29, 0, 2),
    (30, 0, 2),
    (31, 0, 2),
    (32, 0, 4),
    (33, 0, 2),
    (34, 0, 2),
    (35, 0, 2),
    (36, 0, 2),
    (37, 0, 3),
    (38, 0, 2),
    (39, 0, 2),
    (40, 0, 2),
    (41, 0, 2),
    (42, 0, 2),
    (43, 0, 2),
    (44, 0, 1),
    (45, 0, 0),
    (46, 0, 0),
    (47, 0, 0),
    (48, 0, 1),
    (49, 0, 1),
    (50, 0, 0),
    (51, 0, 0),
    (57, 0, 0),
    (60, 0, 0),
    (61, 0, 0),
];

/// 3.9 with ZooKeeper.
const R3_9: &[Range] = &[
    (0, 0, 11),
    (1, 0, 17),
    (2, 0, 9),
    (3, 0, 12),
    (8, 0, 9),
    (9, 0, 9),
    (10, 0, 6),
    (11, 0, 9),
    (12, 0, 4),
    (13, 0, 5),
    (14, 0, 5),
    (15, 0, 5),
    (16, 0, 5),
    (17, 0, 1),
    (18, 0, 4),
    (19, 0, 7),
    (20, 0, 6),
    (21, 0, 2),
    (22, 0, 5),
    (23, 0, 4),
    (24, 0, 5),
    (25, 0, 4),
    (26, 0, 4),
    (27, 0, 1),
    (28, 0, 4),
    (29, 0, 3),
    (30, 0, 3),
    (31, 0, 3),
    (32, 0, 4),
    (33, 0, 2),
    (34, 0, 2),
    (35, 0, 4),
    (36, 0, 2),
    (37, 0, 3),
    (38, 0, 3),
    (39, 0, 2),
    (40, 0, 2),
    (41, 0, 3),
    (42, 0, 2),
    (43, 0, 2),
    (44, 0, 1),
    (45, 0, 0),
    (46, 0, 0),
    (47, 0, 0),
    (48, 0, 1),
    (49, 0, 1),
    (50, 0, 0),
    (51, 0, 0),
    (57, 0, 1),
    (60, 0, 1),
    (61, 0, 0),
    (65, 0, 0),
    (66, 0, 1),
    (68, 0, 0),
    (69, 0, 0),
];

impl BrokerVersions {
    /// What a broker before ApiVersions (0.9 and older) is taken to speak: the APIs of Kafka 0.9.
    ///
    /// 0.9 leaves an ApiVersions request unanswered, 0.8 closes the connection on it. 0.8 lacks the group APIs
    /// (JoinGroup and the like): see [`assumed_without_groups`](Self::assumed_without_groups).
    #[must_use]
    pub fn assumed_pre_apiversions() -> Self {
        of_ranges(R0_9)
    }

    /// The APIs of Kafka 0.8.2: as [`assumed_pre_apiversions`](Self::assumed_pre_apiversions) without groups.
    #[must_use]
    pub fn assumed_without_groups() -> Self {
        of_ranges(R0_8_2)
    }

    /// What brokers of a release speak: `"0.8.2"`, `"0.9.0.1"`, `"0.10.2"`, `"2.8"`. A release between two known ones counts as the older one, one
    /// after the last as the last (3.9). `None` for what is no release number, and for releases before 0.8.2.
    ///
    /// For 0.8.2 and 0.9 there is no ApiVersions in it: those brokers cannot be asked.
    #[must_use]
    pub fn of_release(release: &str) -> Option<Self> {
        let wanted = number(release)?;
        let (_, ranges) = RELEASES.iter().rev().find(|(known, _)| *known <= wanted)?;
        Some(of_ranges(ranges))
    }
}

fn of_ranges(ranges: &[Range]) -> BrokerVersions {
    let api = |&(key, min, max): &Range| {
        ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
    };
    let response = ApiVersionsResponse::default().with_api_keys(ranges.iter().map(api).collect());
    BrokerVersions::from_response(&response)
}

/// The first three numbers of a release; 0.8 alone is 0.8.2, which is the oldest that is spoken here.
fn number(release: &str) -> Option<[u16; 3]> {
    let mut parts = release.split('.').map(|part| part.parse::<u16>().ok());
    let (major, minor) = (parts.next()??, parts.next()??);
    let third = parts.next();
    if parts.any(|part| part.is_none()) || matches!(third, Some(None)) {
        return None;
    }
    Some(match (major, minor, third.flatten()) {
        (0, 8, None) => [0, 8, 2],
        (0, _, third) => [0, minor, third.unwrap_or(0)],
        // Later releases have three numbers, of which the last changes no versions.
        (_, _, _) => [major, minor, 0],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{FetchRequest, MetadataRequest, ProduceRequest};

    #[test]
    fn a_release_is_found_by_its_number_however_long() {
        let max = |release: &str, key| {
            BrokerVersions::of_release(release)
                .and_then(|versions| versions.range(key))
                .map(|range| range.max)
        };
        assert_eq!((max("0.8", 8), max("0.8.2", 8), max("0.8.2.2", 8)), (Some(1), Some(1), Some(1)));
        assert_eq!((max("0.9.0.1", 0), max("0.9", 18), max("0.8.2", 11)), (Some(1), None, None));
        assert_eq!((max("0.10.0", 19), max("0.10.1.1", 19), max("0.10.2.2", 19)), (None, Some(0), Some(1)));
        assert_eq!((max("0.11.0.3", 22), max("2.3.1", 1), max("2.4", 1)), (Some(0), Some(8), Some(11)));
        assert_eq!((max("4.1.0", 1), max("10.0", 1)), (Some(17), Some(17)));
        for wrong in ["", "0", "0.8.1", "0.7.2", "new", "2.x", "2.8.z", "2.8.0.z", "-1.0", "2..1"] {
            assert_eq!(BrokerVersions::of_release(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn releases_ascend_and_none_lost_a_version() {
        for pair in RELEASES.windows(2) {
            let ((old, before), (new, after)) = (pair[0], pair[1]);
            assert!(old < new);
            for (key, min, max) in before {
                let same = after.iter().find(|(other, ..)| other == key);
                let &(_, new_min, new_max) = same.unwrap_or_else(|| panic!("{new:?} lacks {key}"));
                assert!(new_min <= *min && new_max >= *max, "{new:?}: {key}");
            }
        }
    }

    #[test]
    fn every_release_can_be_spoken_to() {
        for ([major, minor, patch], _) in RELEASES {
            let release = format!("{major}.{minor}.{patch}");
            let versions = BrokerVersions::of_release(&release).unwrap();
            versions.negotiate::<ProduceRequest>().unwrap();
            versions.negotiate::<FetchRequest>().unwrap();
            versions.negotiate::<MetadataRequest>().unwrap();
        }
    }

    #[test]
    fn what_is_assumed_of_old_brokers_is_what_they_are() {
        assert_eq!(BrokerVersions::of_release("0.8.2"), Some(BrokerVersions::assumed_without_groups()));
        assert_eq!(BrokerVersions::of_release("0.9.0"), Some(BrokerVersions::assumed_pre_apiversions()));
        let highest = |versions: BrokerVersions| {
            versions.iter().map(|(key, range)| (key, range.max)).collect::<Vec<_>>()
        };
        let without_groups = [(0, 0), (1, 0), (2, 0), (3, 0), (8, 1), (9, 1), (10, 0)];
        assert_eq!(highest(BrokerVersions::assumed_without_groups()), without_groups);
        let with_groups = [(0, 1), (1, 1), (2, 0), (3, 0), (8, 2), (9, 1), (10, 0)];
        let groups = (11..=16).map(|key| (key, 0));
        let expected: Vec<_> = with_groups.into_iter().chain(groups).collect();
        assert_eq!(highest(BrokerVersions::assumed_pre_apiversions()), expected);
    }
}
