//! DescribeConfigs: the settings a client asks for.

use milena_protocol::messages::describe_configs_request::DescribeConfigsResource;
use milena_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use milena_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use milena_protocol::{ErrorCode, StrBytes};

use super::Broker;
use super::topics::Topic;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Where a value comes from, as Kafka numbers it.
const SET_ON_TOPIC: i8 = 1;
const STATIC_BROKER: i8 = 4;
const DEFAULT: i8 = 5;

/// What a topic has unless it was created with something else.
const TOPIC_DEFAULTS: &[(&str, &str)] = &[
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("message.timestamp.type", "CreateTime"),
    ("min.insync.replicas", "1"),
    ("retention.bytes", "-1"),
    ("retention.ms", "-1"),
];

impl Broker {
    pub(super) fn describe_configs(
        &self,
        version: i16,
        request: &DescribeConfigsRequest,
    ) -> DescribeConfigsResponse {
        let results = request.resources.iter().map(|resource| self.describe_resource(version, resource));
        DescribeConfigsResponse::default().with_results(results.collect())
    }

    fn describe_resource(&self, version: i16, resource: &DescribeConfigsResource) -> DescribeConfigsResult {
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_message(None);
        let values = match resource.resource_type {
            BROKER => self.broker_configs(&resource.resource_name),
            TOPIC => match self.topics.by_name(&resource.resource_name) {
                Some(topic) => Ok(self.topic_configs(topic)),
                None => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            },
            _ => Err(ErrorCode::INVALID_REQUEST),
        };
        let values = match values {
            Ok(values) => values,
            Err(error) => {
                return result
                    .with_error_code(error.0)
                    .with_error_message(Some(StrBytes::from_static_str(error.message())));
            }
        };
        let asked = |name: &str| match &resource.configuration_keys {
            Some(keys) => keys.iter().any(|key| &**key == name),
            None => true,
        };
        let configs = values.into_iter().filter(|(name, ..)| asked(name)).map(|(name, value, source)| {
            DescribeConfigsResourceResult::default()
                .with_name(StrBytes::from_string(name))
                .with_value(Some(StrBytes::from_string(value)))
                .with_read_only(resource.resource_type == BROKER)
                .with_config_source(source)
                .with_config_type(if version >= 3 { 2 } else { 0 })
                .with_documentation(None)
        });
        result.with_configs(configs.collect())
    }

    fn broker_configs(&self, name: &str) -> Result<Vec<(String, String, i8)>, ErrorCode> {
        if name.parse() != Ok(self.config.node_id) {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        let config = &self.config;
        let values = [
            ("auto.create.topics.enable", config.auto_create_topics.to_string()),
            ("default.replication.factor", "1".to_owned()),
            ("message.max.bytes", config.max_message_bytes.to_string()),
            ("node.id", config.node_id.to_string()),
            ("num.partitions", config.default_partitions.to_string()),
            (
                "transaction.abort.timed.out.transaction.cleanup.interval.ms",
                config.transaction_check_interval.as_millis().to_string(),
            ),
            ("transaction.max.timeout.ms", config.max_transaction_timeout.as_millis().to_string()),
        ];
        Ok(values.into_iter().map(|(name, value)| (name.to_owned(), value, STATIC_BROKER)).collect())
    }

    fn topic_configs(&self, topic: &Topic) -> Vec<(String, String, i8)> {
        let limit = self.config.max_message_bytes.to_string();
        let defaults = TOPIC_DEFAULTS.iter().copied().chain([("max.message.bytes", limit.as_str())]);
        let mut values: Vec<(String, String, i8)> = defaults
            .filter(|(name, _)| topic.config(name).is_none())
            .map(|(name, value)| (name.to_owned(), value.to_owned(), DEFAULT))
            .collect();
        let set = topic.configs.iter().map(|(name, value)| (name.clone(), value.clone(), SET_ON_TOPIC));
        values.extend(set);
        values.sort();
        values
    }
}
