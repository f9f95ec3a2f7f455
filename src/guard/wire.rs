//! What the agent says to the guard over `<run_dir>/guard.sock`: one JSON message each way, SOCK_SEQPACKET.
//!
//! Agent and guard may be of different versions for as long as nobody restarts the other, so a message keeps the form
//! that it had in 0.1.0. The messages have no number of their own: a reply may get more fields, which an older agent
//! ignores; a request gets none, since an older guard refuses what it does not know, and says so. New requests are
//! messages of their own, which an agent must be able to do without. [`Hello::version`] is for people.

use serde::{Deserialize, Serialize};

use crate::sys::process::ExeIdentity;

/// The socket's name in the run directory.
pub const GUARD_SOCKET: &str = "guard.sock";

/// A message of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who are you?
    Hello {},
    /// Mark the mount whose descriptor comes along.
    Mark {
        /// The key of the mount's source: what can hang together is guarded together.
        group: String,
    },
    /// No mount of this group is left: give it up.
    Release {
        /// The group.
        group: String,
    },
    /// These are the executables of Nomad's agent; they are added to those known.
    Nomad(Vec<NomadExe>),
    /// End, and protect nothing from then on.
    Stop {},
}

/// The guard's reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To a hello.
    Hello(Hello),
    /// It is done.
    Done {},
    /// It is not done, and why.
    Refused(String),
}

/// An executable of Nomad's agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NomadExe {
    /// The file, whatever its name.
    pub identity: Option<ExeIdentity>,
    /// A name of the file, for a Nomad that is upgraded while no agent runs.
    pub name: Option<String>,
}

/// What a guard says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its process.
    pub pid: u32,
    /// `<lineage>-<number>`: a guard that took over its predecessor's marks has the same lineage and a higher
    /// number. Another lineage means that every mark is gone: mark everything anew.
    pub generation: String,
    /// The version of the program.
    pub version: String,
    /// The groups that it guards.
    pub groups: Vec<String>,
    /// Whether it took its groups over from a guard that died.
    pub took_over: bool,
    /// What it has decided so far. A guard of an older version does not say it, and an agent of one does not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decisions: Option<Decisions>,
}

/// What a guard has decided since it started; each number only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decisions {
    /// Opens that went on: everybody's but Nomad's, and Nomad's of files.
    pub allowed: u64,
    /// Opens that failed: of directories, by Nomad or by who cannot be identified.
    pub denied: u64,
    /// Questions to which the agent said that the mount is out of the way.
    pub answered_detached: u64,
    /// Questions to which the agent said that the mount is in use.
    pub answered_in_use: u64,
    /// Questions to which the agent said that it knows no such binding.
    pub answered_unknown: u64,
    /// Questions that no agent answered in time.
    pub unanswered: u64,
    /// Denials without a question, since too many waited already.
    pub unasked: u64,
}

impl Hello {
    /// The part of the generation that stays the same for as long as no mark was lost.
    pub fn lineage(&self) -> &str {
        self.generation.split_once('-').map_or(self.generation.as_str(), |(lineage, _)| lineage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            pid: 7,
            generation: "abc-1".into(),
            version: "0.1.0".into(),
            groups: vec!["host-1".into()],
            took_over: true,
            decisions: None,
        }
    }

    #[test]
    fn every_message_has_the_form_of_the_first_version() {
        let nomad = NomadExe { identity: Some(ExeIdentity { device: 1, inode: 2 }), name: Some("nomad".into()) };
        let requests = [
            (Request::Hello {}, r#"{"hello":{}}"#),
            (Request::Mark { group: "host-1".into() }, r#"{"mark":{"group":"host-1"}}"#),
            (Request::Release { group: "host-1".into() }, r#"{"release":{"group":"host-1"}}"#),
            (Request::Nomad(vec![nomad]), r#"{"nomad":[{"identity":{"device":1,"inode":2},"name":"nomad"}]}"#),
            (Request::Stop {}, r#"{"stop":{}}"#),
        ];
        for (request, text) in requests {
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
        let said = r#"{"hello":{"pid":7,"generation":"abc-1","version":"0.1.0","groups":["host-1"],"took_over":true}}"#;
        let replies = [
            (Reply::Hello(hello()), said),
            (Reply::Done {}, r#"{"done":{}}"#),
            (Reply::Refused("why".into()), r#"{"refused":"why"}"#),
        ];
        for (reply, text) in replies {
            assert_eq!(serde_json::to_string(&reply).unwrap(), text);
            assert_eq!(serde_json::from_str::<Reply>(text).unwrap(), reply);
        }
    }

    #[test]
    fn what_a_later_guard_adds_to_its_hello_is_no_obstacle() {
        let text = r#"{"hello":{"pid":7,"generation":"abc-1","version":"0.1.0","groups":["host-1"],"took_over":true,"later":1}}"#;
        assert_eq!(serde_json::from_str::<Reply>(text).unwrap(), Reply::Hello(hello()));
    }

    /// What a guard said before it told its decisions, and how an agent of that time reads.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Before {
        pid: u32,
        generation: String,
        version: String,
        groups: Vec<String>,
        took_over: bool,
    }

    #[test]
    fn guards_and_agents_of_different_versions_understand_each_other() {
        let (generation, version) = ("abc-1".to_owned(), "0.1.0".to_owned());
        let before = Before { pid: 1, generation: generation.clone(), version, groups: Vec::new(), took_over: true };
        let old = serde_json::to_string(&before).unwrap();
        let read: Hello = serde_json::from_str(&old).unwrap();
        assert_eq!((read.generation.as_str(), read.decisions), ("abc-1", None));

        let new = Hello { decisions: Some(Decisions { denied: 3, ..Decisions::default() }), ..read };
        let text = serde_json::to_string(&new).unwrap();
        assert_eq!(serde_json::from_str::<Before>(&text).unwrap(), before);
        assert_eq!(serde_json::from_str::<Hello>(&text).unwrap(), new);

        // One that counts more than this version knows, and less.
        let other = text.replace("\"unasked\":0", "\"dreamt\":7");
        assert_ne!(other, text);
        assert_eq!(serde_json::from_str::<Hello>(&other).unwrap(), new);
    }
}
