//! systemd's units: there, enabled, and in the right order, so that a reboot starts tasks on mounted volumes.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use super::say::Teller;
use crate::backend::program::is_under_systemd;
use crate::check::Check;

const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// From this version on descriptors are kept across a stop and start (`FileDescriptorStorePreserve=`).
const PRESERVES: u32 = 254;
/// What gives a unit a mount namespace of its own (systemd.exec(5)), with the values that do not.
const HIDERS: [&str; 9] = [
    "PrivateMounts",
    "PrivateTmp",
    "PrivateDevices",
    "ProtectSystem",
    "ProtectHome",
    "ProtectKernelTunables",
    "ProtectControlGroups",
    "ReadOnlyPaths",
    "InaccessiblePaths",
];

/// Looks at all of it.
pub(super) fn look(tell: &mut Teller) {
    tell.begin("systemd");
    if !is_under_systemd() {
        let why = "this host has none: start the agent before Nomad, and both by whatever starts services here";
        return tell.found(Check::skipped("systemd", why));
    }
    let version = show(None, &["Version"]).remove("Version").unwrap_or_default();
    tell.found(of_version(&version));
    let agent = unit("saddlebag.service");
    let guard = unit("saddlebag-guard.service");
    for (name, found) in [("saddlebag", &agent), ("saddlebag-guard", &guard)] {
        tell.begin(name);
        tell.found(of_unit(name, found));
    }
    let nomad = unit("nomad.service");
    tell.begin("order");
    tell.found(order(&nomad));
    tell.begin("nomad.service");
    tell.found(hidden(&nomad));
}

type Properties = BTreeMap<String, String>;

fn unit(name: &str) -> Properties {
    let mut wanted = vec!["LoadState", "UnitFileState", "ActiveState", "After", "FileDescriptorStoreMax"];
    wanted.extend(HIDERS);
    show(Some(name), &wanted)
}

