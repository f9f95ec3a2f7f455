//! Which bricks a client has no connection to, by its own word: `.meta` at the root of every mount is served by the client
//! itself (its translator `meta`), and has the state of each translator.

use std::fs;
use std::io::Read;
use std::path::Path;

/// The most that is read of a file there, in bytes.
const MOST: u64 = 4096;
/// How many bricks are told by name.
const NAMED: usize = 3;

/// What to say where some bricks of a volume are not connected. May hang as the mount does.
pub(super) fn find_away(root: &Path, volume: &str) -> Option<String> {
    let graph = root.join(".meta/graphs/active");
    let prefix = format!("{volume}-client-");
    let (mut bricks, mut away) = (0, Vec::new());
    for entry in fs::read_dir(&graph).ok()?.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else { continue };
        if number.parse::<u32>().is_err() {
            continue;
        }
        let said = |file: &str| read(&entry.path().join(file)).unwrap_or_default();
        bricks += 1;
        if said("private").lines().any(|line| line.trim() == "connected = 0") {
            away.push(format!("{}:{}", said("options/remote-host"), said("options/remote-subvolume")));
        }
    }
    away.sort();
    say(bricks, &away)
}

fn say(bricks: usize, away: &[String]) -> Option<String> {
    if away.is_empty() {
        return None;
    }
    let more = if away.len() > NAMED { ", …" } else { "" };
    let names = away.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    Some(format!("{} of {bricks} bricks cannot be reached: {names}{more}", away.len()))
}

fn read(file: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(file).ok()?.take(MOST).read_to_string(&mut text).ok()?;
    Some(text.chars().filter(|c| !c.is_control() || *c == '\n').collect::<String>().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brick_that_is_away_is_named() {
        assert_eq!(say(3, &[]), None);
        assert_eq!(say(3, &["a:/b".into()]).unwrap(), "1 of 3 bricks cannot be reached: a:/b");
        let many: Vec<String> = (0..4).map(|number| format!("a:/{number}")).collect();
        assert_eq!(say(6, &many).unwrap(), "4 of 6 bricks cannot be reached: a:/0, a:/1, a:/2, …");
    }
}
