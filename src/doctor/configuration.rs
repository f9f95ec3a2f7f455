//! The configuration: what was read, what it warns of, and the one thing in it that only this host can tell.

use crate::check::Check;
use crate::config::Loaded;
use crate::sys::users;

/// Looks at it. One with a mistake is not read at all, and never comes here.
pub(super) fn look(loaded: &Loaded) -> Vec<Check> {
    let Loaded { config, warnings, files } = loaded;
    let read = match files.as_slice() {
        [] => "no file, so the embedded default".to_owned(),
        files => files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", "),
    };
    let detail = format!("{read}: {} backends, {} volumes", config.backends.len(), config.volumes.len());
    let mut checks = vec![Check::ok("files", detail)];
    checks.extend(
        warnings.iter().map(|warning| Check::warning("files", warning.to_string(), "saddlebag config validate")),
    );
    if let Some(group) = &config.status_group {
        checks.push(match users::find_group(group) {
            Some(id) => Check::ok("status_group", format!("{group} ({id})")),
            None => Check::misconfigured(
                "status_group",
                format!("this host has no group {group:?}, and the agent does not start without it"),
                format!("groupadd --system {group}"),
            ),
        });
    }
    checks.into_iter().map(|check| check.of("configuration")).collect()
}
