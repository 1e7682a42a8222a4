//! ApiVersions: what the broker speaks.

use milena_protocol::messages::ApiVersionsResponse;
use milena_protocol::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};
use milena_protocol::{ErrorCode, StrBytes, VersionRange};

use super::Broker;

/// API key, lowest and highest version that are announced, lowest version that is served.
///
/// Kafka 4 announces Produce 0 but serves 3 and later only; so does this.
const SERVED: &[(i16, i16, i16, i16)] = &[
    (0, 0, 13, 3),
    (1, 4, 18, 4),
    (2, 1, 10, 1),
    (3, 0, 13, 0),
    (8, 2, 9, 2),
    (9, 1, 9, 1),
    (10, 0, 6, 0),
    (16, 0, 5, 0),
    (18, 0, 4, 0),
    (19, 2, 7, 2),
    (20, 1, 6, 1),
    (21, 0, 2, 0),
    (22, 0, 5, 0),
    (23, 2, 4, 2),
    (24, 0, 5, 0),
    (25, 0, 4, 0),
    (26, 0, 5, 0),
    (27, 1, 1, 1),
    (28, 0, 5, 0),
    (32, 1, 4, 1),
    (37, 0, 3, 0),
    (60, 0, 2, 0),
    (61, 0, 0, 0),
    (65, 0, 0, 0),
    (66, 0, 2, 0),
];

/// `metadata.version` of Kafka 4.1, for clients that print it.
const METADATA_VERSION: i16 = 27;

impl Broker {
    /// API key, lowest and highest version announced, under the configured limits.
    fn announced(&self) -> impl Iterator<Item = (i16, i16, i16)> {
        SERVED.iter().filter_map(|&(key, min, max, _)| {
            let max = self.config.version_limits.get(&key).map_or(max, |limit| max.min(*limit));
            let range = match &self.config.versions {
                // What Kafka 4 dropped is read and written by the protocol crate all the same.
                Some(versions) => versions.range(key)?.intersect(VersionRange { min: 0, max })?,
                None => VersionRange { min, max },
            };
            (range.max >= range.min).then_some((key, range.min, range.max))
        })
    }

    pub(super) fn serves(&self, api_key: i16, version: i16) -> bool {
        let lowest = SERVED.iter().find(|(key, ..)| *key == api_key).map(|&(_, _, _, lowest)| lowest);
        self.announced().any(|(key, min, max)| {
            let lowest = if self.config.versions.is_some() { Some(min) } else { lowest };
            key == api_key && version <= max && lowest.is_some_and(|lowest| version >= lowest)
        })
    }

    pub(super) fn api_versions(&self, version: i16, error: ErrorCode) -> ApiVersionsResponse {
        let told = error.is_ok() || self.config.tells_versions_in_refusal();
        let apis = self.announced().filter(|_| told).map(|(key, min, max)| {
            ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
        });
        let mut response =
            ApiVersionsResponse::default().with_error_code(error.0).with_api_keys(apis.collect());
        if version >= 3 {
            let level = self.config.transaction_version.level();
            // Features whose lowest level is 0 are left out before version 4 (KIP-1022).
            let lowest = if version >= 4 { 0 } else { 1 };
            response.supported_features = vec![
                SupportedFeatureKey::default()
                    .with_name(StrBytes::from_static_str("metadata.version"))
                    .with_min_version(7)
                    .with_max_version(METADATA_VERSION),
            ];
            if lowest == 0 {
                response.supported_features.push(
                    SupportedFeatureKey::default()
                        .with_name(StrBytes::from_static_str("transaction.version"))
                        .with_max_version(2),
                );
            }
            response.finalized_features_epoch = 1;
            response.finalized_features =
                [("metadata.version", METADATA_VERSION), ("transaction.version", level)]
                    .map(|(name, level)| {
                        FinalizedFeatureKey::default()
                            .with_name(StrBytes::from_static_str(name))
                            .with_max_version_level(level)
                            .with_min_version_level(level)
                    })
                    .to_vec();
        }
        response
    }
}
