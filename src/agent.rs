//! The agent's start-up and shutdown, in order.

use crate::config::Config;

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {}

/// Runs until SIGTERM or SIGINT; mounts stay.
///
/// # Errors
/// What keeps an agent from starting.
pub fn run(_config: Config) -> Result<(), AgentError> {
    Ok(())
}
