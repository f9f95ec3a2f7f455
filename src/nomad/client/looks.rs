//! What only `saddlebag doctor` asks: Nomad's own settings, its drivers, and what a token may do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::{Client, ClientError, Request, checked};
use crate::nomad::error::Right;
use crate::nomad::model::AllocId;

/// No task can be called so: Nomad allows no slash in a task's name (structs.Task.Validate).
const NO_TASK: &str = "saddlebag/doctor";

/// What Nomad's agent says of its configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgentSettings {
    /// Where its client keeps its state, with the file `client-id`.
    pub state_dir: Option<PathBuf>,
    /// Whether ACLs are on.
    pub has_acl: bool,
    /// More allocations than this on the node are collected at once.
    pub gc_max_allocs: Option<u64>,
    /// With more of the allocation directory's disk in use than this, in percent, ended allocations are collected at once.
    pub gc_disk_usage_threshold: Option<f64>,
}

/// How a task driver is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Driver {
    /// Whether what it needs is there.
    pub detected: bool,
    /// Whether it can run tasks now.
    pub healthy: bool,
    /// What it says of that.
    pub health_description: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireNode {
    #[serde(default)]
    drivers: Option<BTreeMap<String, Option<Driver>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireNamespace {
    name: String,
}

impl Client {
    /// Nomad's settings (`GET /v1/agent/self`, needs `agent:read`).
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn agent_settings(&self) -> Result<AgentSettings, ClientError> {
        let request = Request::new("/v1/agent/self", Right::AgentRead);
        let whole: Value = self.read(&request, self.ask(&request).await?).await?;
        Ok(settings_of(&whole["config"]))
    }

    /// The task drivers of a node (`GET /v1/node/:id`, needs `node:read`).
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn drivers(&self, node_id: &str) -> Result<BTreeMap<String, Driver>, ClientError> {
        let request = Request::new(format!("/v1/node/{}", checked(node_id)?), Right::NodeRead);
        let node: WireNode = self.read(&request, self.ask(&request).await?).await?;
        let drivers = node.drivers.unwrap_or_default();
        Ok(drivers.into_iter().map(|(name, driver)| (name, driver.unwrap_or_default())).collect())
    }

    /// The namespaces in which the token may do anything at all (`GET /v1/namespaces`).
    ///
    /// # Errors
    /// Any of [`ClientError`].
    pub async fn namespaces(&self) -> Result<Vec<String>, ClientError> {
        let request = Request::new("/v1/namespaces", Right::ReadJob);
        let found: Option<Vec<WireNamespace>> = self.read(&request, self.ask(&request).await?).await?;
        Ok(found.unwrap_or_default().into_iter().map(|namespace| namespace.name).collect())
    }

    /// Whether the token may restart tasks of an allocation that is there: asks for the restart of a task that no
    /// allocation can have, which Nomad refuses after it has looked at the token (`client_alloc_endpoint.go`). None: it
    /// could not be found out.
    ///
    /// # Errors
    /// Any of [`ClientError`] but those that answer the question.
    pub async fn may_restart(&self, alloc: &AllocId) -> Result<Option<bool>, ClientError> {
        match self.restart_task(alloc, NO_TASK).await {
            Err(ClientError::Denied { .. } | ClientError::TokenNeeded { .. }) => Ok(Some(false)),
            Err(ClientError::Unavailable { message, .. } | ClientError::Unexpected { message, .. }) => {
                Ok(message.contains(NO_TASK).then_some(true))
            }
            Err(error) => Err(error),
            Ok(()) => Ok(Some(true)),
        }
    }
}

fn settings_of(config: &Value) -> AgentSettings {
    let path = |value: &Value| value.as_str().map(PathBuf::from).filter(|path| path.is_absolute());
    let client = &config["Client"];
    AgentSettings {
        state_dir: path(&client["StateDir"]).or_else(|| Some(path(&config["DataDir"])?.join("client"))),
        has_acl: config["ACL"]["Enabled"].as_bool().unwrap_or(false),
        gc_max_allocs: client["GCMaxAllocs"].as_u64(),
        gc_disk_usage_threshold: client["GCDiskUsageThreshold"].as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nomads_settings_are_read_and_what_is_missing_is_none() {
        let config = serde_json::json!({
            "DataDir": "/opt/nomad", "ACL": { "Enabled": true },
            "Client": { "StateDir": "", "GCMaxAllocs": 50, "GCDiskUsageThreshold": 80 }
        });
        let settings = settings_of(&config);
        assert_eq!(settings.state_dir, Some(PathBuf::from("/opt/nomad/client")));
        assert!(settings.has_acl);
        assert_eq!((settings.gc_max_allocs, settings.gc_disk_usage_threshold), (Some(50), Some(80.0)));
        assert_eq!(settings_of(&Value::Null), AgentSettings::default());
    }
}