/// `systemctl show`, which asks systemd over its own socket. Empty where it does not answer.
fn show(unit: Option<&str>, properties: &[&str]) -> Properties {
    let mut command = Command::new(SYSTEMCTL);
    command.arg("show").args(unit).arg(format!("--property={}", properties.join(",")));
    let output = command.env_clear().stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map(|output| parse(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
}

fn parse(text: &str) -> Properties {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn of_version(text: &str) -> Check {
    const NAME: &str = "systemd";
    let number = text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>();
    match number {
        Ok(number) if number < PRESERVES => Check::warning(
            NAME,
            format!("{text}: the guard's marks are lost when its unit is stopped (not when it is restarted)"),
            "systemctl restart saddlebag-guard   # never stop it and start it; or systemd 254 or newer",
        ),
        Ok(_) => Check::ok(NAME, text),
        Err(_) => Check::unavailable(NAME, "systemctl does not say its version", "systemctl is-system-running"),
    }
}

fn is(unit: &Properties, key: &str, value: &str) -> bool {
    unit.get(key).is_some_and(|found| found == value)
}

fn of_unit(name: &str, unit: &Properties) -> Check {
    let enable = format!("systemctl enable --now {name}");
    if !is(unit, "LoadState", "loaded") {
        let mend = "apt install ./saddlebag_*.deb   # or copy systemd/*.service to /etc/systemd/system";
        return Check::unavailable(name, "its unit is not installed", mend);
    }
    if is(unit, "UnitFileState", "masked") {
        return Check::unavailable(name, "its unit is masked", format!("systemctl unmask {name} && {enable}"));
    }
    if let Some(hider) = hiders(unit).first() {
        let detail = format!("{hider} gives it mounts of its own, which Nomad does not see");
        return Check::misconfigured(name, detail, format!("systemctl revert {name} && systemctl restart {name}"));
    }
    let state = unit.get("ActiveState").map_or("unknown", String::as_str);
    match (is(unit, "UnitFileState", "enabled"), state) {
        (_, state) if state != "active" => Check::unavailable(name, format!("its unit is {state}"), enable),
        (false, _) => Check::warning(name, "it runs, and will not after a reboot: it is not enabled", enable),
        (true, _) => Check::ok(name, "enabled and active"),
    }
}

fn order(nomad: &Properties) -> Check {
    const NAME: &str = "order";
    if !is(nomad, "LoadState", "loaded") {
        return Check::skipped(NAME, "there is no nomad.service: start Nomad after saddlebag.service");
    }
    let after: Vec<&str> = nomad.get("After").map(|after| after.split(' ').collect()).unwrap_or_default();
    let missing: Vec<&str> =
        ["saddlebag.service", "saddlebag-guard.service"].into_iter().filter(|unit| !after.contains(unit)).collect();
    if missing.is_empty() {
        return Check::ok(NAME, "Nomad starts after agent and guard");
    }
    let detail = format!(
        "nomad.service does not start after {}: after a reboot tasks may run on empty directories",
        missing.join(" and ")
    );
    let mend = "install -Dm644 systemd/nomad.service.d/saddlebag.conf /etc/systemd/system/nomad.service.d/saddlebag.conf \
                && systemctl daemon-reload";
    Check::misconfigured(NAME, detail, mend)
}

fn hidden(nomad: &Properties) -> Check {
    const NAME: &str = "nomad.service";
    if !is(nomad, "LoadState", "loaded") {
        return Check::skipped(NAME, "there is none");
    }
    match hiders(nomad).first() {
        Some(hider) => {
            let detail = format!("{hider} gives Nomad mounts of its own: it does not see what the agent mounts");
            let key = hider.split('=').next().unwrap_or_default();
            Check::misconfigured(NAME, detail, format!("systemctl edit nomad   # [Service] {key}=no, and restart it"))
        }
        None => Check::ok(NAME, "has no mounts of its own"),
    }
}

/// The settings that give a unit a mount namespace of its own.
fn hiders(unit: &Properties) -> Vec<String> {
    let hides = |key: &&&str| unit.get(**key).is_some_and(|value| !matches!(value.as_str(), "" | "no" | "false"));
    HIDERS.iter().filter(hides).map(|key| format!("{key}={}", unit.get(*key).map_or("", String::as_str))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Outcome;

    fn properties(text: &str) -> Properties {
        parse(&text.replace(' ', "\n").replace('+', " "))
    }

    #[test]
    fn a_unit_is_well_when_it_is_there_enabled_active_and_hides_nothing() {
        let of = |text: &str| of_unit("saddlebag", &properties(text)).outcome;
        assert_eq!(of("LoadState=not-found"), Outcome::Problem);
        assert_eq!(of("LoadState=loaded UnitFileState=enabled ActiveState=active PrivateMounts=no"), Outcome::Ok);
        assert_eq!(of("LoadState=loaded UnitFileState=disabled ActiveState=active"), Outcome::Warning);
        assert_eq!(of("LoadState=loaded UnitFileState=enabled ActiveState=failed"), Outcome::Problem);
        assert_eq!(
            of("LoadState=loaded UnitFileState=enabled ActiveState=active ProtectSystem=strict"),
            Outcome::Problem
        );
    }

    #[test]
    fn nomad_starts_after_both_and_an_older_systemd_is_warned_of() {
        let of = |text: &str| order(&properties(text)).outcome;
        assert_eq!(of("LoadState=loaded After=basic.target+saddlebag.service+saddlebag-guard.service"), Outcome::Ok);
        assert_eq!(of("LoadState=loaded After=basic.target+saddlebag.service"), Outcome::Problem);
        assert_eq!(of("LoadState=not-found"), Outcome::Skipped);
        assert_eq!(of_version("252.39-1~deb12u1").outcome, Outcome::Warning);
        assert_eq!(of_version("257 (257.9-1~deb13u1)").outcome, Outcome::Ok);
    }
}
